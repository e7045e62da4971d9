"""What a check of a folder of data gives, and the part of it that all formats share: decoding every image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcn.formats.images import is_turned, read_image
from dcn.formats.problems import Problem, Report
from dcn.suggest import counted

Size = tuple[int, int]


@dataclass(frozen=True)
class Findings:
    """What a check saw.

    Attributes:
        format: of the folder; empty where it cannot be told.
        images: images looked at.
        objects: objects that can be used, by class name; for segmentation masks the images in which the class occurs.
        problems: all faults, in the order of the files.
        notes: what is not at fault but worth knowing.
        layout: what the folder was taken for, in words, where its format was not named.
        by_image: ``objects`` counts images, as there are segmentation masks.
    """

    format: str
    images: int
    objects: dict[str, int]
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    layout: str = ""
    by_image: bool = False


@dataclass(frozen=True)
class CheckOptions:
    """What the options of a format say to its check.

    Attributes:
        classes: names that are allowed (VOC).
        annotations: annotation file relative to the folder (COCO).
        images: image folder relative to the folder (COCO).
        upright: photos are turned as their EXIF orientation says.
        colors: what the colours of segmentation masks mean.
        unknown_colors: what becomes of other colours.
    """

    classes: Sequence[str] | None = None
    annotations: str | None = None
    images: str | None = None
    upright: bool = False
    colors: Any = None
    unknown_colors: str = "refuse"


def in_threads(checks: Iterable[Callable[[], Problem | None]], report: Report) -> None:
    """Run checks by as many threads as there are cores; problems come in the order of the checks."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for problem in pool.map(lambda check: check(), checks):
            if problem is not None:
                report(problem)


def decoded_size(path: Path, upright: bool = False) -> Size | Problem:
    """``(height, width)`` of an image after decoding it, or why that cannot be done."""
    try:
        height, width = read_image(path, upright=upright).shape[1:]
    except ValueError as error:
        return Problem(path, "", str(error).removeprefix(f"{path}: "))
    return height, width


def decoding_problem(path: Path) -> Problem | None:
    """Why an image cannot be decoded, if so."""
    result = decoded_size(path)
    return result if isinstance(result, Problem) else None


def note_turned(paths: Iterable[Path]) -> list[str]:
    """A note on photos whose EXIF orientation turns them, as annotations may refer to either way."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        turned = sum(pool.map(_turned, paths))
    if not turned:
        return []
    return [
        f"{counted(turned, 'photo')} {'is' if turned == 1 else 'are'} stored turned (EXIF orientation); annotations "
        "are taken to refer to the stored pixels; where they were made on upright photos, set the option upright=true"
    ]


def _turned(path: Path) -> bool:
    try:
        return is_turned(path)
    except ValueError:
        return False
