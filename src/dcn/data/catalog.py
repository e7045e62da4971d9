"""The one list of data formats, and opening a data set by its format's name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcn.data.dataset import Dataset
from dcn.data.datasets.camvid import open_camvid
from dcn.data.datasets.cityscapes import open_cityscapes
from dcn.data.datasets.coco import Coco
from dcn.data.datasets.folder import open_folder
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.datasets.voc import Voc
from dcn.data.datasets.voc_segmentation import open_voc_segmentation

FORMATS: dict[str, Callable[..., Dataset]] = {
    "voc": Voc,
    "coco": Coco,
    "synthetic": Synthetic,
    "cityscapes": open_cityscapes,
    "voc_segmentation": open_voc_segmentation,
    "camvid": open_camvid,
    "folder": open_folder,
}
"""Format name to what opens it; what follows root and split in its signature are the options of the format."""

_DRAWN = frozenset({"synthetic"})


def options_of(format: str) -> tuple[str, ...]:
    """The options that `open_dataset` takes for a format.

    Raises:
        ValueError: an unknown format; names the nearest one.
    """
    return tuple(name for name, p in inspect.signature(_find(format)).parameters.items() if p.kind is p.KEYWORD_ONLY)


def open_dataset(format: str, root: str | Path | None, split: str, **options: Any) -> Dataset:
    """Open a split of a data set.

    Args:
        format: a key of `FORMATS`.
        root: its folder; ``None`` for a set that is drawn on the fly (``synthetic``).
        split: the name of the part, as the format has it.
        options: keyword options of the data set class, checked by name.

    Raises:
        ValueError: an unknown format or option (names the nearest valid one), a missing or superfluous ``root``, or
            what the data set itself finds wrong.
    """
    opener = _find(format)
    known = options_of(format)
    for name in options:
        if name not in known:
            raise ValueError(f"options: {format!r} has no option {name!r}; {_nearest(name, known)}")
    if format in _DRAWN:
        if root is not None:
            raise ValueError(f"root: {format!r} is drawn on the fly and has no folder, got {str(root)!r}; leave it out")
        return opener(split, **options)
    if root is None:
        raise ValueError(f"root: {format!r} needs the folder of the data, got None")
    return opener(root, split, **options)


def _find(format: str) -> Callable[..., Dataset]:
    if format not in FORMATS:
        raise ValueError(f"format: unknown data format {format!r}; {_nearest(format, tuple(FORMATS))}")
    return FORMATS[format]


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}known: {', '.join(known)}"
