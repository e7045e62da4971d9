"""Any folder of data: its layout is recognised, and where it has no split, one is made."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dcn.data.dataset import Dataset
from dcn.data.format import Format, Table
from dcn.data.hints import hint, what_it_holds
from dcn.data.splitting import ROLES, SplitPart, make_splits, part_of, target_of
from dcn.formats.layouts import unknown_split
from dcn.formats.problems import attempt, refuse, short
from dcn.formats.splits import SPLITS_FILE, Splits, read_splits
from dcn.structures import Target

AUTO = "auto"
VAL_SHARE = TEST_SHARE = 0.15

_BEGINNINGS = {"train": ("train",), "val": ("val", "dev", "eval"), "test": ("test",)}
_BEFORE = re.compile(r"\d{4}_|obj_")  # a year of VOC, the folders of CVAT


@dataclass(frozen=True)
class Layout:
    """What a folder was taken for.

    Attributes:
        format: the name of the row in the catalog.
        says: the layout in words.
        splits: the splits that the folder has by itself.
        roles: which of them is for training, validation and test; joined with ``+`` where there are several.
        recorded: the split that ``splits.json`` in the folder records.
    """

    format: str
    says: str
    splits: tuple[str, ...]
    roles: Mapping[str, str]
    recorded: Splits | None = None

    @property
    def is_split(self) -> bool:
        """Whether images for training and images for validation are told apart."""
        return self.recorded is not None or {"train", "val"} <= self.roles.keys()

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a part has: ``train``, ``val``, ``test``, where the folder has or gets them."""
        if self.recorded is not None:
            return tuple(dict.fromkeys((*self.recorded.images, *(("test",) if "test" in self.roles else ()))))
        return tuple(role for role in ROLES if not self.is_split or role in self.roles)

    @property
    def pool(self) -> str:
        """What is split where the folder does not do it: the training images, or all."""
        return self.roles.get("train") or "+".join(self.splits)


def detect_format(table: Table, root: Path) -> str:
    """The name of the format whose layout a folder has.

    Raises:
        ValueError: the folder does not exist, or looks like none of them.
    """
    if not root.is_dir():
        raise ValueError("the folder does not exist" if not root.exists() else "expected a folder, got a file")
    for name, row in table.items():
        if row.recognisable and row.splits is not None and row.splits(root):
            return name
    nearly = hint(table, root)
    if nearly is not None:
        raise ValueError(f"cannot tell the format: {nearly}")
    names = sorted(path.name for path in root.iterdir())
    raise ValueError(
        f"cannot tell the format: {what_it_holds(root)}. Expected ImageSets/Main/*.txt with Annotations (voc), a "
        "VOCdevkit (voc), images with XML files (voc_files) or JSON files of LabelMe (labelme), "
        "annotations/instances_*.json or *.json (coco), <split>/_annotations.coco.json (coco_folders), data.yaml or "
        "classes.txt with images and labels (yolo), *.csv with file, x1, y1, x2, y2, class (csv), images with "
        "segmentation masks (masks), leftImg8bit (cityscapes), <split> and <split>annot (camvid), or dataset.yaml "
        f"(folder), got {short(names) if names else 'an empty folder'}"
    )


def find_layout(table: Table, root: Path) -> Layout:
    """Look at a folder.

    Raises:
        ValueError: it looks like nothing that is known, or its ``splits.json`` is malformed.
    """
    format = attempt(partial(detect_format, table, root), refuse, root, "")
    assert format is not None  # refuse raises
    row = table[format]
    assert row.splits is not None  # generated data is not recognised
    splits = tuple(row.splits(root))
    file = root / SPLITS_FILE
    recorded = read_splits(file) if file.is_file() else None
    return Layout(format, row.says, splits, find_roles(splits), recorded)


def find_roles(splits: Sequence[str]) -> dict[str, str]:
    """Which split is for what, from its name: ``valid`` is ``val``, ``2007_trainval`` is ``train``.

    The plainest name wins (``train`` over ``trainval``); the same name of several years is joined with ``+``.
    """
    roles = {}
    for role, beginnings in _BEGINNINGS.items():
        plain = {split: _BEFORE.sub("", split, count=1).lower() for split in splits}
        fitting = sorted((name for name in plain.values() if name.startswith(beginnings)), key=lambda n: (n != role, n))
        if fitting:
            roles[role] = "+".join(split for split in splits if plain[split] == fitting[0])
    return roles


def open_auto(
    table: Table,
    root: str | Path,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    masks: bool = True,
    keep_empty: bool = True,
    degenerate: str = "skip",
    upright: bool = False,
    broken: str = "refuse",
    outside: str = "refuse",
    unlabelled: str = "refuse",
    annotations: Any = None,
    images: Any = None,
    colors: Any = None,
    unknown_colors: str = "refuse",
    val_share: float = VAL_SHARE,
    test_share: float = TEST_SHARE,
    split_seed: int = 0,
) -> Dataset:
    """Open a split of a folder in any known layout.

    Args:
        table: the formats.
        root: the folder.
        split: ``train``, ``val``, ``test``, or a name that the folder itself has.
        classes: the names in label order; ``None``: those of the data.
        masks: see the datasets, like the options that follow; formats that lack one of them go without.
        keep_empty: keep images without an object that training may use.
        degenerate: what to do with a box without extent.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images.
        outside: what to do with boxes that reach outside of their image.
        unlabelled: what to do with images without a segmentation mask.
        annotations: COCO: annotation file.
        images: COCO: image folder.
        colors: segmentation masks in colours: what they mean, see `dcn.data.datasets.masks.open_masks`.
        unknown_colors: what becomes of other colours.
        val_share: share of the images for validation, where the folder has no split for it.
        test_share: share of the images for the test, where the folder has no split for it.
        split_seed: of the random choice.

    Raises:
        ValueError: an unknown layout, no such split, or whatever is wrong with the data.
    """
    root = Path(root)
    layout = find_layout(table, root)
    row = table[layout.format]
    options: dict[str, Any] = {
        "masks": masks, "degenerate": degenerate, "upright": upright, "broken": broken, "outside": outside,
        "unlabelled": unlabelled, "unknown_colors": unknown_colors,
    }  # fmt: skip
    named = {"classes": classes, "annotations": annotations, "images": images, "colors": colors}
    options |= {name: value for name, value in named.items() if value is not None}
    known = inspect.signature(row.open).parameters
    superfluous = [name for name, value in named.items() if value is not None and name not in known]
    if superfluous and superfluous != ["classes"]:  # a recipe's classes are compared after opening
        raise ValueError(f"options: expected those of {layout.format!r} ({root}), got {superfluous[-1]!r}")
    options = {name: value for name, value in options.items() if name in known}
    if layout.format == "voc":
        options.setdefault("classes", "auto")
    own = _own_split(layout, root, split)
    if own is not None:
        return _open(row, root, own, options, keep_empty)
    dataset = _open(row, root, layout.pool, options, True)
    splits = layout.recorded or split_of_pool(dataset, root, layout, val_share, test_share, split_seed)
    part = part_of(dataset, root, splits, split)
    return part if keep_empty else _without_empty(part)


def _own_split(layout: Layout, root: Path, split: str) -> str | None:
    """The folder's own split that is meant; ``None`` where the images are split here."""
    if layout.recorded is not None:
        return layout.roles.get(split) if split not in layout.recorded.images else None
    if layout.is_split:
        # Where no images are kept for the test, those of the validation are what there is.
        role = "val" if split == "test" and "test" not in layout.roles else split
        own = split if split in layout.splits else layout.roles.get(role)
        if own is None:
            raise unknown_split(split, layout.splits, root, "a split")
        return own
    if split in ROLES:  # "train" of a folder without validation is what is left of it after the split
        return layout.roles.get("test") if split == "test" else None
    return split if split in layout.splits else None


def _open(row: Format, root: Path, split: str, options: Mapping[str, Any], keep_empty: bool) -> Dataset:
    known = inspect.signature(row.open).parameters
    return row.open(root, split, **options, **({"keep_empty": keep_empty} if "keep_empty" in known else {}))


def split_of_pool(
    dataset: Dataset, root: Path, layout: Layout, val_share: float, test_share: float, seed: int
) -> Splits:
    """The split that is made of the images of a folder without one; its own test images are left alone."""
    shares = {"val": val_share, **({} if "test" in layout.roles else {"test": test_share})}
    return make_splits(dataset, root, shares, seed)


def _without_empty(part: SplitPart) -> SplitPart:
    """Images with an object that training may use; all of them where the annotations are no boxes."""
    if not part.indices or not isinstance(target_of(part.dataset, part.indices[0]), Target):
        return part
    kept = [index for index in part.indices if not bool(target_of(part.dataset, index).ignored.all())]
    return replace(part, indices=kept)


def auto_splits(table: Table, root: Path) -> list[str]:
    """The names that a split of a folder may have: ``train``, ``val``, ``test``, where it has or gets them."""
    return list(find_layout(table, root).names)
