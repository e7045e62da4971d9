"""``dcn predict``: images and frames into pictures, videos, maps and JSON, written as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from os import fspath
from pathlib import Path
from typing import Any

from dcn.engine.config import DataConfig, ModelConfig, Recipe, ScheduleConfig, TransformsConfig
from dcn.engine.folder import RECIPE_FILE
from dcn.engine.log import progress
from dcn.engine.stop import stop_requests
from dcn.models import default_test_size
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS
from dcn.runs.find_inputs import read_files
from dcn.runs.inputs import Inputs
from dcn.runs.load import PUBLISHED, described, load
from dcn.runs.prediction_folder import PredictionFolder
from dcn.runs.predictor import Predictor, Resize, Result
from dcn.runs.sources import Source, StrPath, changed, find_source, read_recipe
from dcn.suggest import counted
from dcn.tta import TTA


@dataclass(frozen=True)
class Predicted:
    """What :func:`predict_files` did.

    Attributes:
        images: number of images with a prediction.
        skipped: number of those that could not be read; of videos and cameras also of those that broke off.
        conclusion: what the predictions hold, in words.
        skipped_word: what was skipped.
    """

    images: int
    skipped: int
    conclusion: str
    skipped_word: str = "image"

    def __str__(self) -> str:
        skipped = f"; {counted(self.skipped, self.skipped_word)} could not be read"
        return self.conclusion + (skipped if self.skipped else "")


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
            raise ValueError(f"override: expected one of {', '.join(valid)}, got {key!r}")
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


def predict_files(
    predictor: Predictor,
    images: Inputs | Sequence[Path],
    output: str | Path | None = "predictions",
    *,
    min_score: float | None = None,
    resize: Resize = "default",
    batch_size: int = 1,
    pictures: bool = True,
    line: Callable[[dict[str, Any]], None] | None = None,
) -> Predicted:
    """Predict on files, addresses, videos or cameras and write the results into a folder.

    Every image has a line in ``detections.jsonl`` (``segmentation.jsonl``) as soon as it is done. ``detections.json``
    is written at the end, also after an interruption. Files of an earlier prediction are replaced; no other file is,
    see :class:`dcn.runs.outputs.OutputFolder`. A camera runs until the process gets SIGINT (Ctrl-C) or SIGTERM.

    Args:
        predictor: see :func:`dcn.load`.
        images: see :func:`dcn.runs.find_inputs.find_inputs`; what cannot be read is logged and skipped.
        output: the folder; ``None``: nothing is written.
        min_score: see :meth:`Predictor.predict`, as the next two.
        resize: likewise.
        batch_size: likewise.
        pictures: draw the predictions; those of a video or camera become a video.
        line: called with the record of each image as soon as it is done.

    Raises:
        ValueError: a file to be written is one of the images, or is not of an earlier prediction.
    """
    predictor.check(resize, min_score, batch_size)
    task = predictor.task
    inputs = images if isinstance(images, Inputs) else read_files(images)
    folder = None if output is None else PredictionFolder(output, task, predictor.classes, inputs.sources, pictures)
    done = 0
    with ExitStack() as stack:
        if inputs.live:
            seen = stack.enter_context(stop_requests())
            inputs.stopped = lambda: bool(seen)
        if folder is not None:
            stack.enter_context(folder)
        results = predictor.stream(inputs, min_score=min_score, resize=resize, batch_size=batch_size)
        for result in progress(results, inputs.total, "predict"):
            record = _record(result, task.record(result.prediction, predictor.classes))
            if folder is not None:
                folder.add(result, record)
            if line is not None:
                line(record)
            done += 1
    conclusion = f"results of {counted(done, 'image')}" if folder is None else task.conclusion(folder.records())
    return Predicted(done, inputs.skipped, conclusion, inputs.skipped_word)


def _record(result: Result, content: dict[str, Any]) -> dict[str, Any]:
    """What JSON says about one image: a frame has its number and its time in seconds."""
    moving = {} if result.frame is None else {"frame": result.frame, "time": round(result.time or 0.0, 6)}
    size = {"height": result.image.shape[1], "width": result.image.shape[2]}
    return {"file_name": result.name, **moving, **size, **content}
