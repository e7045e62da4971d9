"""What `compute` of a metric returns: frozen results with attributes, a table as text and a form for JSON.

Each result is also a mapping from the names under which the numbers are logged (``result["AP50"]``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dcn.suggest import cells_of, measured, padded

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers of COCO's summary, in its order."""


class Result(Mapping[str, float]):
    """Numbers by name, in a fixed order; the base of all results."""

    def _values(self) -> Mapping[str, float]:
        raise NotImplementedError

    def __getitem__(self, name: str) -> float:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to any mapping of the same numbers

    def to_dict(self) -> dict[str, float | None]:
        """The numbers as JSON can hold them: ``None`` for NaN."""
        return {name: None if math.isnan(value) else float(value) for name, value in self.items()}

    def __str__(self) -> str:
        """A table of two columns: the summary, then each class; a dash where there was nothing to measure on."""
        summary = [name for name in self if "/" not in name]
        rows = [*summary, *(name for name in self if "/" in name)]
        width = max((cells_of(name) for name in rows), default=0)
        return "\n".join(f"{padded(name, width)}  {measured(self[name])}" for name in rows)


@dataclass(frozen=True, eq=False)
class CocoResult(Result):
    """Average precision and recall by the rules of COCO; all in 0..1, -1 where no object stands behind a number.

    Attributes:
        ap: mean over the ten IoU thresholds 0.5 to 0.95 and all classes.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ap_small: of objects below 32² pixels.
        ap_medium: of objects between.
        ap_large: of objects above 96² pixels.
        ar1: recall with one detection an image.
        ar10: recall with ten.
        ar100: recall with a hundred.
        ar_small: recall of small objects.
        ar_medium: recall of medium objects.
        ar_large: recall of large objects.
        per_class: AP of each class by its name.
        masks: the same for masks, where they were scored.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: Mapping[str, float] = field(default_factory=dict)
    masks: CocoResult | None = None

    @classmethod
    def of(cls, summary: Sequence[float], per_class: Mapping[str, float]) -> CocoResult:
        """The result with the twelve numbers in the order of `COCO_NAMES`."""
        ap, ap50, ap75, ap_small, ap_medium, ap_large, ar1, ar10, ar100, ar_small, ar_medium, ar_large = summary
        precision = (ap, ap50, ap75, ap_small, ap_medium, ap_large)
        return cls(*precision, ar1, ar10, ar100, ar_small, ar_medium, ar_large, per_class)

    def summary(self) -> tuple[float, ...]:
        """The twelve numbers in the order of `COCO_NAMES`."""
        return (
            *(self.ap, self.ap50, self.ap75, self.ap_small, self.ap_medium, self.ap_large),
            *(self.ar1, self.ar10, self.ar100, self.ar_small, self.ar_medium, self.ar_large),
        )

    def _values(self) -> Mapping[str, float]:
        values = dict(zip(COCO_NAMES, self.summary(), strict=True))
        values |= {f"AP/{name}": value for name, value in self.per_class.items()}
        masks = {} if self.masks is None else {f"mask/{name}": value for name, value in self.masks.items()}
        return values | masks


@dataclass(frozen=True, eq=False)
class VocResult(Result):
    """Average precision by the rules of Pascal VOC; NaN for a class without an object that counts.

    Attributes:
        thresholds: IoU thresholds.
        mean: mean over the classes, by threshold.
        per_class: AP of each class by its name, by threshold.
    """

    thresholds: tuple[float, ...]
    mean: Mapping[float, float]
    per_class: Mapping[float, Mapping[str, float]]

    @property
    def ap50(self) -> float:
        """Mean AP at IoU 0.5; NaN where that is not among the thresholds."""
        return self.mean.get(0.5, math.nan)

    def _values(self) -> Mapping[str, float]:
        values: dict[str, float] = {}
        for threshold in self.thresholds:
            key = f"AP{threshold * 100:g}"
            values[key] = self.mean[threshold]
            values |= {f"{key}/{name}": value for name, value in self.per_class[threshold].items()}
        return values


@dataclass(frozen=True, eq=False)
class SegmentationResult(Result):
    """Intersection over union of a segmentation; all in 0..1, NaN where no pixel stands behind a number.

    Attributes:
        mean_iou: mean over the classes.
        accuracy: share of the counted pixels that are right.
        mean_accuracy: mean over the annotated classes of the share that is right.
        per_class: IoU of each class by its name.
    """

    mean_iou: float
    accuracy: float
    mean_accuracy: float
    per_class: Mapping[str, float]

    def _values(self) -> Mapping[str, float]:
        values = {"mIoU": self.mean_iou, "accuracy": self.accuracy, "mean_accuracy": self.mean_accuracy}
        return values | {f"IoU/{name}": value for name, value in self.per_class.items()}
