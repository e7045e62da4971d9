"""How a dataset reads its images, and what it does about damaged ones: refuse, skip or repair.

A skipped image is replaced by the next readable one in training, so that batches keep their size and a resumed run its
order; evaluation leaves it out. Which images were skipped or repaired is kept in shared memory: the processes that load
ahead write into it, the training process reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dcn.data.dataset import Dataset
from dcn.formats.images import read_image
from dcn.formats.problems import BrokenImageError, OutsideBoxes, Problem
from dcn.structures import Sample
from dcn.suggest import counted

DEGENERATE = ("skip", "keep")
BROKEN = ("refuse", "skip", "repair")
_INTACT, _SKIPPED, _REPAIRED = 0, 1, 2
_HINT = (
    "the option broken=skip leaves such images out, broken=repair also decodes JPEGs that lack their end "
    "(data.broken in a recipe)"
)


@dataclass(frozen=True)
class BrokenImages:
    """Damaged images met so far.

    Attributes:
        skipped: files that were left out.
        repaired: JPEGs that lacked their end.
    """

    skipped: tuple[Path, ...] = ()
    repaired: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.skipped)} damaged images skipped, {len(self.repaired)} repaired"


class Opening:
    """The ``Report`` of a dataset that opens: refuses every problem, but those that its options mend.

    Broken images are left out, and boxes outside of their image are cut to it.

    Args:
        broken: the option of the dataset.
        name: of the dataset, for the warnings.
        outside: the option of a dataset of boxes.

    Raises:
        ValueError: ``outside`` is neither ``"refuse"`` nor ``"clip"``.
    """

    def __init__(self, broken: str, name: str, outside: str = "refuse") -> None:
        self._refuses, self._name = broken == "refuse", name
        self._skipped: list[Problem] = []
        self._boxes = OutsideBoxes(outside, name)

    def __call__(self, problem: Problem) -> bool:
        """Refuse the problem, or count it; whether a box is to be cut.

        Raises:
            ValueError: every problem but those that the options mend.
        """
        if not problem.broken_image:
            return self._boxes(problem)
        if self._refuses:
            raise ValueError(f"{problem}; {_HINT}")
        self._skipped.append(problem)
        return False

    def warn(self, kept: int) -> None:
        """One warning for all images that were left out, and one for all boxes that were cut.

        Raises:
            ValueError: images were left out, and none was ``kept``.
        """
        self._boxes.warn()
        if not self._skipped:
            return
        first, skipped = self._skipped[0], counted(len(self._skipped), "image")
        if not kept:
            raise ValueError(f"{first}; all {skipped} are missing or unreadable")
        message = f"{self._name}: {skipped} left out, missing or unreadable; the first: {first}"
        warnings.warn(message, stacklevel=4)


class ImageReading:
    """Reads the images of one dataset.

    Args:
        broken: ``"refuse"``: an image that cannot be used is an error; ``"skip"``: it is left out; ``"repair"``: a JPEG
            that lacks its end is decoded, other damaged images are left out.
        upright: turn photos as their EXIF orientation says; for annotations made on upright photos.
        paths: the image file of every index.

    Raises:
        ValueError: ``broken`` is none of the three.
    """

    def __init__(self, broken: str, upright: bool, paths: Sequence[Path]) -> None:
        if broken not in BROKEN:
            raise ValueError(f"broken: expected one of {', '.join(BROKEN)}, got {broken!r}")
        self.broken, self.upright = broken, upright
        self._paths = tuple(paths)
        self._states = torch.zeros(0 if broken == "refuse" else len(paths), dtype=torch.uint8)
        if len(self._states):
            self._states.share_memory_()

    def image(self, index: int) -> Tensor:
        """The image of an index, ``[3, H, W]``.

        Raises:
            BrokenImageError: it cannot be decoded.
        """
        path = self._paths[index]
        try:
            return read_image(path, upright=self.upright)
        except BrokenImageError:
            if self.broken != "repair":
                raise
            image = read_image(path, upright=self.upright, repair=True)
            self._mark(index, _REPAIRED, f"{path}: the image lacks its end and was repaired")
            return image

    def sample(self, index: int, read: Callable[[int], Sample]) -> Sample:
        """``read(index)``, or the sample of the next image that can be used.

        Raises:
            ValueError: with ``"refuse"`` the error of ``read``; otherwise no image can be used.
        """
        if self.broken == "refuse":
            try:
                return read(index)
            except BrokenImageError as error:
                raise self.refusal(error) from error
        count = len(self._states)
        for offset in range(count):
            sample = self.intact((index + offset) % count, read)
            if sample is not None:
                return sample
        raise ValueError(
            f"broken: expected an image that can be read, got none among {count}; `dcn data check` says why"
        )

    @staticmethod
    def refusal(error: BrokenImageError) -> BrokenImageError:
        """The error about a damaged image with the options that would leave it out."""
        return BrokenImageError(f"{error}; {_HINT}")

    def intact(self, index: int, read: Callable[[int], Sample]) -> Sample | None:
        """``read(index)``, or ``None`` for an image that is skipped.

        Raises:
            ValueError: with ``"refuse"``, as `sample`.
        """
        if self.broken == "refuse":
            return self.sample(index, read)
        if self._states[index] == _SKIPPED:
            return None
        try:
            return read(index)
        except ValueError as error:
            self._mark(index, _SKIPPED, f"{error}; the image is skipped")
            return None

    def _mark(self, index: int, state: int, message: str) -> None:
        if self._states[index] != state:
            self._states[index] = state
            warnings.warn(message, stacklevel=3)

    def broken_images(self) -> BrokenImages:
        """The damaged images met so far, in this process and in those that load ahead."""
        return BrokenImages(self._in_state(_SKIPPED), self._in_state(_REPAIRED))

    def _in_state(self, state: int) -> tuple[Path, ...]:
        return tuple(self._paths[index] for index in (self._states == state).nonzero()[:, 0].tolist())


@runtime_checkable
class Tolerant(Protocol):
    """A dataset that can leave damaged images out."""

    @property
    def reading(self) -> ImageReading:
        """How it reads its images."""

    def intact(self, index: int) -> Sample | None:
        """The sample of an index; ``None`` where its image is skipped."""


def intact_sample(dataset: Dataset, index: int) -> Sample | None:
    """The sample for evaluation: ``None`` where the dataset skips its image, never another image's."""
    return dataset.intact(index) if isinstance(dataset, Tolerant) else dataset[index]


def broken_images(dataset: Dataset) -> BrokenImages:
    """The damaged images that a dataset has met so far, worker processes included."""
    return dataset.reading.broken_images() if isinstance(dataset, Tolerant) else BrokenImages()


def check_degenerate(value: str) -> None:
    """Refuse an unknown value of the option ``degenerate``."""
    if value not in DEGENERATE:
        raise ValueError(f"degenerate: expected 'skip' or 'keep', got {value!r}")


def known_size(size: tuple[int, int] | None) -> tuple[int, int]:
    """The size of a record that was read together with its image."""
    assert size is not None
    return size


def warn_of_degenerate(name: str, count: int) -> None:
    """One warning for all boxes without extent that are skipped."""
    if count:
        boxes = counted(count, "box", "boxes")
        names = f"`dcn data check` names {'it' if count == 1 else 'them'}"
        warnings.warn(f"{name}: {boxes} without extent skipped; {names}", stacklevel=4)
