"""What every reader of result files gives: detections as rows, and the classes that they name."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dcn.formats.annotations import Annotations
from dcn.formats.problems import short

Coordinates = Literal["auto", "voc", "continuous"]
IouType = Literal["bbox", "segm"]
OTHER = "the results belong to other annotations, or to another split"
"""The end of a message about a name that the annotations do not have."""
NO_SIZE = "the size of the image is not known; add height and width to the annotations"


@dataclass(frozen=True)
class ResultRow:
    """One detection.

    Attributes:
        image: index into the images of the annotations.
        label: index into the classes of the `Results`.
        score: finite.
        xywh: ``[x, y, width, height]`` in continuous edges; for masks empty.
        segmentation: compressed run lengths; for boxes ``None``.
    """

    image: int
    label: int
    score: float
    xywh: tuple[float, ...] = ()
    segmentation: Any = None


@dataclass(frozen=True)
class Results:
    """Detections for the images of some annotations.

    Attributes:
        rows: in the order of the files.
        classes: those of the annotations, then those that only the results have.
    """

    rows: list[ResultRow]
    classes: tuple[str, ...]


class Classes:
    """Labels by class name; a name that the annotations do not have becomes a class without objects."""

    def __init__(self, annotations: Annotations, closed: bool) -> None:
        self._path, self._closed, self._known = annotations.path, closed, len(annotations.classes)
        self._labels = {name: label for label, name in enumerate(annotations.classes)}
        self._used: Counter[int] = Counter()

    def label(self, name: str, where: str) -> int:
        """The label of a name.

        Raises:
            ValueError: the classes were given by the caller, and this is not among them.
        """
        if name not in self._labels:
            if self._closed:
                raise ValueError(f"{where}: expected a class that {self._path} knows, got {short(name)}; {OTHER}")
            self._labels[name] = len(self._labels)
        self._used[self._labels[name]] += 1
        return self._labels[name]

    def names(self, where: Path) -> tuple[str, ...]:
        """All names by label.

        Raises:
            ValueError: not one class of the results is one of the annotations.
        """
        names = tuple(self._labels)
        unknown = [name for name in names[self._known :] if self._used[self._labels[name]]]
        if unknown and not any(label < self._known for label in self._used):
            raise ValueError(
                f"{where}: expected classes that {self._path} knows, got only others: {short(unknown)}; {OTHER}"
            )
        if unknown:
            count = sum(self._used[self._labels[name]] for name in unknown)
            message = f"{count} detections are of classes without annotations: {', '.join(unknown[:5])}"
            warnings.warn(f"{where}: {message}", stacklevel=5)
        return names


def only_image(choices: Sequence[int], value: object, where: str, annotations: Annotations) -> int:
    """The one image that is meant.

    Raises:
        ValueError: none or several.
    """
    if len(choices) == 1:
        return choices[0]
    if not choices:
        raise ValueError(f"{where}: expected one that {annotations.path} knows, got {short(value)}; {OTHER}")
    names = ", ".join(annotations.images[n].name or str(annotations.images[n].id) for n in choices[:3])
    raise ValueError(
        f"{where}: expected the id or name of one image, got {short(value)}, which could be any of {names}; write ids "
        "as numbers, or names with folders"
    )


def edges_of(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """``[x, y, width, height]`` with continuous edges of VOC's 1-based inclusive corners."""
    if x2 < x1 - 1 or y2 < y1 - 1:
        raise ValueError(f"expected xmin <= xmax and ymin <= ymax, got {x1:g} {y1:g} {x2:g} {y2:g}")
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
