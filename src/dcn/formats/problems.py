"""Problems of data files, and what a reader does when it meets one.

Readers never raise by themselves: they call a ``Report`` and leave the entry out. Loading and evaluation pass
`refuse`, which stops at the first problem; checking passes ``Collector().add``, which collects them. So the three can
never disagree about what is wrong. A box that reaches outside of its image is the one fault that may be mended: the
reader cuts it where the ``Report`` answers so, see `attempt_object` and `OutsideBoxes`.
"""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MOST_PROBLEMS = 1000
"""How many problems a `Collector` keeps; the others are counted."""


class BrokenImageError(ValueError):
    """An image file that is missing or cannot be decoded; the message names the file."""


class OutsideError(ValueError):
    """A box that reaches outside of its image by more than a reader mends by itself."""


OUTSIDE = ("refuse", "clip")
"""Values of the option ``outside`` of data with boxes."""

_OUTSIDE_HINT = "the option outside=clip cuts such boxes to the image (data.outside=clip in a recipe)"


@dataclass(frozen=True)
class Problem:
    """One fault of one file.

    Attributes:
        file: the file at fault.
        entry: the entry inside the file (``"object 3 (dog)"``), empty for the file as a whole.
        message: what was expected, what the file has and, where there is a choice, what to do.
        broken_image: the annotation is fine, its image is missing or cannot be read.
        outside: the entry is fine but for its box, which reaches outside of its image.
    """

    file: Path
    entry: str
    message: str
    broken_image: bool = False
    outside: bool = False

    def __str__(self) -> str:
        where = f"{self.file}: {_cut(self.entry, 200)}" if self.entry else str(self.file)
        # A file name or a JSON escape may hold half a character, which no terminal can show.
        return f"{where}: {_cut(self.message, 1000)}".encode("utf-8", "backslashreplace").decode("utf-8")

    @property
    def advice(self) -> str:
        """The text, and for a box outside of its image the option that takes it."""
        return f"{self}; {_OUTSIDE_HINT}" if self.outside else str(self)


def _cut(text: str, length: int) -> str:
    """A text for a message: ids and names of hostile files can be of any length."""
    return text if len(text) <= length else text[: length - 3] + "..."


Report = Callable[[Problem], bool | None]
"""What is done about a problem. True is the answer to a box outside of its image alone (`Problem.outside`): cut it."""


def refuse(problem: Problem) -> None:
    """The ``Report`` of loading and evaluation: raise `ValueError` with the problem's one line."""
    raise ValueError(str(problem))


class OutsideBoxes:
    """The ``Report`` that does about boxes outside of their image what the option ``outside`` says; others it refuses.

    Args:
        outside: ``"refuse"`` or ``"clip"``.
        name: of the data, for the warning.

    Raises:
        ValueError: ``outside`` is neither.
    """

    def __init__(self, outside: str, name: str) -> None:
        if outside not in OUTSIDE:
            raise ValueError(f"outside: expected 'refuse' or 'clip', got {outside!r}")
        self._clips, self._name = outside == "clip", name
        self._count, self._first = 0, ""

    def __call__(self, problem: Problem) -> bool:
        """Whether the box is to be cut to the image.

        Raises:
            ValueError: another problem, or the option is ``"refuse"``.
        """
        if not problem.outside:
            refuse(problem)
        if not self._clips:
            raise ValueError(problem.advice)
        self._first = self._first or str(problem)
        self._count += 1
        return True

    def warn(self) -> None:
        """One warning for all boxes that were cut."""
        if self._count:
            one, many = (
                "box reaches outside of its image and is cut to it",
                "boxes reach outside of their images and are cut",
            )
            what = one if self._count == 1 else f"{many} to them"
            warnings.warn(f"{self._name}: {self._count} {what}; the first: {self._first}", stacklevel=5)


@dataclass
class Collector:
    """The ``Report`` of a check (`add`): keeps every different problem once, up to a limit.

    A hostile file can have a problem in each of ten million entries; the list stays small.
    """

    limit: int = MOST_PROBLEMS
    _kept: dict[Problem, None] = field(default_factory=dict)
    _more: int = 0

    def add(self, problem: Problem) -> None:
        """Keep the problem, or count it where the limit is reached."""
        if problem in self._kept:
            return
        if len(self._kept) < self.limit:
            self._kept[problem] = None
        else:
            self._more += 1

    def clear(self) -> None:
        """Forget all problems."""
        self._kept.clear()
        self._more = 0

    def problems(self) -> list[Problem]:
        """All problems in order; the last one counts those above the limit."""
        kept = list(self._kept)
        if self._more:
            message = f"{self._more} more problems are not listed; correct those above and check again"
            kept.append(Problem(kept[-1].file, "", message))
        return kept


def attempt(read: Callable[[], T], report: Report, file: Path, entry: str) -> T | None:
    """What ``read`` returns, or ``None`` after reporting the `ValueError` it raised as a problem of ``entry``."""
    try:
        return read()
    except ValueError as error:
        report(_problem(error, file, entry))
        return None


def attempt_object(read: Callable[..., T], report: Report, file: Path, entry: str) -> T | None:
    """As `attempt` for an entry with a box; what ``read(clip=True)`` returns where the report has the box cut."""
    try:
        return read()
    except ValueError as error:
        problem = _problem(error, file, entry)
    clip = report(problem)
    return attempt(partial(read, clip=True), report, file, entry) if clip and problem.outside else None


def _problem(error: ValueError, file: Path, entry: str) -> Problem:
    text = str(error).removeprefix(f"{file}: ")
    return Problem(file, entry, text, isinstance(error, BrokenImageError), isinstance(error, OutsideError))


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxset = 2, 8, 8, 4, 4
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlong = 40


def short(value: object) -> str:
    """A value for a message: at most 80 characters, however large or deep it is."""
    if value is None:
        return "nothing"
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
