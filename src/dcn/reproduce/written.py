"""Committed results and the tables in the documentation that are made from them."""

from __future__ import annotations

import re
from pathlib import Path

from dcn.reproduce.intervals import ImageRow
from dcn.reproduce.plan import Plan
from dcn.reproduce.rows import DilationRow, Row, StepRow, read_table
from dcn.reproduce.tables import Results

_REGION = r"(?P<begin><!-- begin {name}[^>]*-->\n).*?(?P<end><!-- end {name} -->)"


def read_results(plan: Plan, path: Path) -> Results:
    """The rows of a file of results and of the files beside it."""
    images, dilations, steps = (path.with_name(f"{path.stem}_{name}.csv") for name in ("images", "dilation", "steps"))
    return Results(
        plan,
        read_table(path, Row),
        read_table(images, ImageRow),
        read_table(dilations, DilationRow),
        read_table(steps, StepRow),
    )


def with_region(text: str, name: str, content: str) -> str:
    """A page whose region between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` is replaced.

    Raises:
        ValueError: the page has no such region, or several.
    """
    pattern = re.compile(_REGION.format(name=re.escape(name)), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"page: expected one region `<!-- begin {name} -->` to `<!-- end {name} -->`")
    body = f"\n{content.strip()}\n\n" if content.strip() else ""
    return pattern.sub(lambda match: f"{match['begin']}{body}{match['end']}", text)
