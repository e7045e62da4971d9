"""Problems of data files, and what a reader does when it meets one.

Readers never raise by themselves: they call a ``Report`` and leave the entry out. Loading and evaluation pass
`refuse`, which stops at the first problem; checking passes ``Collector().add``, which collects them. So the three can
never disagree about what is wrong.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MOST_PROBLEMS = 1000
"""How many problems a `Collector` keeps; the others are counted."""


class BrokenImageError(ValueError):
    """An image file that is missing or cannot be decoded; the message names the file."""


@dataclass(frozen=True)
class Problem:
    """One fault of one file.

    Attributes:
        file: the file at fault.
        entry: the entry inside the file (``"object 3 (dog)"``), empty for the file as a whole.
        message: what was expected, what the file has and, where there is a choice, what to do.
        broken_image: the annotation is fine, its image is missing or cannot be read.
    """

    file: Path
    entry: str
    message: str
    broken_image: bool = False

    def __str__(self) -> str:
        where = f"{self.file}: {_cut(self.entry, 200)}" if self.entry else str(self.file)
        # A file name or a JSON escape may hold half a character, which no terminal can show.
        return f"{where}: {_cut(self.message, 1000)}".encode("utf-8", "backslashreplace").decode("utf-8")


def _cut(text: str, length: int) -> str:
    """A text for a message: ids and names of hostile files can be of any length."""
    return text if len(text) <= length else text[: length - 3] + "..."


Report = Callable[[Problem], None]


def refuse(problem: Problem) -> None:
    """The ``Report`` of loading and evaluation: raise `ValueError` with the problem's one line."""
    raise ValueError(str(problem))


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
        broken = isinstance(error, BrokenImageError)
        report(Problem(file, entry, str(error).removeprefix(f"{file}: "), broken))
        return None


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
