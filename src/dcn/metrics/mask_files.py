"""Scores segmentation masks from files: a folder of index images against another."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcn.class_names import IGNORE, VOC_CLASSES, check_class_names
from dcn.formats.black_and_white import are_black_and_white, black_and_white
from dcn.formats.color_masks import ColorReader
from dcn.formats.color_tables import color_table
from dcn.formats.documents import read_text
from dcn.formats.file_names import image_files
from dcn.formats.images import read_index_image
from dcn.formats.index_masks import IndexReader, ReadMask, index_table, read_description
from dcn.metrics.results import SegmentationResult
from dcn.metrics.segmentation import Absent, MeanIoU


def evaluate_mask_files(
    results: str | PathLike[str],
    annotations: str | PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    values: Sequence[int] | None = None,
    ignore: Sequence[int] = (),
    split: str | None = None,
    colors: Any = None,
    unknown_colors: str = "refuse",
    absent: Absent = "zero",
) -> SegmentationResult:
    """Score segmentation masks from files, as ``dcn eval --save`` and ``dcn predict`` write them.

    Args:
        results: folder of index images; pixel values are class indices 0 .. C-1, and 255 for no class. Black and white
            masks (0 and 255) where the annotations are so too.
        annotations: folder of index images (``SegmentationClass``, ``valannot``); a folder with ``dataset.yaml``; or a
            Pascal VOC folder with ``SegmentationClass``. Files belong together by their path below the folder, or by
            their name where that is unique.
        classes: names in label order; with a description its own. ``None``: VOC's for a VOC folder, else the numbers up
            to the largest value that occurs.
        values: pixel value of each class in the annotations; ``None``: 0, 1, 2 ...
        ignore: values in the annotations that do not count, beside 255.
        colors: what the colours of the annotations mean, where they have some: a file or a mapping, see
            `dcn.formats.color_tables`.
        unknown_colors: what becomes of other colours: ``"refuse"``, ``"ignore"`` or ``"nearest"``.
        split: for a description or a VOC folder; ``None``: all masks, or the only split.
        absent: what a class is worth that occurs nowhere, see `MeanIoU`.

    Raises:
        ValueError: a missing or broken file, an annotated image without a result, masks of different size, a value
            that stands for no class.
    """
    metric = count_mask_files(
        results,
        annotations,
        classes=classes,
        values=values,
        ignore=ignore,
        split=split,
        colors=colors,
        unknown_colors=unknown_colors,
        absent=absent,
    )
    return metric.compute()


def count_mask_files(
    results: str | PathLike[str],
    annotations: str | PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    values: Sequence[int] | None = None,
    ignore: Sequence[int] = (),
    split: str | None = None,
    colors: Any = None,
    unknown_colors: str = "refuse",
    absent: Absent = "zero",
) -> MeanIoU:
    """The counted pixels of `evaluate_mask_files`, with its arguments and errors: also the confusion matrix."""
    source = Path(annotations).expanduser()
    masks, reader, names = _annotated(source, classes, values, ignore, split)
    if not masks:
        raise ValueError(f"annotations: expected segmentation masks (index PNGs) in {source}, got none")
    folder = Path(results).expanduser()
    if not folder.is_dir():
        raise ValueError(f"results: expected a folder of segmentation masks, got {folder}")
    pairs = [(path, _result_of(name, folder)) for name, path in sorted(masks.items())]
    plain: ReadMask | None = None
    if colors is not None:
        table = color_table(colors, source)
        reader, names = ColorReader(table, unknown_colors), table.names
    elif reader is None and values is None and not ignore and are_black_and_white(list(masks.values()), names):
        reader = black_and_white(names, unknown_colors)
        names = reader.table.names
        plain = reader if are_black_and_white([result for _, result in pairs], names) else None
    if names is None:
        largest = _largest(masks.values(), ignore)
        value = _largest([result for _, result in pairs], ignore)
        if value > largest:
            message = f"the value {value} is larger than all that are annotated, 0 to {largest}"
            warnings.warn(f"{folder}: {message}; every value up to it counts as a class", stacklevel=2)
        names = tuple(map(str, range(max(largest, value) + 1)))
    if reader is None:
        reader = IndexReader(index_table(len(names), values, ignore))
    metric = MeanIoU(len(names), absent=absent, classes=names)
    plain = plain or IndexReader({index: index for index in range(len(names))})
    for annotated, predicted in pairs:
        target, prediction = reader(annotated), plain(predicted)
        if target.shape != prediction.shape:
            raise ValueError(
                f"{predicted}: expected the size of {annotated}, {list(target.shape)}, got {list(prediction.shape)}"
            )
        metric.update([prediction], [target])
    return metric


Source = tuple[dict[str, Path], ReadMask | None, tuple[str, ...] | None]


def _annotated(
    source: Path,
    classes: Sequence[str] | None,
    values: Sequence[int] | None,
    ignore: Sequence[int],
    split: str | None,
) -> Source:
    """The masks by the name of their image, what reads them, and the class names; ``None`` for what is not told."""
    if not source.is_dir():
        raise ValueError(f"annotations: expected a folder of segmentation masks, got {source}")
    description = source / "dataset.yaml"
    if description.is_file():
        said = read_description(description)
        part = split or (next(iter(said.splits)) if len(said.splits) == 1 else None)
        if part is None:
            raise ValueError(f"split: expected one of {', '.join(said.splits)}, got None")
        files = said.files(source, part, description)
        reader = said.reader if values is None and not ignore else None
        return {item.image_id: item.mask for item in files if item.mask is not None}, reader, said.classes
    names = None if classes is None else check_class_names(classes)
    if (folder := source / "SegmentationClass").is_dir():
        return _of_split(folder, source, split), None, names or ("background", *VOC_CLASSES)
    if split is not None:
        raise ValueError(f"split: expected None for a folder of masks, got {split!r} with {source}")
    return _by_name(source), None, names


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in image_files(folder, below=True)}


def _of_split(folder: Path, root: Path, split: str | None) -> dict[str, Path]:
    masks = _by_name(folder)
    if split is None:
        return masks
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    stems = [line.split()[0] for _, line in read_text(listing, "list of images").lines()]
    missing = [stem for stem in stems if stem not in masks]
    if missing:
        raise ValueError(f"{listing}: expected listed images with a mask in {folder}, got {missing[0]!r} without one")
    return {stem: masks[stem] for stem in stems}


def _result_of(name: str, folder: Path) -> Path:
    """The result for an image.

    Raises:
        ValueError: there is none.
    """
    for suffix in (".png", ".PNG"):
        for stem in (name, Path(name).name):
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    below = [path for path in image_files(folder, below=True) if path.stem == Path(name).name]
    if len(below) == 1:
        return below[0]
    state = "several" if below else "none"
    raise ValueError(f"results: expected a mask {name}.png in {folder} for every annotated image, got {state}")


def _largest(files: Iterable[Path], ignore: Sequence[int]) -> int:
    """The largest class index in any of the files."""
    left_out = {IGNORE, *ignore}
    return max((max(_present(path) - left_out, default=0) for path in files), default=0)


def _present(path: Path) -> set[int]:
    labels: Tensor = torch.unique(read_index_image(path))
    return set(labels.tolist())
