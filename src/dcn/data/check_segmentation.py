"""What is wrong with a folder of images and segmentation masks."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from dcn.class_names import IGNORE
from dcn.data.datasets.segmentation import SegmentationDataset, missing_mask, size_problem
from dcn.data.findings import CheckOptions, Findings, decoded_size, note_turned
from dcn.formats.problems import Collector, Problem, Report, attempt

Open = Callable[..., SegmentationDataset]
Splits = Callable[[Path], list[str]]


def check_segmentation(
    name: str, open_split: Open, splits: Splits, root: Path, split: str | None, options: CheckOptions
) -> Findings:
    """Read every image and every mask of a folder, or of one split.

    Args:
        name: of the format.
        open_split: opens a split.
        splits: lists those of a folder.
        root: the folder.
        split: one split; ``None``: all.
        options: ``upright`` and, for formats that have them, the colours of the masks.
    """
    collector = Collector()
    report = collector.add
    names = [split] if split is not None else attempt(partial(splits, root), report, root, "") or []
    if not names and not collector.problems():
        report(Problem(root, "", f"there is no split in the layout of {name!r}"))
    images, counts, notes = 0, Counter[str](), list[str]()
    for part in names:
        check = partial(_check_split, open_split, root, part, report, options)
        result = attempt(check, report, root, "")
        if result is not None:
            images += result[0]
            counts += result[1]
            notes += [note for note in result[2] if note not in notes]
    return Findings(name, images, dict(sorted(counts.items())), collector.problems(), notes, by_image=True)


def _check_split(
    open_split: Open, root: Path, split: str, report: Report, options: CheckOptions
) -> tuple[int, Counter[str], list[str]]:
    """The number of images of a split, in how many of them each class occurs, and notes."""
    known = inspect.signature(open_split).parameters
    named = {"colors": options.colors, "unknown_colors": options.unknown_colors}
    colors = {name: value for name, value in named.items() if name in known}
    dataset = open_split(root, split, unlabelled="keep", upright=options.upright, **colors)
    counts: Counter[str] = Counter()
    ignored = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for labels, problem in pool.map(partial(_check_image, dataset), range(len(dataset))):
            counts.update(dataset.classes[label] for label in labels if label != IGNORE)
            ignored += IGNORE in labels
            if problem is not None:
                report(problem)
    notes = [dataset.note] if dataset.note else []
    notes += [] if options.upright else note_turned(item.image for item in dataset.files)
    if len(dataset.classes) == 2 and ignored and not counts[dataset.classes[1]]:
        notes.append(
            f"{split}: no pixel is {dataset.classes[1]!r}, but {ignored} masks hold 255, which is ignored; "
            "where 255 stands for that class, write values: [0, 255]"
        )
    return len(dataset), counts, notes


def _check_image(dataset: SegmentationDataset, index: int) -> tuple[list[int], Problem | None]:
    """The labels in one mask, and the first problem."""
    item = dataset.files[index]
    size = decoded_size(item.image, dataset.reading.upright)
    if isinstance(size, Problem):
        return [], size
    file = item.mask or item.image
    try:
        target = dataset.target(index)
    except ValueError as error:
        return [], Problem(file, "", str(error).removeprefix(f"{file}: "))
    if target is None:
        return [], missing_mask(item)
    if target.labels.shape != size:
        return [], size_problem(item, target, size)
    return torch.unique(target.labels).tolist(), None
