"""The committed tables are those of the committed results, and what the page quotes is what was published."""

from __future__ import annotations

import re

import pytest
from benchmarks.reproduce_tables import ROOT, pages

from dcn.reproduce.papers import lines_of

PAGE = (ROOT / "docs" / "does_it_help.md").read_text(encoding="utf-8")
WRITTEN = pages()


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_the_page_equals_the_results(path: object) -> None:
    """Where this fails: `python -m benchmarks.reproduce_tables`."""
    assert (ROOT / str(path)).read_text(encoding="utf-8") == WRITTEN[path]  # type: ignore[index]  # a key of it


SYSTEMS = {"DeepLab": "deeplab", "class-aware RPN": "rpn", "Faster R-CNN": "rcnn", "R-FCN": "rfcn"}
ENDINGS = {"VOC 2012 val": "voc12", "Cityscapes val": "cityscapes", "VOC 2007 test": "voc"}


def _published(system: str, data: str, kind: str) -> list[float]:
    """Table 3's numbers of a system: ``""``, ``"_dcn"``, or the dilation with the best first number."""
    rows = [row for row in lines_of("table3") if row.model.startswith(f"{system}_r101") and row.data == data]
    own = [list(row.published.values()) for row in rows if row.model == f"{system}_r101{kind}"]
    return max(own or [list(row.published.values()) for row in rows if "_atrous" in row.model])


def test_the_page_quotes_table_3() -> None:
    section = PAGE.partition("## What the papers report")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line][2:]
    assert len(rows) == 5
    for system, data, _, *cells in rows:
        numbers = [[float(text) for text in re.findall(r"\d+\.\d", cell)] for cell in cells]
        expected = [_published(SYSTEMS[system], data, kind) for kind in ("", "_atrous", "_dcn")]
        assert numbers == expected
