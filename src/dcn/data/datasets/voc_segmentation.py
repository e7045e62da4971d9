"""Pascal VOC's segmentation task: ``SegmentationClass/*.png`` with palette, and its augmentation with SBD.

SBD is the Semantic Boundaries Dataset (Hariharan et al. 2011): masks for more images of Pascal VOC, ``cls/*.mat``;
conversions to index PNGs (``cls_png/*.png``) are read as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcn.class_names import VOC_CLASSES
from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.formats.documents import read_text
from dcn.formats.file_names import files_in
from dcn.formats.index_masks import IndexReader, MaskFiles
from dcn.formats.voc import image_file, listed_stem
from dcn.suggest import one_of

CLASSES = ("background", *VOC_CLASSES)
AUGMENTED = "train_aug"
_LISTS = ("ImageSets/Segmentation", "ImageSets/Main")


def open_voc_segmentation(
    root: str | Path,
    split: str = "train",
    *,
    masks: Sequence[str] = ("SegmentationClass", "SegmentationClassAug"),
    augmentation: str | None = None,
    unlabelled: str = "refuse",
    upright: bool = False,
    broken: str = "refuse",
) -> SegmentationDataset:
    """Open a split of the 21 classes, background first; 255 (boundaries) is ignored.

    Args:
        root: the folder with ``JPEGImages`` and ``SegmentationClass``, or a VOCdevkit (or its parent) with ``VOC2012``.
        split: a list in ``ImageSets/Segmentation`` or ``ImageSets/Main``. ``train_aug`` needs no list where
            ``augmentation`` is given: all of SBD and VOC's train, without VOC's val: 10,582 images.
        masks: folders of masks; for each image the first that has it counts.
        augmentation: the folder of SBD, with ``cls``, ``train.txt`` and ``val.txt``; it supplies the masks that the
            folders above do not have.
        unlabelled: see `SegmentationDataset`, like the two that follow.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images.

    Raises:
        ValueError: no such folder or list, an image that is not there, or one without a mask.
    """
    folder = _devkit(Path(root))
    extra = None if augmentation is None else Path(augmentation)
    stems = _stems(folder, split, extra)
    files = [_files(folder, stem, masks, extra) for stem in stems]
    reader = IndexReader({index: index for index in range(len(CLASSES))})
    name = f"{folder.name}:{split}"
    return SegmentationDataset(name, CLASSES, files, reader, unlabelled=unlabelled, upright=upright, broken=broken)


def available_splits(root: Path) -> list[str]:
    """Names of the lists in ``ImageSets/Segmentation``."""
    return [path.stem for path in files_in(root / _LISTS[0], ".txt")]


def _devkit(root: Path) -> Path:
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise ValueError(f"root: expected a folder with JPEGImages, or with VOC2012 in it, got {root}")


def _stems(folder: Path, split: str, extra: Path | None) -> list[str]:
    file = next((path for name in _LISTS if (path := folder / name / f"{split}.txt").is_file()), None)
    if file is not None:
        return _listed(file, folder)
    if split != AUGMENTED or extra is None:
        hint = "; the option augmentation=FOLDER_OF_SBD makes it" if split == AUGMENTED else ""
        known = one_of(available_splits(folder), f"a list {split}.txt")
        raise ValueError(f"split: expected {known} in {folder / 'ImageSets' / 'Segmentation'}, got {split!r}{hint}")
    own = set(_stems(folder, "train", None))
    return sorted((listed_in_sbd(extra) | own) - set(_stems(folder, "val", None)))


def _listed(file: Path, folder: Path) -> list[str]:
    """The images of a list; a second column (1, -1) is left out unless a file has it in its name."""
    lines = read_text(file, "list of images").lines()
    return [listed_stem(line, lambda stem: image_file(folder, stem).is_file()) for _, line in lines]


def _files(folder: Path, stem: str, masks: Sequence[str], extra: Path | None) -> MaskFiles:
    mask = next((path for name in masks if (path := folder / name / f"{stem}.png").is_file()), None)
    if mask is None and extra is not None:
        mask = mask_in_sbd(extra, stem)
    return MaskFiles(image_file(folder, stem), mask, stem)


def mask_in_sbd(root: Path, stem: str) -> Path | None:
    """The mask of an image below an SBD folder, in whichever form there is."""
    paths = [root / "cls" / f"{stem}.mat", root / "cls_png" / f"{stem}.png", root / "cls" / f"{stem}.png"]
    return next((path for path in paths if path.is_file()), None)


def listed_in_sbd(root: Path) -> set[str]:
    """Names of all images of SBD: its ``train.txt`` and ``val.txt`` together.

    Raises:
        ValueError: one of the lists is missing.
    """
    stems: set[str] = set()
    for name in ("train.txt", "val.txt"):
        if not (root / name).is_file():
            raise ValueError(
                f"sbd: expected train.txt and val.txt in {root}, got no {name}; give the folder 'dataset' of the "
                "archive"
            )
        stems.update(line.split()[0] for _, line in read_text(root / name, "list of images").lines())
    return stems
