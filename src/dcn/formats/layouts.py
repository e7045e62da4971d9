"""How images and their annotation files lie together: side by side, in two folders, or in a folder for each split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dcn.formats.file_names import files_in, image_files, image_of, is_hidden
from dcn.suggest import one_of

WHOLE = "all"
"""The name of the one split of a folder that is not split."""


def unknown_split(split: str, known: Iterable[str], root: Path, otherwise: str) -> ValueError:
    """The error about a split that a folder does not have.

    Args:
        split: what was asked for.
        known: the names of its splits.
        root: the folder.
        otherwise: what is expected where there is no split at all.
    """
    return ValueError(f"split: expected {one_of(known, otherwise)} in {root}, got {split!r}")


IMAGE_FOLDERS = ("images", "Images", "JPEGImages", "imgs", "img", "image")

Suffixes = str | tuple[str, ...]
"""Endings of annotation files, in lower case with their dots."""


@dataclass(frozen=True)
class FolderPair:
    """Where the files of one split are.

    Attributes:
        images: folder of the images.
        annotations: folder of the annotation files; the same where they lie side by side.
    """

    images: Path
    annotations: Path

    @property
    def side_by_side(self) -> bool:
        """Whether images and annotations share a folder."""
        return self.images == self.annotations

    def matched(self, suffix: Suffixes) -> list[tuple[Path, Path]]:
        """``(annotation file, its image)`` for the annotation files that have an image of the same name."""
        pairs = []
        for file in files_in(self.annotations, suffix, below=not self.side_by_side):
            stem = file.relative_to(self.annotations).with_suffix("").as_posix()
            image = image_of(self.images, stem)
            if image is not None and image != file:
                pairs.append((file, image))
        return pairs


def folder_pairs(
    root: Path, folders: tuple[str, ...], suffix: Suffixes, images: tuple[str, ...] = IMAGE_FOLDERS
) -> dict[str, FolderPair]:
    """The splits of a folder; empty where it is not laid out in such pairs.

    Args:
        root: the folder.
        folders: names that the folder of annotations may have.
        suffix: ending of the annotation files, in lower case with its dot, or several of them.
        images: names that the folder of images may have.

    Taken are ``images`` beside ``annotations`` (with or without folders of the splits in both), ``<split>/images``
    beside ``<split>/annotations``, ``<split>`` with the files side by side, and ``root`` with the files side by side.
    """
    if not root.is_dir():
        return {}
    pair = _pair(root, folders, suffix, images)
    if pair is not None:
        parts = {path.name: FolderPair(path, pair.annotations / path.name) for path in subfolders(pair.images)}
        parts = {name: part for name, part in parts.items() if _used(part, suffix)}
        return parts if len(parts) > 1 and not files_in(pair.annotations, suffix) else {WHOLE: pair}
    parts = {}
    for folder in subfolders(root):
        inner = _pair(folder, folders, suffix, images) or FolderPair(folder, folder)
        if _used(inner, suffix):
            parts[folder.name] = inner
    beside = FolderPair(root, root)
    return {WHOLE: beside} if not parts and _used(beside, suffix) else parts


def _pair(root: Path, folders: tuple[str, ...], suffix: Suffixes, names: tuple[str, ...]) -> FolderPair | None:
    """The first folder of images in ``root`` and the first one of annotations that fits it."""
    for images in (root / name for name in names if (root / name).is_dir()):
        for other in (root / name for name in folders if (root / name).is_dir()):
            pair = FolderPair(images, other)
            if _used(pair, suffix):
                return pair
    return None


def _used(pair: FolderPair, suffix: Suffixes) -> bool:
    if not pair.annotations.is_dir():
        return False
    if not pair.side_by_side:
        return bool(files_in(pair.annotations, suffix, below=True)) and bool(image_files(pair.images, below=True))
    return bool(pair.matched(suffix))


def subfolders(root: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and those that archives of macOS leave behind."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path) and path.name != "__MACOSX")
