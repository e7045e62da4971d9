"""Any folder of images and index PNGs, described by a small YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dcn.data.datasets.label_maps import IndexReader, LabelMaps, MapFiles
from dcn.data.geometry import IGNORE
from dcn.data.images import SUFFIXES

_KEYS = ("classes", "splits", "values", "ignore", "suffix")


def open_folder(
    root: str | Path, split: str = "train", *, description: str = "dataset.yaml", unlabelled: str = "refuse"
) -> LabelMaps:
    """Open a split of a described folder.

    The description says::

        classes: [road, grass, other]
        splits:
          train: {images: photos/train, labels: masks/train}
          val: {images: photos/val, labels: masks/val}
        values: [1, 2, 5]    # optional: the pixel value of each class; 0, 1, 2... when left out
        ignore: [0]          # optional: values that are not trained or judged, beside 255
        suffix: _mask        # optional: what the name of a label map has after that of its image

    Args:
        root: the folder that the paths of the description are relative to.
        split: a key of ``splits``.
        description: the file, relative to ``root``.
        unlabelled: see `LabelMaps`.

    Raises:
        ValueError: the description is missing or says something else, no such split, or an image without a label map.
    """
    root = Path(root)
    said = _describe(root / description)
    splits, classes = said["splits"], said["classes"]
    if split not in splits:
        raise ValueError(f"split: {root / description} has no {split!r}; there is {', '.join(splits)}")
    values = said.get("values") or list(range(len(classes)))
    table = {value: index for index, value in enumerate(values)} | dict.fromkeys(said.get("ignore") or [], IGNORE)
    files = _files(root, splits[split], str(said.get("suffix") or ""))
    return LabelMaps(f"{root.name}:{split}", classes, files, IndexReader(table), unlabelled)


def available_splits(root: Path, description: str = "dataset.yaml") -> list[str]:
    """The splits that the description names; none where there is no description."""
    return list(_describe(root / description)["splits"]) if (root / description).is_file() else []


def _describe(file: Path) -> dict[str, Any]:
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file}: the description of the folder does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(said, dict):
        raise ValueError(f"{file}: expected a mapping with {', '.join(_KEYS)}, got {type(said).__name__}")
    _check_keys(file, said)
    _check_values(file, said)
    return said


def _check_keys(file: Path, said: Mapping[Any, Any]) -> None:
    if unknown := [key for key in said if key not in _KEYS]:
        raise ValueError(f"{file}: unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")
    classes, splits = said.get("classes"), said.get("splits")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{file}: classes: expected a list of names, got {classes!r}")
    if not isinstance(splits, dict) or not splits:
        raise ValueError(f"{file}: splits: expected at least one 'name: {{images: ..., labels: ...}}', got {splits!r}")
    for name, part in splits.items():
        if not isinstance(part, dict) or part.keys() != {"images", "labels"}:
            raise ValueError(f"{file}: splits.{name}: expected {{images: FOLDER, labels: FOLDER}}, got {part!r}")


def _check_values(file: Path, said: Mapping[str, Any]) -> None:
    classes, values, ignored = said["classes"], said.get("values") or [], said.get("ignore") or []
    for name, numbers in (("values", values), ("ignore", ignored)):
        if not isinstance(numbers, list) or not all(isinstance(v, int) and 0 <= v < 65536 for v in numbers):
            raise ValueError(f"{file}: {name}: expected a list of numbers 0 to 65535, got {numbers!r}")
    if values and len(values) != len(classes):
        raise ValueError(f"{file}: values: expected one for each of {len(classes)} classes, got {len(values)}")
    used = values or list(range(len(classes)))
    if len({*used, *ignored}) != len(used) + len(ignored) or IGNORE in used:
        raise ValueError(f"{file}: values, ignore: a value stands for two things (255 is always ignored)")


def _files(root: Path, part: Mapping[str, str], suffix: str) -> list[MapFiles]:
    images, maps = root / part["images"], root / part["labels"]
    if not images.is_dir():
        raise ValueError(f"{images}: the folder of images does not exist")
    found = []
    for image in sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES):
        place = image.relative_to(images)
        # Images and label maps may share a folder: the label maps are then told by their suffix.
        if images == maps and suffix and image.stem.endswith(suffix):
            continue
        labels = maps / place.parent / f"{image.stem}{suffix}.png"
        stem = str(place.with_suffix("").as_posix())
        found.append(MapFiles(image, labels if labels.is_file() else None, stem))
    return found
