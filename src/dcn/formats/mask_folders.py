"""How images and their segmentation masks lie together: two folders, folders of the splits, or side by side."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcn.formats.documents import read_text
from dcn.formats.file_names import files_in, image_files
from dcn.formats.index_masks import MaskFiles
from dcn.formats.layouts import IMAGE_FOLDERS, WHOLE, FolderPair, folder_pairs, subfolders

FOLDERS = (
    *("masks", "labels", "annotations", "SegmentationClass", "segmentation"),
    *("lbl", "lbls", "label", "mask", "annotation", "annots", "gt", "ground_truth"),
    *("masks_machine", "SegmentationClassPNG", "LabeledApproved_full"),  # Supervisely, LabelMe, CamVid
)
_IMAGES = (*IMAGE_FOLDERS, "701_StillsRaw_full")  # CamVid
_ENDINGS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg")
_SUFFIXES = (
    *("_mask", "_label", "_labels", "_gt", "-mask", "_seg", "_segmentation"),
    *("_L", "_P"),  # CamVid
)
_BESIDE = re.compile(r"(.+?)[_-]?(annot|annotations?|masks?|labels?|lbls?|gt)", re.IGNORECASE)
_LISTS = ("ImageSets", "Segmentation")


@dataclass(frozen=True)
class MaskSplit:
    """The images of a split and their masks.

    Attributes:
        pair: where they are.
        stems: the images that count, where a list names them.
    """

    pair: FolderPair
    stems: frozenset[str] | None = None

    def files(self, root: Path) -> list[MaskFiles]:
        """Images with their masks, which have the same name, or an ending such as ``_mask`` behind it."""
        files = _files(root, self.pair)
        return files if self.stems is None else [item for item in files if self._stem(item) in self.stems]

    def missing(self, files: Sequence[MaskFiles]) -> list[str]:
        """The images of the list that are not among the files."""
        return sorted((self.stems or frozenset()) - {self._stem(item) for item in files})

    def _stem(self, item: MaskFiles) -> str:
        return item.image.relative_to(self.pair.images).with_suffix("").as_posix()


def mask_splits(root: Path) -> dict[str, MaskSplit]:
    """The splits of a folder of images and masks; empty where it is none.

    Taken are ``images`` beside ``masks`` (with or without folders of the splits in both, or lists in
    ``ImageSets/Segmentation``), ``<split>/images`` beside ``<split>/masks``, ``<split>`` beside ``<split>_masks``, and
    images side by side with their masks.
    """
    if not root.is_dir():
        return {}
    pairs = folder_pairs(root, FOLDERS, _ENDINGS, _IMAGES)
    found = {name: pair for name, pair in pairs.items() if _has_masks(root, pair)}
    if set(found) == {WHOLE}:
        return _listed(root, found[WHOLE])
    beside = {path: FolderPair(path, path) for path in (root, *subfolders(root))}
    found = found or {name: pair for name, pair in _neighbours(root).items() if _has_masks(root, pair)}
    found = found or {
        WHOLE if path == root else path.name: pair for path, pair in beside.items() if _has_masks(root, pair)
    }
    return {name: MaskSplit(pair) for name, pair in found.items()}


def without_match(root: Path) -> FolderPair | None:
    """The first folders of images and of masks whose files have no name in common."""
    pairs = folder_pairs(root, FOLDERS, _ENDINGS, _IMAGES) | _neighbours(root)
    apart = (
        pair for pair in pairs.values() if not pair.side_by_side and files_in(pair.annotations, _ENDINGS, below=True)
    )
    return next((pair for pair in apart if not _has_masks(root, pair)), None)


def _has_masks(root: Path, pair: FolderPair) -> bool:
    return any(item.mask for item in _files(root, pair))


def _neighbours(root: Path) -> dict[str, FolderPair]:
    """``train`` beside ``train_masks``, ``trainannot`` and the like; ``train_images`` counts as ``train``."""
    folders = {path.name: path for path in subfolders(root)}
    pairs = {}
    for name, folder in folders.items():
        match = _BESIDE.fullmatch(name)
        names = [] if match is None else [match[1], *(f"{match[1]}_{images}" for images in IMAGE_FOLDERS)]
        images = next((folders[other] for other in names if other in folders), None)
        if match is not None and images is not None:
            pairs[match[1]] = FolderPair(images, folder)
    return pairs


def _listed(root: Path, pair: FolderPair) -> dict[str, MaskSplit]:
    """The splits that lists in ``ImageSets/Segmentation`` name, else the one whole."""
    splits = {}
    for file in files_in(root.joinpath(*_LISTS), ".txt"):
        stems = {line for _, line in read_text(file, "list of images").lines()}
        if stems:
            splits[file.stem] = MaskSplit(pair, frozenset(stems))
    return splits or {WHOLE: MaskSplit(pair)}


def _files(root: Path, pair: FolderPair) -> list[MaskFiles]:
    """Images with their masks: of the same name, or with an ending such as ``_mask``."""
    masks: dict[str, Path] = {}
    together = pair.side_by_side
    for file in files_in(pair.annotations, _ENDINGS, below=not together):
        name = file.relative_to(pair.annotations).with_suffix("").as_posix()
        if name not in masks or file.suffix.lower() == ".png":
            masks[name] = file
    files, images = [], image_files(pair.images, below=not together)
    endings = defaultdict[str, set[str]](set)
    for image in images:
        endings[image.stem].add(image.suffix.lower())
    for image in images:
        name = image.relative_to(pair.images).with_suffix("").as_posix()
        if together and _is_mask(image, endings):
            continue
        candidates = [masks.get(text) for text in (name, *(f"{name}{end}" for end in (*_SUFFIXES, image.suffix)))]
        if together and candidates[0] is not None and candidates[0].suffix.lower() != ".png":
            candidates[0] = None  # two pictures of one name
        mask = next((file for file in candidates if file is not None and file != image), None)
        files.append(MaskFiles(image, mask, image.relative_to(root).with_suffix("").as_posix()))
    return files


def _is_mask(file: Path, endings: Mapping[str, set[str]]) -> bool:
    """Whether a file beside the images is the mask of one of them; ``endings`` are those of the images by stem."""
    of_same_name = endings.get(file.stem, set()) - {".png"} if file.suffix.lower() == ".png" else set()
    shorter = (file.stem.removesuffix(suffix) for suffix in _SUFFIXES if file.stem.endswith(suffix))
    return bool(of_same_name) or any(stem in endings for stem in shorter)
