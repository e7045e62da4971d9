"""Images that two splits share: a model evaluated on images it was trained on looks better than it is."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from dcn.data.dataset import Dataset


def shared_images(first: Dataset, second: Dataset) -> list[tuple[Path, Path]]:
    """Pairs of files, one of each dataset, that are the same file or have the same content.

    Only files of equal length are read, so that two ordinary splits cost little more than a look at their folders.
    Generated images have no files and are never shared.
    """
    by_length: dict[int, list[Path]] = defaultdict(list)
    for path in _paths(first):
        by_length[path.stat().st_size].append(path)
    digests: dict[Path, bytes] = {}
    pairs = []
    for path in _paths(second):
        others = by_length.get(path.stat().st_size, [])
        match = next((other for other in others if _same(other, path, digests)), None)
        if match is not None:
            pairs.append((match, path))
    return pairs


def refuse_shared_images(training: Dataset, evaluation: Dataset, what: str = "val") -> None:
    """Refuse to evaluate on images that are trained on.

    Args:
        training: what the model is trained on.
        evaluation: what it is evaluated on.
        what: what the recipe calls the second split, for the message.

    Raises:
        ValueError: they share images; names the first pair and how many there are.
    """
    pairs = shared_images(training, evaluation)
    if not pairs:
        return
    first, second = pairs[0]
    same = f"{second}" if first.resolve() == second.resolve() else f"{second} (the same content as {first})"
    raise ValueError(
        f"data.{what}: expected images outside of the training data {training.name}, got {len(pairs)} of "
        f"{len(evaluation)} in {evaluation.name} that are in it, first {same}; name another split, or one annotation "
        "file for each split: annotations: {train: ..., val: ...}; or describe the data without a validation split: "
        "then its images are divided; or permit it with data.allow_shared=true"
    )


def _paths(dataset: Dataset) -> Iterator[Path]:
    """The image files of a dataset that exist, each once."""
    yield from _existing(dict.fromkeys(dataset.image_path(index) for index in range(len(dataset))))


def _existing(paths: Iterable[Path | None]) -> Iterator[Path]:
    for path in paths:
        if path is not None and path.is_file():
            yield path


def _same(first: Path, second: Path, digests: dict[Path, bytes]) -> bool:
    if first.resolve() == second.resolve():
        return True
    return _digest(first, digests) == _digest(second, digests)


def _digest(path: Path, digests: dict[Path, bytes]) -> bytes:
    if path not in digests:
        with path.open("rb") as file:
            digests[path] = hashlib.sha256(file.read()).digest()
    return digests[path]
