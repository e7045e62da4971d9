"""Images that are in two splits of a folder: a model evaluated on images it was trained on looks better than it is."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path

from dcn.data.auto import AUTO, find_layout
from dcn.data.catalog import FORMATS, open_dataset, options_of
from dcn.data.dataset import Dataset
from dcn.data.overlap import shared_images
from dcn.formats.problems import Problem, Report


def report_duplicates(root: Path, format: str, report: Report) -> None:
    """Report every image of the validation or test split that is in a split before it too, by content.

    Splits that cannot be opened are left out: their own problems are reported already.
    """
    layout = find_layout(FORMATS, root)
    if layout.format != format or not layout.is_split:
        return
    opened = {name: dataset for name in layout.names if (dataset := _opened(root, format, name)) is not None}
    for (first, one), (second, other) in combinations(opened.items(), 2):
        for kept, again in shared_images(one, other):
            same = "the same file" if kept.resolve() == again.resolve() else f"the content of {kept}"
            report(Problem(again, "", f"is in the split {second!r} and, as {same}, in {first!r}"))


def _opened(root: Path, format: str, split: str) -> Dataset | None:
    known, lenient = options_of(format), {"masks": False, "outside": "clip"}
    options = {name: value for name, value in lenient.items() if name in known}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return open_dataset(AUTO, root, split, **options)
    except ValueError:
        return None
