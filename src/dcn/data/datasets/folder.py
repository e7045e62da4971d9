"""Any folder of images and index PNGs, described by a small YAML file."""

from __future__ import annotations

from pathlib import Path

from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.formats.index_masks import read_description


def open_folder(
    root: str | Path,
    split: str = "train",
    *,
    description: str = "dataset.yaml",
    unknown_colors: str = "refuse",
    unlabelled: str = "refuse",
    upright: bool = False,
    broken: str = "refuse",
) -> SegmentationDataset:
    """Open a split of a described folder.

    The description says::

        classes: [road, grass, other]
        splits:
          train: {images: photos/train, labels: masks/train}
          val: {images: photos/val, labels: masks/val}
        values: [1, 2, 5]    # optional: the pixel value of each class; 0, 1, 2... when left out
        ignore: [0]          # optional: values that are neither trained nor evaluated, beside 255
        suffix: _mask        # optional: what the name of a mask has after that of its image

    Masks of 0 and 255 are described by ``values: [0, 255]``; 255 is then a class. Masks in colours are described by
    ``colors: {road: [128, 64, 128], void: [0, 0, 0]}`` or ``colors: FILE`` in place of ``values`` and ``ignore``.

    Args:
        root: the folder that the paths of the description are relative to.
        split: a key of ``splits``; several are joined with ``+``.
        description: the file, relative to ``root``.
        unknown_colors: what becomes of a colour that ``colors`` does not have: ``"refuse"``, ``"ignore"`` (255) or
            ``"nearest"``.
        unlabelled: see `SegmentationDataset`, like the two that follow.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images.

    Raises:
        ValueError: the description is missing or says something else, no such split, or an image without a mask.
    """
    root, file = Path(root), Path(root) / description
    said = read_description(file, unknown_colors)
    files = [item for part in split.split("+") for item in said.files(root, part, file)]
    name = f"{root.name}:{split}"
    return SegmentationDataset(
        name, said.classes, files, said.reader, unlabelled=unlabelled, upright=upright, broken=broken
    )


def available_splits(root: Path, description: str = "dataset.yaml") -> list[str]:
    """The splits that the description names; none where there is no description."""
    return list(read_description(root / description).splits) if (root / description).is_file() else []
