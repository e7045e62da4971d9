"""A row of the catalog of formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dcn.data.dataset import Dataset
from dcn.data.findings import CheckOptions, Findings


@dataclass(frozen=True)
class Format:
    """A row of the catalog.

    Attributes:
        open: ``open(root, split, **options)``, or ``open(split, **options)`` for generated data; what follows root and
            split in its signature are the options of the format.
        splits: the splits of a folder; empty where the folder is not in this layout. ``None``: generated data.
        check: everything that is wrong with a folder.
        recognisable: whether the layout tells the format; one that looks like another must be named.
        says: what the layout is, for people.
        outlines: whether objects may have outlines, of which the option ``semantic`` makes segmentation masks; the
            format then has the option ``masks``.
    """

    open: Callable[..., Dataset]
    splits: Callable[[Path], list[str]] | None
    check: Callable[[Path, str | None, CheckOptions], Findings] | None
    recognisable: bool = True
    says: str = ""
    outlines: bool = False


Table = Mapping[str, Format]
"""Formats by name, in the order in which a layout is tried."""
