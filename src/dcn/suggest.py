"""Words of messages: the one "did you mean", the one list of valid names, and numbers with their nouns."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Iterable, Mapping

MOST = 3
"""Near names that a message shows; also the most names that are listed in full."""


def suggest(name: str, names: Iterable[str], lists: str | None = None) -> str:
    """The end of a message about an unknown name.

    Args:
        name: what was given.
        names: the valid names.
        lists: what prints all of them, such as ``"`dcn models`"``.

    Returns:
        ``"did you mean 'lr'?"`` with up to three near names, then where all names are listed. Without a near name and
        without ``lists`` the message ends with the valid names, at most the first ten.
    """
    valid = sorted(names)
    near = difflib.get_close_matches(name, valid, n=MOST, cutoff=0.5)
    parts = [f"did you mean {_either(near)}?"] if near else []
    if lists is not None:
        parts.append(f"{lists} lists all names")
    elif not near:
        parts.append(
            f"valid: {', '.join(valid[:10])}{', ...' if len(valid) > 10 else ''}" if valid else "none is valid"
        )
    return " ".join(parts)


def one_of(names: Iterable[str], otherwise: str) -> str:
    """What a message expects: ``"one of train, val"``, or ``otherwise`` where there is no name to choose."""
    valid = list(names)
    return f"one of {', '.join(valid)}" if len(valid) > 1 else (repr(valid[0]) if valid else otherwise)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: ``"1 image"``, ``"2 images"``; ``plural`` where the noun takes more than an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def first_line(error: BaseException) -> str:
    """The beginning of another error's message, for a message of one line."""
    return str(error).partition("\n")[0][:200]


_OF_MASKS = ("mask/AP", "mask/AP50", "mask/AP75")


def is_measured(value: float | None) -> bool:
    """Whether a metric is a number: NaN, its ``None`` in JSON and COCO's -1 say that there was nothing to measure."""
    return value is not None and not math.isnan(value) and value != -1


def measured(value: float | None) -> str:
    """A metric as text: a dash where there was nothing to measure on."""
    return f"{value:.4f}" if is_measured(value) else "-"


def cells_of(text: str) -> int:
    """How many cells of a terminal a text takes: Chinese, Japanese and Korean letters take two, accents none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def padded(text: str, cells: int) -> str:
    """A text with blanks behind it up to a number of cells of a terminal."""
    return text + " " * (cells - cells_of(text))


def summary_of(metrics: Mapping[str, float | None] | Mapping[str, float]) -> dict[str, str]:
    """The metrics of a line of a log, as text: those that were measured of all classes together, of masks the first."""
    shown = {name: value for name, value in metrics.items() if "/" not in name or name in _OF_MASKS}
    return {name: measured(value) for name, value in shown.items() if is_measured(value)}


def _either(names: list[str]) -> str:
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
