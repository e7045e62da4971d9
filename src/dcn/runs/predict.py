"""``dcn predict``: images into pictures, maps and JSON, written as they come."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from os import fspath
from pathlib import Path
from typing import Any

from torch import Tensor

from dcn.engine.config import DataConfig, ModelConfig, Recipe, ScheduleConfig, TransformsConfig
from dcn.engine.folder import RECIPE_FILE
from dcn.engine.log import progress
from dcn.formats.file_names import SUFFIXES
from dcn.models import default_test_size
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS
from dcn.runs.images import open_image
from dcn.runs.load import PUBLISHED, described, load
from dcn.runs.outputs import OutputFolder, stems_of
from dcn.runs.predictor import Predictor, Resize
from dcn.runs.sources import Source, StrPath, changed, find_source, read_recipe
from dcn.suggest import counted, suggest
from dcn.tta import TTA

LOGGER = logging.getLogger("dcn")


@dataclass(frozen=True)
class Predicted:
    """What :func:`predict_files` did.

    Attributes:
        images: number of images with a prediction.
        skipped: number of images that could not be read.
        conclusion: what the predictions hold, in words.
    """

    images: int
    skipped: int
    conclusion: str

    def __str__(self) -> str:
        return self.conclusion + (f"; {counted(self.skipped, 'image')} could not be read" if self.skipped else "")


KEYS = ("transforms.test_short", "transforms.long")
"""Keys of a recipe that a prediction takes beside ``tta.*``."""


def open_predictor(
    source: StrPath, weights: StrPath | None = None, changes: Sequence[str] = (), **options: Any
) -> Predictor:
    """:func:`dcn.load` with changes of a recipe, which is that of the run, or a plain one where there is no run.

    Args:
        source: see :func:`dcn.load`; a name with published weights takes those unless ``weights`` are given.
        weights: likewise.
        changes: ``key=value`` words of the section ``tta`` and of :data:`KEYS`.
        options: as in :func:`dcn.load`, but for ``tta``.

    Raises:
        ValueError: another key, or as :func:`dcn.load`.
    """
    for key in (word.partition("=")[0] for word in changes):
        if key not in KEYS and not key.startswith("tta."):
            valid = [*KEYS, *(f"tta.{field.name}" for field in fields(TTA))]
            raise ValueError(f"override: expected a key of a prediction, got {key!r}; {suggest(key, valid)}")
    origin = find_source(source)
    if origin is None and weights is None and fspath(source) in PUBLISHED_WEIGHTS:
        weights = PUBLISHED
    recipe = None
    if origin is not None and origin.run is not None:
        recipe = read_recipe(origin.run / RECIPE_FILE, changes, origin.run)
    elif changes:
        recipe = changed(_plain_recipe(source, origin), changes)
    predictor = load(source, weights, tta=None if recipe is None else recipe.tta, **options)
    if any(word.partition("=")[0] in KEYS for word in changes) and recipe is not None:
        predictor.size = recipe.transforms.test_size
    return predictor


def _plain_recipe(source: StrPath, origin: Source | None) -> Recipe:
    """A recipe for weights that come from no run: the model at its test size."""
    name, options = (fspath(source), {}) if origin is None else described(origin.weights)
    size: Any = options["test_size"] if "test_size" in options else default_test_size(name)
    return Recipe(
        ModelConfig(name),
        DataConfig("synthetic"),
        ScheduleConfig(steps=1),
        TransformsConfig(short=(int(size[0]),), long=int(size[1])),
    )


def find_images(words: Sequence[str]) -> list[Path]:
    """Files, and the images in folders and globs, each once, in the order given.

    Raises:
        ValueError: a word names nothing, or a folder has no images.
    """
    paths: dict[Path, None] = {}
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            here = sorted(file for file in path.iterdir() if _is_image_name(file))
        else:
            here = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not here:
            kinds = (
                f"{', '.join(SUFFIXES)} files" if path.is_dir() else "an image, a folder or a pattern that matches some"
            )
            raise ValueError(f"images: expected {kinds}, got none at {word!r}")
        paths.update(dict.fromkeys(here))
    return list(paths)


def _is_image_name(file: Path) -> bool:
    """Names that begin with a dot are of systems and of unfinished files."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    output: str | Path = "predictions",
    *,
    min_score: float | None = None,
    resize: Resize = "default",
    batch_size: int = 1,
    pictures: bool = True,
) -> Predicted:
    """Predict on image files and write the results into a folder.

    Every image has a line in ``detections.jsonl`` (``segmentation.jsonl``) as soon as it is done. ``detections.json``
    is written at the end, also after an interruption. Files of an earlier prediction are replaced; no other file is,
    see :class:`dcn.runs.outputs.OutputFolder`.

    Args:
        predictor: see :func:`dcn.load`.
        paths: the images; files that cannot be read are logged and skipped.
        output: the folder.
        min_score: see :meth:`Predictor.predict`, as the next two.
        resize: likewise.
        batch_size: likewise.
        pictures: draw the predictions.

    Raises:
        ValueError: a file to be written is one of the images, or is not of an earlier prediction.
    """
    if batch_size < 1:
        raise ValueError(f"batch: expected 1 or more, got {batch_size}")
    predictor.view(resize, min_score)  # says what does not fit, before a folder is made
    task = predictor.task
    paths = list(dict.fromkeys(paths))
    folder = OutputFolder(output, paths)
    stems = dict(zip(paths, stems_of(paths), strict=True))
    folder.check([task.stream, *task.summaries([], predictor.classes)])
    folder.check(f"{stem}{suffix}" for stem in stems.values() for suffix in task.suffixes(pictures))
    done = skipped = 0
    try:
        with folder.lines(task.stream) as add:
            for batch, failed in _batches(progress(paths, len(paths), "predict"), batch_size):
                skipped += failed
                predictions = predictor.predict(
                    [image for _, image in batch], min_score=min_score, resize=resize, batch_size=batch_size
                )
                for (path, image), prediction in zip(batch, predictions, strict=True):
                    files = task.files(prediction, image, predictor.classes, pictures)
                    _write(folder, stems[path], files)
                    add(_record(path, image, task.record(prediction, predictor.classes)))
                    done += 1
    finally:
        records = _records(folder.folder / task.stream)
        for name, text in task.summaries(records, predictor.classes).items():
            folder.write_text(name, text)
    return Predicted(done, skipped, task.conclusion(records))


def _batches(paths: Iterator[Path], size: int) -> Iterator[tuple[list[tuple[Path, Tensor]], int]]:
    """Batches of readable images, each with the number of unreadable ones before it."""
    batch: list[tuple[Path, Tensor]] = []
    failed = 0
    for path in paths:
        try:
            batch.append((path, open_image(path)))
        except ValueError as error:
            LOGGER.warning("skipped: %s", error)
            failed += 1
        if len(batch) == size:
            yield batch, failed
            batch, failed = [], 0
    if batch or failed:
        yield batch, failed


def _write(folder: OutputFolder, stem: str, files: dict[str, Callable[[Path], None]]) -> None:
    for suffix, write in files.items():
        folder.write(f"{stem}{suffix}", write)


def _record(path: Path, image: Tensor, content: dict[str, Any]) -> dict[str, Any]:
    return {"file_name": str(path), "height": image.shape[1], "width": image.shape[2], **content}


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of all images that were done."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
