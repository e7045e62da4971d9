"""Annotations as evaluation needs them: every format becomes the same records, so that any result file fits any."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dcn.formats.fields import Identifier
from dcn.formats.file_names import SUFFIXES, posix


@dataclass(frozen=True)
class AnnotatedObject:
    """One object.

    Attributes:
        label: index into the classes.
        xywh: ``[x, y, width, height]``, continuous edges.
        area: in pixels², for COCO's size classes.
        crowd: matched freely by COCO's rules.
        difficult: left out by VOC's rules.
        segmentation: polygons or run lengths as in the file, checked.
    """

    label: int
    xywh: tuple[float, ...]
    area: float
    crowd: bool
    difficult: bool
    segmentation: Any = None


@dataclass(frozen=True)
class AnnotatedImage:
    """One image.

    Attributes:
        id: COCO's id or VOC's file stem.
        name: file name with slashes, perhaps with folders; empty where the file has none.
        stem: the last part of the name without its ending.
        size: ``(height, width)``, ``None`` where it is not known.
        objects: its annotations.
    """

    id: Identifier
    name: str
    stem: str
    size: tuple[int, int] | None
    objects: tuple[AnnotatedObject, ...]


@dataclass(frozen=True)
class Annotations:
    """The annotations of a set of images.

    Attributes:
        path: file or folder they came from.
        classes: names of the labels.
        labels: label of each category id of the file; for a VOC folder of 1 .. C.
        images: in the order in which equal scores are ranked.
        is_voc: they came from a VOC folder (numbers in its files are 1-based and inclusive).
    """

    path: Path
    classes: tuple[str, ...]
    labels: dict[Identifier, int]
    images: tuple[AnnotatedImage, ...]
    is_voc: bool
    _by_id: dict[Identifier, int] = field(init=False, repr=False)
    _by_stem: dict[str, list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stems: dict[str, list[int]] = defaultdict(list)
        for number, image in enumerate(self.images):
            if image.stem:
                stems[image.stem].append(number)
        object.__setattr__(self, "_by_id", {image.id: number for number, image in enumerate(self.images)})
        object.__setattr__(self, "_by_stem", dict(stems))

    def by_id(self, key: Identifier) -> int | None:
        """The image with an id."""
        return self._by_id.get(key)

    def by_name(self, name: str) -> list[int]:
        """The images that a file name or stem may mean: those that share most of its last folders.

        One image: that is it. Several: the name is ambiguous.
        """
        path = PurePosixPath(posix(name))
        is_file = path.suffix.lower() in SUFFIXES
        candidates = [*self._by_stem.get(path.name, ()), *(self._by_stem.get(path.stem, ()) if is_file else ())]
        same_ending = [n for n in candidates if PurePosixPath(self.images[n].name).name == path.name]
        common = {n: _common(path, PurePosixPath(self.images[n].name)) for n in same_ending or candidates}
        most = max(common.values(), default=0)
        return [number for number, count in common.items() if count == most]


def _common(first: PurePosixPath, second: PurePosixPath) -> int:
    """How many folders right above the file two paths share."""
    count = 0
    for a, b in zip(reversed(first.parts[:-1]), reversed(second.parts[:-1]), strict=False):
        if a != b:
            break
        count += 1
    return count
