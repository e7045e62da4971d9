"""CamVid as it was published with SegNet: ``<split>/*.png`` or ``.jpg`` beside ``<split>annot/*.png``."""

from __future__ import annotations

from pathlib import Path

from dcn.class_names import CAMVID_CLASSES, IGNORE
from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.formats.file_names import files_in, image_files
from dcn.formats.images import has_colors
from dcn.formats.index_masks import IndexReader, MaskFiles
from dcn.formats.layouts import unknown_split
from dcn.formats.problems import BrokenImageError

_VOID = 11


def open_camvid(
    root: str | Path,
    split: str = "train",
    *,
    unlabelled: str = "refuse",
    upright: bool = False,
    broken: str = "refuse",
) -> SegmentationDataset:
    """Open a split.

    Args:
        root: the folder with ``train`` and ``trainannot`` and so on.
        split: ``train``, ``val``, ``test``, or several joined with ``+``.
        unlabelled: see `SegmentationDataset`, like the two that follow.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images.

    The masks hold 0 to 10 for the classes and 11 for void, which becomes 255.

    Raises:
        ValueError: no such split, or an image without a mask.
    """
    root = Path(root)
    files = [item for part in split.split("+") for item in _files(root, part)]
    reader = IndexReader({**{index: index for index in range(_VOID)}, _VOID: IGNORE})
    name = f"{root.name}:{split}"
    return SegmentationDataset(
        name, CAMVID_CLASSES, files, reader, unlabelled=unlabelled, upright=upright, broken=broken
    )


def available_splits(root: Path) -> list[str]:
    """Names of the folders that have a folder of index masks beside them; none where the masks are in colours."""
    folders = sorted(path for path in root.glob("*annot") if path.is_dir())
    first = next((mask for folder in folders for mask in files_in(folder, ".png")), None)
    return [] if first is not None and _in_colors(first) else [path.name.removesuffix("annot") for path in folders]


def _in_colors(mask: Path) -> bool:
    try:
        return has_colors(mask)
    except BrokenImageError:
        return False  # the check says so


def _files(root: Path, split: str) -> list[MaskFiles]:
    folder = root / split
    if not folder.is_dir():
        raise unknown_split(split, available_splits(root), root, "folders <split> and <split>annot")
    files = []
    for image in image_files(folder):
        mask = root / f"{split}annot" / f"{image.stem}.png"
        files.append(MaskFiles(image, mask if mask.is_file() else None, image.stem))
    return files
