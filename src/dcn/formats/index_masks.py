"""Segmentation masks as index images: files whose pixel values stand for classes, and how files belong to images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcn.class_names import IGNORE, check_class_names
from dcn.formats.color_masks import ColorReader
from dcn.formats.color_tables import color_table
from dcn.formats.documents import read_yaml
from dcn.formats.file_names import image_files, posix
from dcn.formats.images import read_index_image
from dcn.formats.mat import read_label_mat
from dcn.formats.problems import short
from dcn.suggest import one_of

_KEYS = ("classes", "splits", "values", "ignore", "suffix", "colors")

ReadMask = Callable[[Path], Tensor]
"""A file to class indices ``[H, W]`` int64, ``0 .. C-1`` or 255."""


@dataclass(frozen=True)
class MaskFiles:
    """The files of one image.

    Attributes:
        image: the picture.
        mask: its segmentation mask, ``None`` where there is none.
        image_id: what the dataset calls it.
    """

    image: Path
    mask: Path | None
    image_id: str


@dataclass(frozen=True)
class IndexReader:
    """Reads masks whose pixel values stand for classes.

    Attributes:
        table: stored value to class index, 255 for values that are ignored. 255 itself is ignored unless the table
            says otherwise (masks of 0 and 255).
    """

    table: Mapping[int, int]

    def __call__(self, path: Path) -> Tensor:
        """``[H, W]`` int64 of an index image or a ``.mat`` file of SBD.

        Raises:
            ValueError: the file cannot be read as indices, or holds a value that the table does not know.
        """
        stored = read_label_mat(path) if path.suffix == ".mat" else read_index_image(path)
        return self.apply(stored, path)

    def apply(self, stored: Tensor, path: Path) -> Tensor:
        """The same for values already read."""
        known = {IGNORE: IGNORE, **self.table}
        present = torch.unique(stored).tolist()
        unknown = [value for value in present if value not in known]
        if unknown:
            hint = "; masks of 0 and 255 need values: [0, 255]" if set(present) == {0, 255} else ""
            raise ValueError(f"{path}: expected the values {_ranges(sorted(known))}, got {unknown[:8]}{hint}")
        lookup = torch.full((max(known) + 1,), IGNORE)
        lookup[list(known)] = torch.tensor(list(known.values()))
        return lookup[stored]


@dataclass(frozen=True)
class Description:
    """What the ``dataset.yaml`` of a folder of images and masks says.

    Attributes:
        classes: names in label order.
        splits: folders of images and of masks of each split, relative to the file.
        reader: reads one mask.
        suffix: what the name of a mask has after that of its image.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, tuple[str, str]]
    reader: ReadMask
    suffix: str

    def files(self, root: Path, split: str, file: Path) -> list[MaskFiles]:
        """The images of a split with their masks.

        Raises:
            ValueError: no such split, or its folder of images does not exist.
        """
        if split not in self.splits:
            raise ValueError(f"split: expected {one_of(self.splits, 'a split')} of {file}, got {split!r}")
        images, masks = (root / posix(name) for name in self.splits[split])
        if not images.is_dir():
            raise ValueError(f"{images}: the folder of images does not exist")
        files = []
        for image in image_files(images, below=True):
            relative = image.relative_to(images)
            # Images and masks may share a folder: the masks are then told by their suffix.
            if images == masks and self.suffix and image.stem.endswith(self.suffix):
                continue
            mask = masks / relative.parent / f"{image.stem}{self.suffix}.png"
            image_id = relative.with_suffix("").as_posix()
            files.append(MaskFiles(image, mask if mask.is_file() else None, image_id))
        return files


def read_description(file: Path, unknown_colors: str = "refuse") -> Description:
    """Read and check a ``dataset.yaml``.

    Args:
        file: the description.
        unknown_colors: what is done about colours that ``colors`` does not have, see `ColorReader`.

    Raises:
        ValueError: the file is missing, malformed or says something else.
    """
    said = read_yaml(file)
    if not isinstance(said, dict):
        raise ValueError(f"{file}: expected a mapping with {', '.join(_KEYS)}, got {type(said).__name__}")
    if unknown := [key for key in said if key not in _KEYS]:
        raise ValueError(f"{file}: expected the keys {', '.join(_KEYS)}, got {short(unknown[0])}")
    classes, splits = said.get("classes"), said.get("splits")
    if classes is None and "colors" in said:
        classes = list(color_table(said["colors"], file.parent).names)
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{file}: classes: expected a list of names, got {short(classes)}")
    if not isinstance(splits, dict) or not splits:
        raise ValueError(
            f"{file}: splits: expected at least one 'name: {{images: ..., labels: ...}}', got {short(splits)}"
        )
    folders = {str(name): _folders(file, name, part) for name, part in splits.items()}
    try:
        names = check_class_names(classes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return Description(names, folders, _reader(file, said, names, unknown_colors), str(said.get("suffix") or ""))


def _reader(file: Path, said: Mapping[str, Any], names: tuple[str, ...], unknown_colors: str) -> ReadMask:
    if said.get("colors") is None:
        return IndexReader(_table(file, said, len(names)))
    if said.get("values") or said.get("ignore"):
        raise ValueError(
            f"{file}: colors: expected no values and no ignore beside it, got both; the colours of the name "
            "'void' do not count"
        )
    try:
        return ColorReader(color_table(said["colors"], file.parent).ordered(names), unknown_colors)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _folders(file: Path, name: object, part: object) -> tuple[str, str]:
    if not isinstance(part, dict) or part.keys() != {"images", "labels"}:
        raise ValueError(f"{file}: splits.{name}: expected {{images: FOLDER, labels: FOLDER}}, got {short(part)}")
    if not all(isinstance(folder, str) for folder in part.values()):
        raise ValueError(f"{file}: splits.{name}: expected the names of folders, got {short(part)}")
    return part["images"], part["labels"]


def _table(file: Path, said: Mapping[str, Any], count: int) -> dict[int, int]:
    values, ignored = said.get("values") or [], said.get("ignore") or []
    for name, numbers in (("values", values), ("ignore", ignored)):
        if not isinstance(numbers, list) or not all(type(v) is int and 0 <= v < 65536 for v in numbers):
            raise ValueError(f"{file}: {name}: expected a list of numbers 0 to 65535, got {short(numbers)}")
    return index_table(count, values or None, ignored, f"{file}: ")


def index_table(count: int, values: Sequence[int] | None, ignored: Sequence[int], where: str = "") -> dict[int, int]:
    """Stored value to class index, for ``count`` classes.

    Args:
        count: number of classes.
        values: the stored value of each class; ``None``: 0, 1, 2 ...
        ignored: values that become 255.
        where: the start of an error message.

    Raises:
        ValueError: not a value for each class, or a value that stands for two things.
    """
    if values is not None and len(values) != count:
        raise ValueError(f"{where}values: expected one for each of {count} classes, got {len(values)}")
    used = list(values) if values is not None else list(range(count))
    if len({*used, *ignored}) != len(used) + len(ignored):
        twice = next(value for value in (*used, *ignored) if (*used, *ignored).count(value) > 1)
        raise ValueError(f"{where}values, ignore: expected each value once, got {twice} twice")
    if values is None and count > IGNORE:
        raise ValueError(
            f"{where}values: expected one for each of more than {IGNORE} classes, got none; {IGNORE} is taken"
        )
    return {value: index for index, value in enumerate(used)} | dict.fromkeys(ignored, IGNORE)


def _ranges(values: Sequence[int]) -> str:
    """``0-10, 255`` for sorted numbers."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
