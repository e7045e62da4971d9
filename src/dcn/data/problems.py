"""One thing that is wrong with a data set, and what a reader does when it meets one.

Readers of annotation files never raise by themselves: they call a ``Report`` and leave the entry out. Loading passes
`refuse`, which stops at the first problem; checking passes ``list.append``, which collects all of them. So the two
can never disagree about what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """One fault of one file.

    Attributes:
        file: the file at fault.
        entry: the entry inside the file (``"object 3 (dog)"``), empty when the whole file is meant.
        message: what was expected, what was found and, where there is a choice, what to do.
    """

    file: Path
    entry: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.entry}" if self.entry else str(self.file)
        return f"{place}: {self.message}"


Report = Callable[[Problem], None]


def refuse(problem: Problem) -> None:
    """The ``Report`` of loading: raise `ValueError` with the problem's one line."""
    raise ValueError(str(problem))


def attempt(read: Callable[[], T], report: Report, file: Path, entry: str) -> T | None:
    """What ``read`` returns, or ``None`` after reporting the `ValueError` it raised as a problem of ``entry``."""
    try:
        return read()
    except ValueError as error:
        report(Problem(file, entry, str(error)))
        return None
