"""A detector asked several times about one image: scales, mirror images, merged detections.

The engine is handed the three functions that know detectors (see :mod:`dcn.models.detection.raw` and
:mod:`dcn.models.detection.merging`); what is decided here is which images are shown and in which pixels boxes return.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dcn.structures import Detections

Size = tuple[int, int]


@dataclass(frozen=True)
class Steps:
    """What a :class:`MergingDetector` calls.

    Attributes:
        raw: ``raw(images, output_sizes, score_threshold)``: detections before suppression, per image.
        merge: ``merge(parts, size)``: raw detections of one image, one entry per pass, to final ones.
        finish: ``finish(images, found, output_sizes)``: adds what is made for final detections alone, such as masks.
        resize: ``resize(image, shorter, longer)`` gives the resized image.
    """

    raw: Callable[[Sequence[Tensor], Sequence[Size], float], list[Detections]]
    merge: Callable[[Sequence[Detections], Size], Detections]
    finish: Callable[[Sequence[Tensor], list[Detections], Sequence[Size]], list[Detections]]
    resize: Callable[[Tensor, int, int], Tensor]


class MergingDetector(nn.Module):
    """A detector with test-time options; a network for evaluation only, which resizes images itself.

    Args:
        model: the detector that ``steps`` work on; it is held so that ``to`` and ``eval`` reach it.
        steps: see :class:`Steps`.
        scales: ``(shorter side, largest longer side)`` of each pass; ``None`` among them shows the image as it is.
        flip: every pass also on the mirror image.

    Attributes:
        classes: names of the labels.
        test_size: ``None``: images are wanted as they are.
        score_threshold: least score of the raw boxes that are merged.
    """

    def __init__(self, model: nn.Module, steps: Steps, scales: Sequence[Size | None], *, flip: bool = False) -> None:
        super().__init__()
        if not scales:
            raise ValueError("scales: expected at least one size, got none")
        self.model, self.steps = model, steps
        self.scales, self.flip = tuple(scales), flip
        self.classes: tuple[str, ...] = tuple(model.classes)  # type: ignore[arg-type]  # nn.Module attributes are untyped
        self.test_size: None = None
        self.score_threshold = float(model.score_threshold)  # type: ignore[arg-type]  # as above

    def forward(self, images: Sequence[Tensor], output_sizes: Sequence[Size] | None = None) -> list[Detections]:
        """Merged detections of every image.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB, not resized.
            output_sizes: ``(height, width)`` per image in whose pixels detections are wanted; by default its own.

        Raises:
            ValueError: in training mode.
        """
        if self.training:
            raise ValueError("model: test-time options are for evaluation; call .eval() first")
        output_sizes = output_sizes or [(image.shape[1], image.shape[2]) for image in images]
        parts = [part for scale in self.scales for part in self._passes(images, output_sizes, scale)]
        found = [self.steps.merge(own, size) for own, size in zip(zip(*parts, strict=True), output_sizes, strict=True)]
        # Masks are drawn from the first scale alone.
        return self.steps.finish(self._resized(images, self.scales[0]), found, output_sizes)

    def _resized(self, images: Sequence[Tensor], scale: Size | None) -> list[Tensor]:
        if scale is None:
            return list(images)
        # Resizing is the same on every machine: it is done on the CPU.
        return [self.steps.resize(image.cpu(), *scale).to(image.device) for image in images]

    def _passes(
        self, images: Sequence[Tensor], output_sizes: Sequence[Size], scale: Size | None
    ) -> list[list[Detections]]:
        """Raw detections per image, of the images and, if wanted, of their mirror images turned back."""
        shown = self._resized(images, scale)
        passes = [self.steps.raw(shown, output_sizes, self.score_threshold)]
        if self.flip:
            mirrored = self.steps.raw([image.flip(2) for image in shown], output_sizes, self.score_threshold)
            passes.append([mirror(one, size[1]) for one, size in zip(mirrored, output_sizes, strict=True)])
        return passes


def mirror(found: Detections, width: int) -> Detections:
    """Detections, without masks, of the mirror image of an image ``width`` pixels wide."""
    x1, y1, x2, y2 = found.boxes.unbind(1)
    return replace(found, boxes=torch.stack((width - x2, y1, width - x1, y2), 1))
