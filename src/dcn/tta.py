"""Test-time augmentation (TTA): one set of options for detectors and segmentation models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Scale = float | tuple[int, int]
"""A factor on the test size, or ``(shorter side, largest longer side)`` in pixels."""

LARGEST_FACTOR = 16.0
"""A larger factor is a size in pixels that lacks its partner."""

WINDOW_GRID = 16
"""Windows start at multiples of this: the stride of the models, so that their cells lie as in the whole image."""


@dataclass(frozen=True)
class TTA:
    """How a model looks at an image more than once, and how the results are combined.

    The defaults mean one pass at the test size, with the model's own selection.

    Attributes:
        scales: one pass at each of these, see :data:`Scale`; empty: one pass at the test size.
        flip: every pass is repeated on the horizontally flipped image.
        suppression: detection: ``nms``, or soft-NMS (Bodla et al., 2017) with either decay.
        iou: detection: overlap above which a box suppresses another of its class; ``None``: the model's own.
        sigma: detection: width of the decay of ``soft_nms_gaussian`` (the original FPN uses 0.6).
        box_voting: detection: overlap from which boxes vote in iterative box averaging (Gidaris and Komodakis, 2015);
            ``None``: off.
        class_thresholds: detection: score threshold by class name.
        max_per_image: detection: number of detections kept; ``None``: the model's own.
        window: segmentation: ``(height, width)`` of the windows into which a larger image is cut, in pixels of the
            resized image; memory then does not grow with the image. ``None``: the whole image at once.
        overlap: segmentation: pixels that neighbouring windows share.
    """

    scales: tuple[Scale, ...] = ()
    flip: bool = False
    suppression: Literal["nms", "soft_nms_linear", "soft_nms_gaussian"] = "nms"
    iou: float | None = None
    sigma: float = 0.5
    box_voting: float | None = None
    class_thresholds: dict[str, float] = field(default_factory=dict)
    max_per_image: int | None = None
    window: tuple[int, int] | None = None
    overlap: int = 128

    def __post_init__(self) -> None:
        for scale in self.scales:
            _check_scale(scale)
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip: expected True or False, got {self.flip!r}")
        for name, overlap in (("iou", self.iou), ("box_voting", self.box_voting)):
            if overlap is not None and not 0 <= overlap <= 1:
                raise ValueError(f"{name}: expected an overlap in [0, 1], got {overlap}")
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"sigma: expected a number above 0, got {self.sigma}")
        if self.max_per_image is not None and self.max_per_image < 1:
            raise ValueError(f"max_per_image: expected 1 or more, got {self.max_per_image}")
        for name, threshold in self.class_thresholds.items():
            if not 0 <= threshold <= 1:
                raise ValueError(f"class_thresholds.{name}: expected a score in [0, 1], got {threshold}")
        if self.window is not None and not 0 <= self.overlap <= min(self.window) - WINDOW_GRID:
            raise ValueError(
                f"window: expected sides at least {WINDOW_GRID} pixels longer than overlap={self.overlap}, "
                f"got {list(self.window)}"
            )

    @property
    def is_default(self) -> bool:
        """Whether the model runs once, at its test size, with its own selection."""
        return self == TTA()

    def sizes(self, test_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """``(shorter side, largest longer side)`` of every pass, without the flipped ones.

        Args:
            test_size: of the model; factors multiply it.
        """
        return tuple(_size(scale, test_size) for scale in self.scales) or (test_size,)


def _check_scale(scale: Scale) -> None:
    if isinstance(scale, tuple):
        if not 1 <= scale[0] <= scale[1]:
            raise ValueError(f"scales: expected pairs (shorter, longer) such as [800, 1333], got {list(scale)}")
    elif not 0 < scale <= LARGEST_FACTOR:
        raise ValueError(
            f"scales: expected positive factors up to {LARGEST_FACTOR:g}, or pairs such as 480x800, got {scale:g}"
        )


def _size(scale: Scale, test_size: tuple[int, int]) -> tuple[int, int]:
    if isinstance(scale, tuple):
        return scale
    return max(1, round(test_size[0] * scale)), max(1, round(test_size[1] * scale))
