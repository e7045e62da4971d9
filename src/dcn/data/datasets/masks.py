"""A folder of images and index PNGs without a description: ``images`` beside ``masks``, or side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from dcn.class_names import IGNORE, check_class_names
from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.formats.documents import read_text
from dcn.formats.file_names import files_in, image_files
from dcn.formats.images import read_index_image
from dcn.formats.index_masks import IndexReader, MaskFiles
from dcn.formats.layouts import WHOLE, FolderPair, folder_pairs, unknown_split
from dcn.formats.problems import Problem, attempt

FOLDERS = ("masks", "labels", "annotations", "SegmentationClass", "segmentation")
_SUFFIXES = ("_mask", "_label", "_labels", "_gt", "-mask")


def open_masks(
    root: str | Path,
    split: str = WHOLE,
    *,
    unlabelled: str = "refuse",
    upright: bool = False,
    broken: str = "refuse",
) -> SegmentationDataset:
    """Open a split.

    Args:
        root: the folder.
        split: one of `available_splits`, or several joined with ``+``.
        unlabelled: see `SegmentationDataset`, like the two that follow.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images.

    The masks hold 0, 1, 2 ... for the classes and 255 for pixels that are ignored. ``classes.txt`` names the classes,
    one a line; without it their numbers are their names.

    Raises:
        ValueError: no such split, or masks that are no index images.
    """
    root = Path(root)
    splits = _pairs(root)
    files: list[MaskFiles] = []
    for part in split.split("+"):
        if part not in splits:
            raise unknown_split(part, splits, root, "folders of images and of masks")
        files += _files(root, splits[part])
    classes = _classes(root, splits)
    reader = IndexReader({index: index for index in range(len(classes))})
    return SegmentationDataset(
        f"{root.name}:{split}", classes, files, reader, unlabelled=unlabelled, upright=upright, broken=broken
    )


def available_splits(root: Path) -> list[str]:
    """The splits of a folder; empty where its masks are no index images."""
    pairs = _pairs(root)
    return list(pairs) if pairs and first_problem(root) is None else []


def first_problem(root: Path) -> str | None:
    """Why the first masks of a folder are no index images; ``None`` where they are, or where there are none."""
    first = [item.mask for pair in _pairs(root).values() for item in _files(root, pair) if item.mask is not None][:3]
    problems: list[Problem] = []
    for mask in first:
        attempt(partial(read_index_image, mask), problems.append, mask, "")
    return str(problems[0]) if problems else None


def _pairs(root: Path) -> dict[str, FolderPair]:
    pairs = folder_pairs(root, FOLDERS, ".png")
    if pairs or not root.is_dir():
        return {name: pair for name, pair in pairs.items() if any(item.mask for item in _files(root, pair))}
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    beside = [FolderPair(folder, folder) for folder in folders]
    named = {pair.images.name: pair for pair in beside if any(item.mask for item in _files(root, pair))}
    return {WHOLE if pair.images == root else name: pair for name, pair in named.items()}


def _files(root: Path, pair: FolderPair) -> list[MaskFiles]:
    """Images with their masks: of the same name, or with an ending such as ``_mask`` before ``.png``."""
    masks = {
        file.relative_to(pair.annotations).with_suffix("").as_posix(): file
        for file in files_in(pair.annotations, ".png", below=not pair.side_by_side)
    }
    files, images = [], image_files(pair.images, below=not pair.side_by_side)
    endings = defaultdict[str, set[str]](set)
    for image in images:
        endings[image.stem].add(image.suffix.lower())
    for image in images:
        name = image.relative_to(pair.images).with_suffix("").as_posix()
        if pair.side_by_side and image.suffix.lower() == ".png" and _is_mask(name, endings):
            continue
        candidates = [masks.get(f"{name}{suffix}") for suffix in ("", *_SUFFIXES)]
        mask = next((file for file in candidates if file is not None and file != image), None)
        files.append(MaskFiles(image, mask, image.relative_to(root).with_suffix("").as_posix()))
    return files


def _is_mask(name: str, endings: Mapping[str, set[str]]) -> bool:
    """Whether a PNG beside the images is the mask of one of them; ``endings`` are those of the images by stem."""
    of_same_name = endings.get(name, set()) - {".png"}
    shorter = (name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix))
    return bool(of_same_name) or any(stem in endings for stem in shorter)


def _classes(root: Path, splits: dict[str, FolderPair]) -> tuple[str, ...]:
    names = root / "classes.txt"
    if names.is_file():
        return check_class_names([text for _, text in read_text(names, "list of classes").lines()])
    masks = [item.mask for pair in splits.values() for item in _files(root, pair) if item.mask is not None]
    highest = 0
    for mask in masks:
        stored = read_index_image(mask)
        known = stored[stored != IGNORE]
        highest = max(highest, int(known.max()) if known.numel() else 0)
    return tuple(str(index) for index in range(highest + 1))
