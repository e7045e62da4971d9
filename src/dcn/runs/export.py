"""``dcn.export``: a run, a weights file or a name as a file for other programs, with a proof of the same results."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import fspath
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dcn.data.geometry import resize_image
from dcn.data.subset import spread
from dcn.export import example
from dcn.export.metadata import Metadata
from dcn.export.network import network_of
from dcn.export.onnx import export_onnx
from dcn.export.parity import TOLERANCES, Parity, Tolerance, compare
from dcn.export.predictors import model_of, read_exported
from dcn.export.quantize import quantize
from dcn.export.runtime import NetworkRunner
from dcn.export.torch_program import check_compiler, export_compiled, export_program
from dcn.export.trace import Form, Function, function_of, written
from dcn.extras import require
from dcn.metrics.results import Result
from dcn.models.inference import prepare
from dcn.runs.evaluate import measure
from dcn.runs.images import open_image
from dcn.runs.load import described, read_model
from dcn.runs.opening import find_run, open_for
from dcn.runs.sources import EXPORTED, StrPath, find_source
from dcn.suggest import counted, measured, summary_of

Format = Literal["onnx", "torch", "aoti"]
FORMATS: Mapping[str, tuple[str, Callable[[Function, Path], Metadata]]] = {
    "onnx": (".onnx", export_onnx),
    "torch": (".pt2", export_program),
    "aoti": (".pt2", export_compiled),
}
"""The ending of the file and what writes it, by format."""
PRECISIONS = ("float32", "float16", "int8")
_GENERATED = ((0.5, 0.7), (0.7, 0.5), (0.6, 0.6))
"""Sizes of the generated images as shares of the model's shorter side."""
_COMPARED = 8
"""Images of a split on which boxes, scores and pixels are compared, where no others are given."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics before and after.

    Attributes:
        split: what they were measured on.
        images: number of its images.
        before: of the model.
        after: of the file.
    """

    split: str
    images: int
    before: Result
    after: Result

    def __str__(self) -> str:
        before = summary_of(self.before)
        pairs = ", ".join(f"{name} {text} -> {measured(self.after[name])}" for name, text in before.items())
        return f"{self.split}, {self.images} images: {pairs}"


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: the file.
        metadata: the record in it.
        parity: how its results differ from the model's.
        evaluation: metrics before and after, where a split was named.
    """

    path: Path
    metadata: Metadata
    parity: Parity
    evaluation: Evaluation | None = None

    def __str__(self) -> str:
        millions = self.path.stat().st_size / 1e6
        lines = [f"{self.path}: {self.metadata}, {millions:.1f} MB", str(self.parity)]
        return "\n".join([*lines, *([] if self.evaluation is None else [str(self.evaluation)])])


def export(
    source: StrPath,
    output: StrPath = "model.onnx",
    *,
    format: Format = "onnx",
    precision: str = "float32",
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    raw: bool = False,
    images: Sequence[Any] = (),
    calibration: Sequence[Any] = (),
    split: str | None = None,
    recipe: StrPath | None = None,
    changes: Sequence[str] = (),
    min_score: float | None = None,
    tolerance: Tolerance | None = None,
    unproven: bool = False,
    with_example: bool = False,
    weights: StrPath | None = None,
    classes: Sequence[str] | None = None,
) -> Exported:
    """Write a model as a file that takes pixels and gives final detections or labels, and prove that it does.

    >>> print(dcn.export("runs/bccd_deformable/0", "cells.onnx", images=["a.jpg", "b.jpg"], split="val"))

    Args:
        source: a run folder (its best weights), a weights file, or a name; as for :func:`dcn.load`.
        output: the file; ``dcn.load`` opens it.
        format: ``"onnx"``, or for torch alone ``"torch"`` (a ``torch.export`` program) and ``"aoti"`` (compiled by
            AOTInductor, for this processor; needs a C++ compiler); the file of these two ends in ``.pt2``.
        precision: of weights and maps: ``"float32"``, ``"float16"``, or for ONNX ``"int8"``.
        size: ``(height, width)`` of the input; ``None``: any.
        batch: images of one call; ``None``: any number.
        raw: end with the boxes and scores that detections are selected from, or with the scores of the classes of
            every pixel; without masks.
        images: what the results are compared on, paths or arrays; without any, images of ``split``, or three
            generated ones.
        calibration: for ``int8``: images like those to come, whose smallest and largest values of maps fix the scales.
        split: also evaluate model and file on this split of the data, as :func:`dcn.evaluate` does.
        recipe: the recipe that describes the data, for weights outside of a run folder.
        changes: changes of the recipe: ``["data.root=data/bccd", "eval.images=50"]``; ``eval.images`` images are used.
        min_score: detectors: detections with larger scores are compared; ``None``: the model's own threshold.
        tolerance: the largest differences that pass; ``None``: those of the precision,
            :data:`dcn.export.parity.TOLERANCES`.
        unproven: keep a file that differs by more than the tolerance where the model's results hang on the last digits
            of its numbers, as of one that was never trained: the file differs from the model by no more than three
            times what folding batch norm changes in the model itself.
        with_example: also write ``<output>_example.py``, which runs an ONNX file without this package.
        weights: with a name, as for :func:`dcn.load`.
        classes: with a name, as for :func:`dcn.load`.

    Returns:
        What was written. ``print`` shows it.

    Raises:
        ValueError: the results differ by more than the tolerance (no file is left), options that do not fit each
            other or the model, or as :func:`dcn.load`.
    """
    path = Path(fspath(output)).expanduser()
    _check(path, format, precision, calibration, raw or format != "onnx", with_example)
    given = [*([] if recipe is None else [f"recipe {fspath(recipe)}"]), *changes]
    if split is None and given:
        raise ValueError(f"split: expected the name of a split for {' and '.join(given)}, got None")
    # Before the work begins, which takes minutes: an image may be broken.
    images, calibration = ([open_image(image) for image in some] for some in (images, calibration))
    origin = find_source(source)
    if origin is not None and origin.weights.suffix in EXPORTED:
        raise ValueError(f"source: expected weights, got {origin.weights}, which is exported already")
    name = fspath(source) if origin is None else described(origin.weights)[0]
    plain: Any = read_model(source, weights, classes).eval()
    model: Any = prepare(plain).eval()
    data = None if split is None else _data(source, recipe, changes, split, model)
    compared = list(images) or ([] if data is None else _pictures(data[1]))
    function = function_of(model, name, Form(size, batch, raw, precision))
    with written(path) as temporary:
        exported = _write(function, temporary, format, calibration)
        parity = _proof(model, plain, exported, compared, min_score, tolerance or TOLERANCES[precision])
        if parity.failures and not (unproven and parity.undecided):
            raise ValueError(_difference(path, parity, precision))
        evaluation = None if data is None or split is None else _evaluation(model, exported, *data, split)
    if with_example:
        shutil.copyfile(str(example.__file__), path.with_name(f"{path.stem}_example.py"))
    return Exported(path, exported.metadata, parity, evaluation)


def _difference(path: Path, parity: Parity, precision: str) -> str:
    text = f"{path}: the exported model differs ({'; '.join(parity.failures)}); no file was written"
    if precision == "int8":
        return f"{text}. Give more calibration images, or compare detections of higher scores (--score), or use float16"
    if not parity.undecided:
        return text
    return (
        f"{text}. With batch norm folded or not, the model itself differs as much ({parity.rounding}): its results "
        "hang on the last digits of its numbers, as of one that was never trained. --unproven keeps the file anyway"
    )


def _check(
    path: Path, format: str, precision: str, calibration: Sequence[Any], no_example: bool, with_example: bool
) -> None:
    """Refuse options that do not fit each other, and packages or compilers that are missing."""
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    suffix = FORMATS[format][0]
    if path.suffix != suffix:
        raise ValueError(f"output: expected a name that ends in {suffix} for the format {format}, got {str(path)!r}")
    if precision == "int8" and format != "onnx":
        raise ValueError(f"precision: int8 is for the format onnx, got {format}; use float32 or float16")
    if (precision == "int8") != bool(calibration):
        raise ValueError(
            "calibration: expected images that look like those to come with int8, and none otherwise, got "
            f"{counted(len(calibration), 'image')} with {precision}; give both, --precision int8 and --calibration"
        )
    if with_example and no_example:
        raise ValueError(
            f"with_example: expected an ONNX file with final results, which the script runs, got {format}"
            f"{' with raw outputs' if format == 'onnx' else ''}; leave out raw and other formats"
        )
    if format == "onnx":
        require("onnx", "onnxscript", "onnxruntime")
    if format == "aoti":
        check_compiler()


def _data(source: StrPath, recipe: StrPath | None, changes: Sequence[str], split: str, model: Any) -> tuple[Any, Any]:
    """The recipe and the images of an evaluation."""
    _, settings = find_run(source, recipe, list(changes))
    dataset = spread(open_for(settings, split, model), settings.eval.images)
    if not getattr(dataset, "annotated", True):
        raise ValueError(f"split: expected annotations to evaluate on, {dataset.name} has none")
    return replace(settings, amp="off"), dataset


def _pictures(dataset: Any) -> list[Tensor]:
    some = spread(dataset, _COMPARED)
    return [some[index].image for index in range(len(some))]


def _write(function: Function, path: Path, format: Format, calibration: Sequence[Tensor]) -> Any:
    """Write the file, and open it."""
    metadata = FORMATS[format][1](function, path)
    if calibration:
        images = [resize_image(image, *metadata.test_size)[0] for image in calibration]
        quantize(path, path, metadata, images)
    return read_exported(path).eval()


def _proof(
    model: Any, plain: Any, exported: Any, images: Sequence[Tensor], min_score: float | None, tolerance: Tolerance
) -> Parity:
    parity = _parity(model, exported, images, min_score, tolerance)
    if not parity.failures:
        return parity
    # Perhaps the model's results hang on the last digits of its numbers, in torch too.
    return replace(parity, rounding=_parity(model, plain, images, min_score, tolerance, exported.metadata))


def _parity(
    model: Any,
    other: Any,
    images: Sequence[Tensor],
    min_score: float | None,
    tolerance: Tolerance,
    metadata: Metadata | None = None,
) -> Parity:
    """Compare a model with a file, or with another form of the model as the file of ``metadata`` would run it."""
    model = _as_run(model, metadata or other.metadata)
    other = other if metadata is None else _as_run(other, metadata)
    opened = list(images) or _generated(model.test_size)
    resized = [resize_image(image, *model.test_size)[0] if images else image for image in opened]
    sizes = [(image.shape[1], image.shape[2]) for image in opened]
    if model.task == "segmentation":
        return compare(model, other, resized, sizes, tolerance)
    before = model.score_threshold, other.score_threshold
    model.score_threshold = other.score_threshold = before[0] if min_score is None else min_score
    parity = compare(model, other, resized, sizes, tolerance)
    if parity.detections == 0 and min_score is None:
        # No detections prove nothing: the best ones are compared, whatever their scores.
        model.score_threshold = other.score_threshold = 0.0
        parity = compare(model, other, resized, sizes, tolerance)
    model.score_threshold, other.score_threshold = before
    return parity


def _as_run(model: Any, metadata: Metadata) -> Any:
    """The model as it is; for a fixed size, padded up to it, which changes results near the borders in torch too."""
    if metadata.size is None:
        return model
    return model_of(
        NetworkRunner(network_of(model, metadata.raw).eval(), replace(metadata, precision="float32"))
    ).eval()


def _evaluation(model: Any, exported: Any, recipe: Any, dataset: Any, split: str) -> Evaluation:
    before, after = (measure(one, recipe, dataset) for one in (model, exported))
    return Evaluation(split, len(dataset), before, after)


def _generated(test_size: tuple[int, int]) -> list[Tensor]:
    """Smooth noise of three shapes, always the same."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for shares in _GENERATED:
        height, width = (max(32, int(test_size[0] * share)) for share in shares)
        coarse = torch.rand(1, 3, max(2, height // 8), max(2, width // 8), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        made.append((smooth[0] * 255).to(torch.uint8))
    return made
