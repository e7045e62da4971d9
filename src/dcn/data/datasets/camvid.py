"""CamVid as it was published with SegNet: ``<split>/*.png`` or ``.jpg`` beside ``<split>annot/*.png``."""

from __future__ import annotations

from pathlib import Path

from dcn.class_names import CAMVID_CLASSES
from dcn.data.datasets.label_maps import IndexReader, LabelMaps, MapFiles
from dcn.data.geometry import IGNORE
from dcn.data.images import SUFFIXES

_VOID = 11


def open_camvid(root: str | Path, split: str = "train", *, unlabelled: str = "refuse") -> LabelMaps:
    """Open a split.

    Args:
        root: the folder with ``train`` and ``trainannot`` and so on.
        split: ``train``, ``val``, ``test``, or several joined with ``+``.
        unlabelled: see `LabelMaps`.

    The label maps hold 0 to 10 for the classes and 11 for void, which becomes 255.

    Raises:
        ValueError: no such split, or an image without a label map.
    """
    root = Path(root)
    files = [item for part in split.split("+") for item in _files(root, part)]
    table = {**{index: index for index in range(_VOID)}, _VOID: IGNORE}
    return LabelMaps(f"{root.name}:{split}", CAMVID_CLASSES, files, IndexReader(table), unlabelled)


def available_splits(root: Path) -> list[str]:
    """Names of the folders that have a folder of label maps beside them."""
    return sorted(path.name.removesuffix("annot") for path in root.glob("*annot") if path.is_dir())


def _files(root: Path, split: str) -> list[MapFiles]:
    folder = root / split
    if not folder.is_dir():
        known = ", ".join(available_splits(root)) or "no folder <split>annot"
        raise ValueError(f"split: {root} has no folder {split!r}; there is {known}")
    found = []
    for image in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        labels = root / f"{split}annot" / f"{image.stem}.png"
        found.append(MapFiles(image, labels if labels.is_file() else None, image.stem))
    return found
