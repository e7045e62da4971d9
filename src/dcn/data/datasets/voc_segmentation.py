"""Pascal VOC's segmentation task: ``SegmentationClass/*.png`` with palette, and its augmentation with SBD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dcn.class_names import VOC_CLASSES
from dcn.data.datasets import sbd
from dcn.data.datasets.label_maps import IndexReader, LabelMaps, MapFiles
from dcn.data.datasets.voc_files import image_file

CLASSES = ("background", *VOC_CLASSES)
AUGMENTED = "train_aug"
_LISTS = ("ImageSets/Segmentation", "ImageSets/Main")


@dataclass(frozen=True)
class _Reader:
    """Index PNGs and SBD's .mat files by the same table."""

    table: IndexReader

    def __call__(self, path: Path) -> Tensor:
        return self.table.apply(sbd.read_labels(path), path)


def open_voc_segmentation(
    root: str | Path,
    split: str = "train",
    *,
    maps: Sequence[str] = ("SegmentationClass", "SegmentationClassAug"),
    augmentation: str | None = None,
    unlabelled: str = "refuse",
) -> LabelMaps:
    """Open a split of the 21 classes, background first; 255 (boundaries) is ignored.

    Args:
        root: the folder with ``JPEGImages`` and ``SegmentationClass``, or a VOCdevkit (or its parent) with ``VOC2012``.
        split: a list in ``ImageSets/Segmentation`` or ``ImageSets/Main``. ``train_aug`` needs no list where
            ``augmentation`` is given: all of SBD and VOC's train, without VOC's val: 10,582 images.
        maps: folders of label maps; for each image the first that has it counts.
        augmentation: the folder of SBD, with ``cls``, ``train.txt`` and ``val.txt``; it supplies the maps that the
            folders above do not have.
        unlabelled: see `LabelMaps`.

    Raises:
        ValueError: no such folder or list, an image that is not there, or one without a label map.
    """
    folder = _devkit(Path(root))
    extra = None if augmentation is None else Path(augmentation)
    stems = _stems(folder, split, extra)
    files = [_files(folder, stem, maps, extra) for stem in stems]
    reader = _Reader(IndexReader({index: index for index in range(len(CLASSES))}))
    return LabelMaps(f"{folder.name}:{split}", CLASSES, files, reader, unlabelled)


def available_splits(root: Path) -> list[str]:
    """Names of the lists in ``ImageSets/Segmentation``."""
    return sorted(path.stem for path in (root / _LISTS[0]).glob("*.txt"))


def _devkit(root: Path) -> Path:
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise ValueError(f"root: expected a folder with JPEGImages, or with VOC2012 in it, got {root}")


def _stems(folder: Path, split: str, extra: Path | None) -> list[str]:
    file = next((path for name in _LISTS if (path := folder / name / f"{split}.txt").is_file()), None)
    if file is not None:
        # Some lists have a second column (1, -1): the first one names the image.
        return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if split != AUGMENTED or extra is None:
        hint = "; the option augmentation=FOLDER_OF_SBD makes it" if split == AUGMENTED else ""
        known = ", ".join(available_splits(folder)) or "none"
        raise ValueError(f"split: {folder} has no list {split}.txt (ImageSets/Segmentation: {known}){hint}")
    own = set(_stems(folder, "train", None))
    return sorted((sbd.listed(extra) | own) - set(_stems(folder, "val", None)))


def _files(folder: Path, stem: str, maps: Sequence[str], extra: Path | None) -> MapFiles:
    labels = next((path for name in maps if (path := folder / name / f"{stem}.png").is_file()), None)
    if labels is None and extra is not None:
        labels = sbd.label_file(extra, stem)
    return MapFiles(image_file(folder, stem), labels, stem)
