"""COCO as Roboflow exports it: ``<split>/_annotations.coco.json`` among the images of the split."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from dcn.data.check_coco import check_file
from dcn.data.datasets.coco import Coco
from dcn.data.findings import CheckOptions, Findings
from dcn.formats.coco import read_instances, report_degenerate
from dcn.formats.coco_folders import FILE, available_splits, unused_dummy
from dcn.formats.layouts import unknown_split
from dcn.formats.problems import Collector, attempt


class CocoFolders(Coco):
    """A split of such a folder; the category 0 that Roboflow adds is left out where no split uses it.

    Args:
        root: the folder with a folder for each split.
        split: the name of one of them.
        masks: see `Coco`, like the others.
        keep_empty: keep images without an object.
        degenerate: what to do with a box without extent.
        upright: turn photos as their EXIF orientation says.
        broken: what to do about damaged images.
        outside: what to do with boxes that reach outside of their image.

    Raises:
        ValueError: no such split, several (their ids overlap), or the first problem of the annotation file.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        masks: bool = True,
        keep_empty: bool = True,
        degenerate: str = "skip",
        upright: bool = False,
        broken: str = "refuse",
        outside: str = "refuse",
    ) -> None:
        folder = _folder(Path(root), split)
        super().__init__(
            root,
            split,
            annotations=f"{folder.name}/{FILE}",
            images=folder.name,
            masks=masks,
            keep_empty=keep_empty,
            degenerate=degenerate,
            upright=upright,
            broken=broken,
            outside=outside,
        )
        dummy = unused_dummy(Path(root))
        kept = [(key, name) for key, name in zip(self.category_ids, self.classes, strict=True) if key != dummy]
        self.category_ids = tuple(key for key, _ in kept)
        self.classes = tuple(name for _, name in kept)
        self._labels = {category: label for label, category in enumerate(self.category_ids)}


def _folder(root: Path, split: str) -> Path:
    known = available_splits(root)
    if split not in known:
        raise unknown_split(split, known, root, f"a file <split>/{FILE}")
    return root / split


def check_coco_folders(root: Path, split: str | None, options: CheckOptions) -> Findings:
    """Read every annotation and decode every image of a folder, or of one split."""
    collector = Collector()
    counts: Counter[str] = Counter()
    images, notes = 0, list[str]()
    for name in [split] if split is not None else available_splits(root):
        folder = attempt(partial(_folder, root, name), collector.add, root, "")
        if folder is not None:
            file = read_instances(folder / FILE, folder, collector.add, upright=options.upright)
            report_degenerate(file, collector.add)
            count, objects, more = check_file(file, collector.add, options.upright)
            images, counts, notes = images + count, counts + objects, notes + more
    if unused_dummy(root) is not None:
        notes.append("category 0 is the one that Roboflow adds above the others; no object uses it, it is left out")
    return Findings("coco_folders", images, dict(sorted(counts.items())), collector.problems(), notes)
