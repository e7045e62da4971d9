"""A folder of images and segmentation masks without a description: index images, colours, or black and white."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from dcn.class_names import IGNORE, check_class_names
from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.formats.black_and_white import are_black_and_white, black_and_white
from dcn.formats.color_masks import LOSSY, ColorReader, colors_in
from dcn.formats.color_tables import FILES, color_table, find_color_table, read_color_table
from dcn.formats.documents import read_name_lines
from dcn.formats.file_names import Stamps, stamps
from dcn.formats.images import has_colors, read_index_image
from dcn.formats.index_masks import IndexReader, MaskFiles, ReadMask
from dcn.formats.layouts import WHOLE, unknown_split
from dcn.formats.mask_folders import MaskSplit, mask_splits
from dcn.formats.problems import Problem, attempt
from dcn.suggest import counted

_NAMES = ("classes.txt", "class_names.txt", "codes.txt")
_FIRST = 3  # masks that are looked at to tell colours from indices


def open_masks(
    root: str | Path,
    split: str = WHOLE,
    *,
    colors: Any = None,
    unknown_colors: str = "refuse",
    unlabelled: str = "refuse",
    upright: bool = False,
    broken: str = "refuse",
) -> SegmentationDataset:
    """Open a split.

    Args:
        root: the folder.
        split: one of `available_splits`, or several joined with ``+``.
        colors: what the colours of the masks mean: a file (see `dcn.formats.color_tables`) or a mapping
            ``{road: [128, 64, 128]}``; a name may have several colours. ``None``: a file such as ``label_colors.txt``
            in the folder, where the masks have its colours.
        unknown_colors: what becomes of a colour that the table does not have: ``"refuse"``, ``"ignore"`` (255) or
            ``"nearest"``.
        unlabelled: see `SegmentationDataset`, like the two that follow.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images.

    Index masks hold 0, 1, 2 ... for the classes and 255 for pixels that are ignored. ``classes.txt`` names the classes,
    one a line; without it their numbers are their names. Masks of 0 and 255 alone have the classes ``background`` and
    ``foreground``.

    Raises:
        ValueError: no such split, colours without a table, or masks that can be read in neither way.
    """
    root = Path(root)
    splits = mask_splits(root)
    files: list[MaskFiles] = []
    for part in split.split("+"):
        if part not in splits:
            raise unknown_split(part, splits, root, "folders of images and of masks")
        found = splits[part].files(root)
        if missing := splits[part].missing(found):
            raise ValueError(
                f"{root}: {part}: expected listed images in {splits[part].pair.images}, got {missing[0]!r}"
            )
        files += found
    classes, reader, note = _reading(root, _masks(root, splits), colors, unknown_colors)
    name = f"{root.name}:{split}"
    return SegmentationDataset(
        name, classes, files, reader, unlabelled=unlabelled, upright=upright, broken=broken, note=note
    )


def available_splits(root: Path) -> list[str]:
    """The splits of a folder; empty where its first masks cannot be read."""
    splits = mask_splits(root)
    return list(splits) if splits and _problem_of(_masks(root, splits)) is None else []


def first_problem(root: Path) -> str | None:
    """Why the first masks of a folder cannot be read; ``None`` where they can, or where there are none."""
    return _problem_of(_masks(root, mask_splits(root)))


def _masks(root: Path, splits: Mapping[str, MaskSplit]) -> list[Path]:
    return [item.mask for split in splits.values() for item in split.files(root) if item.mask is not None]


def _problem_of(masks: list[Path]) -> str | None:
    problems: list[Problem] = []
    for mask in masks[:_FIRST]:
        attempt(partial(_readable, mask), problems.append, mask, "")
    return str(problems[0]) if problems else None


def _readable(mask: Path) -> None:
    if not has_colors(mask):
        read_index_image(mask)


def _reading(root: Path, masks: list[Path], colors: Any, unknown: str) -> tuple[tuple[str, ...], ReadMask, str]:
    """The classes, what reads a mask, and what was concluded."""
    if colors is not None:
        table = color_table(colors, root)
        return table.names, ColorReader(table, unknown), ""
    first, file = masks[:_FIRST], find_color_table(root)
    coloured = any(map(has_colors, first))
    if file is not None and (coloured or _has_colors_of(file, first)):
        table = read_color_table(file)
        return table.names, ColorReader(table, unknown), f"the colours of the masks are those of {file}"
    if coloured:
        raise ValueError(_without_table(root, first))
    return _indices(root, masks, unknown)


def _has_colors_of(file: Path, masks: list[Path]) -> bool:
    """Whether masks of grey or palette have the colours of a table."""
    try:
        return set(colors_in(masks)) <= set(read_color_table(file).colors)
    except ValueError:
        return False  # numbers need no table


def _without_table(root: Path, masks: list[Path]) -> str:
    seen = [f"{color} {share:.1%}" for color, share in colors_in(masks).items()]
    more = f" and {len(seen) - 8} more" if len(seen) > 8 else ""
    return (
        f"{root}: expected a table of the colours of the masks, got none; write a line 'r g b name' for each colour "
        f"into {root / FILES[0]}, or name a file (data.options.colors=FILE, or --colors FILE for `dcn data`). "
        f"{counted(len(masks), 'mask')} from {masks[0].name} on: {', '.join(seen[:8])}{more}"
    )


def _indices(root: Path, masks: list[Path], unknown: str) -> tuple[tuple[str, ...], ReadMask, str]:
    names = _names(root)
    if are_black_and_white(masks, names):
        reader = black_and_white(names, unknown)
        first, second = reader.table.names
        said = f"the masks hold 0 and 255 alone: 0 is taken for {first!r}, 255 for {second!r}, not for ignored pixels"
        return reader.table.names, reader, said
    lossy = next((mask for mask in masks if mask.suffix.lower() in LOSSY), None)
    if lossy is not None:
        raise ValueError(f"{lossy}: a JPEG changes the numbers of the classes; save the masks as PNG")
    names = names or _numbers(root, stamps(masks))
    return names, IndexReader({index: index for index in range(len(names))}), ""


def _names(root: Path) -> tuple[str, ...] | None:
    file = next((path for name in _NAMES if (path := root / name).is_file()), None)
    if file is None:
        return None
    names = [text for _, text in read_name_lines(file, "list of classes")]
    return check_class_names(names)


@lru_cache(maxsize=8)
def _present(stamped: Stamps) -> tuple[int, ...]:
    """The values of the masks beside 255, sorted."""
    values: set[int] = set()
    for mask, _ in stamped:
        values.update(torch.unique(read_index_image(mask)).tolist())
    return tuple(sorted(values - {IGNORE}))


def _numbers(root: Path, stamped: Stamps) -> tuple[str, ...]:
    """The numbers up to the largest one as names; a warning where most of them occur nowhere."""
    present = _present(stamped)
    count = max(present, default=0) + 1
    if count > 2 * len(present) + 10:
        shown = ", ".join(map(str, present[:8])) + (", ..." if len(present) > 8 else "")
        warnings.warn(
            f"{root}: the masks hold the {len(present)} values {shown} alone, and {count} classes are taken for them; "
            f"where these are greys that stand for classes, write a line 'r g b name' for each into {root / FILES[0]}, "
            f"else the names of all classes into {root / _NAMES[0]}",
            stacklevel=2,
        )
    return tuple(map(str, range(count)))
