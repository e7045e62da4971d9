"""The record of a split: ``splits.json`` in a folder of data, the names of the images of each part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcn.formats.documents import read_json
from dcn.formats.new_files import NewFiles
from dcn.formats.problems import short

SPLITS_FILE = "splits.json"
"""The file in a folder of data that records its split."""


@dataclass(frozen=True)
class Splits:
    """Which images are in which split.

    Attributes:
        images: names of the images by split, relative to the folder of the data, sorted.
        seed: of the random choice.
    """

    images: Mapping[str, tuple[str, ...]]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON."""
        return {"seed": self.seed, "splits": {name: list(images) for name, images in self.images.items()}}

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {len(images)}" for name, images in self.images.items())
        return f"{counts} images (stratified by class, seed {self.seed})"


def write_splits(path: Path, splits: Splits) -> None:
    """Write the record; a file that is there is not replaced.

    Raises:
        ValueError: the file exists.
    """
    with NewFiles() as new, new.open(path) as file:
        file.write((json.dumps(splits.to_dict(), indent=1) + "\n").encode("utf-8"))


def read_splits(path: Path) -> Splits:
    """Read a record.

    Raises:
        ValueError: the file is malformed, or an image is in two splits.
    """
    said = read_json(path)
    parts, seed = (said.get("splits"), said.get("seed", 0)) if isinstance(said, dict) else (None, 0)
    if not isinstance(parts, dict) or not parts or not isinstance(seed, int):
        raise ValueError(f"{path}: expected {{'seed': 0, 'splits': {{'train': [names], ...}}}}, got {short(said)}")
    seen: dict[str, str] = {}
    for name, images in parts.items():
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise ValueError(f"{path}: splits.{name}: expected a list of names of images, got {short(images)}")
        for image in images:
            if image in seen:
                raise ValueError(
                    f"{path}: expected each image in one split, got {short(image)} in {seen[image]!r} and {name!r}"
                )
            seen[image] = name
    return Splits({name: tuple(images) for name, images in parts.items()}, seed)
