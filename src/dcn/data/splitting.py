"""A split of images into training, validation and test: stratified by class, reproducible, without shared images."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcn.class_names import IGNORE
from dcn.data.dataset import Dataset
from dcn.data.subset import Subset
from dcn.formats.splits import SPLITS_FILE, Splits
from dcn.structures import SegmentationMap
from dcn.suggest import one_of

ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class SplitPart(Subset):
    """The images of one split of a set that was split here.

    Attributes:
        splits: the whole split.
        split: the name of this part.
    """

    splits: Splits
    split: str

    @property
    def name(self) -> str:
        """The name of the folder with that of the part."""
        return f"{self.dataset.name.split(':', maxsplit=1)[0]}:{self.split}"

    @property
    def category_ids(self) -> Sequence[int | str]:
        """The category ids of the whole set, where it has some (COCO)."""
        ids: Sequence[int | str] = getattr(self.dataset, "category_ids")  # noqa: B009  # not every dataset has them
        return ids

    def target(self, index: int) -> Any:
        """The annotation of one image without decoding the image."""
        return target_of(self.dataset, self.indices[index])


def target_of(dataset: Dataset, index: int) -> Any:
    """The annotation of one image; the image is decoded only where the dataset knows no other way."""
    read = getattr(dataset, "target", None)
    return dataset[index].target if read is None else read(index)


def classes_in(dataset: Dataset, index: int) -> Counter[int]:
    """How many objects of each class an image has; one for each class in a segmentation mask."""
    target = target_of(dataset, index)
    if target is None:
        return Counter()
    if isinstance(target, SegmentationMap):
        return Counter(label for label in target.labels.unique().tolist() if label != IGNORE)
    return Counter(target.labels.tolist())


def make_splits(dataset: Dataset, root: Path, shares: Mapping[str, float], seed: int) -> Splits:
    """Divide the images of a set.

    Images of the same content stay together, so that no image is in two splits. The groups of images are handed out
    class by class, the rarest first, each to the split that lacks most of that class (iterative stratification) among
    those that have not their share of the images yet.

    Args:
        dataset: all images.
        root: names of images are relative to it.
        shares: the share of each split besides ``train``, between 0 and 1: ``{"val": 0.15, "test": 0.15}``.
        seed: of the order in which images are taken; the same files and seed give the same split on every machine.

    Raises:
        ValueError: shares that leave nothing for training, or fewer images than splits.
    """
    wrong = [name for name, share in shares.items() if not 0 <= share < 1]
    if wrong or sum(shares.values()) >= 1:
        raise ValueError(f"shares: expected shares >= 0 that leave something for training, got {dict(shares)}")
    parts = {"train": 1 - sum(shares.values()), **{name: share for name, share in shares.items() if share > 0}}
    groups = _groups(dataset, root)
    if len(groups) < len(parts):
        raise ValueError(
            f"split: expected {len(parts)} different images or more for {', '.join(parts)}, got {len(groups)}"
        )
    random.Random(seed).shuffle(groups)
    chosen = _stratify([_total(dataset, group) for group in groups], [len(group) for group in groups], parts)
    images: dict[str, list[str]] = {name: [] for name in parts}
    for group, part in zip(groups, chosen, strict=True):
        images[part] += [image_name(dataset, index, root) for index in group]
    return Splits({name: tuple(sorted(names)) for name, names in images.items()}, seed)


def image_name(dataset: Dataset, index: int, root: Path) -> str:
    """The path of an image relative to a folder, with slashes on every system."""
    path = dataset.image_path(index)
    if path is None:
        raise ValueError(f"split: expected images in files, got the generated data {dataset.name}")
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _total(dataset: Dataset, group: Sequence[int]) -> Counter[int]:
    return sum((classes_in(dataset, index) for index in group), Counter[int]())


def _groups(dataset: Dataset, root: Path) -> list[list[int]]:
    """Indices of images of the same content, in the order of their names; files of a length of its own are not read."""
    order = sorted(range(len(dataset)), key=lambda index: image_name(dataset, index, root))
    by_length: dict[int, list[int]] = defaultdict(list)
    for index in order:
        path = dataset.image_path(index)
        assert path is not None  # image_name has refused generated images
        by_length[path.stat().st_size if path.is_file() else -1 - index].append(index)
    groups: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for length, indices in by_length.items():
        for index in indices:
            groups[length, b"" if len(indices) == 1 else _digest(dataset.image_path(index))].append(index)
    position = {index: number for number, index in enumerate(order)}
    return sorted(groups.values(), key=lambda group: position[group[0]])


def _digest(path: Path | None) -> bytes:
    assert path is not None  # image_name has refused generated images
    return hashlib.sha256(path.read_bytes()).digest()


def _stratify(objects: list[Counter[int]], images: list[int], parts: Mapping[str, float]) -> list[str]:
    """The split of each group of images."""
    totals = sum(objects, Counter[int]())
    lacking = {name: {label: share * count for label, count in totals.items()} for name, share in parts.items()}
    free = {name: share * sum(images) for name, share in parts.items()}
    chosen: list[str] = [""] * len(objects)
    waiting, empty = len(objects), set(parts)

    def give(number: int, label: int | None) -> None:
        nonlocal waiting
        # The last groups go to splits that have none yet: no split stays empty. A split that has its share of the
        # images gets no more, however few objects it has: one image may hold most of them.
        roomy = [name for name in parts if free[name] > 0] or list(parts)
        choice = [name for name in parts if name in empty] if waiting <= len(empty) else roomy
        name = max(choice, key=lambda n: (lacking[n][label] if label is not None else 0.0, free[n]))
        chosen[number] = name
        waiting -= 1
        empty.discard(name)
        free[name] -= images[number]
        for one, count in objects[number].items():
            lacking[name][one] -= count

    for label, _ in sorted(totals.items(), key=lambda item: (item[1], item[0])):
        holders = [number for number, counts in enumerate(objects) if counts[label] and not chosen[number]]
        for number in sorted(holders, key=lambda n: -objects[n][label]):
            give(number, label)
    for number in range(len(objects)):
        if not chosen[number]:
            give(number, None)
    return chosen


def part_of(dataset: Dataset, root: Path, splits: Splits, split: str) -> SplitPart:
    """The images of one split, or of several joined with ``+``.

    Raises:
        ValueError: no such split, or an image of it that is not in the set.
    """
    named: set[str] = set()
    for name in split.split("+"):
        if name not in splits.images:
            raise ValueError(f"split: expected {one_of(splits.images, 'a recorded split')}, got {name!r}")
        named |= set(splits.images[name])
    indices = [index for index in range(len(dataset)) if image_name(dataset, index, root) in named]
    if len(indices) < len(named):
        known = {image_name(dataset, index, root) for index in indices}
        missing = sorted(named - known)[0]
        raise ValueError(
            f"{root / SPLITS_FILE}: expected every image of {split!r} in the data, got {len(indices)} of {len(named)} "
            f"without {missing}; restore the images, or remove the file to split the data anew"
        )
    return SplitPart(dataset, indices, splits, split)
