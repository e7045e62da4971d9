"""``dcn.load``: from a run folder, a weights file or a name to a model ready to predict."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import fspath
from pathlib import Path
from typing import Any

from torch import nn

from dcn.class_names import COCO_CLASSES, class_names
from dcn.engine.checkpoint import WeightsInfo, read_weights
from dcn.engine.distributed import choose_device
from dcn.engine.folder import RECIPE_FILE
from dcn.models import MODELS, Model, build
from dcn.models.checkpoints import StateFile, load_state, read_state
from dcn.models.checkpoints.detectron2 import detector_of, is_detectron2, is_detectron2_detector
from dcn.models.checkpoints.mmdet import detector_in
from dcn.models.inference import prepare
from dcn.models.inference.cuda_graphs import accelerate
from dcn.models.inference.prepare import Precision
from dcn.models.segmentation import SegmentationModel
from dcn.plugins import advice
from dcn.runs.predictor import Predictor
from dcn.runs.sources import EXPORTED, StrPath, find_source, read_recipe, shipped_models
from dcn.runs.weights import get_weights
from dcn.suggest import suggest
from dcn.tta import TTA

PUBLISHED = "published"


def load(
    source: StrPath,
    weights: StrPath | None = None,
    *,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    tta: TTA | None = None,
    optimize: bool = True,
    precision: Precision = "float32",
    compile: bool = False,
    cuda_graph: bool = False,
) -> Predictor:
    """A detector or a segmentation model, ready to predict.

    >>> predictor = dcn.load("runs/demo/deformable")
    >>> detections = predictor.predict("photo.jpg", min_score=0.5)

    Args:
        source: a run folder (its best weights), a weights file of this package, a file of ``dcn export``, a hub
            address (``hf://owner/name``), or a name of ``dcn models``.
        weights: with a name: weights of this package, a file of mmdetection or detectron2, or ``"published"`` for those
            of ``dcn weights``, which are downloaded once.
        classes: with a name: class names in the order of the labels. ``None``: those in the weights; without any, the
            names of COCO for 80 classes, of VOC for 20, else numbers; without weights those of COCO.
        device: ``"cpu"``, ``"cuda"``, ...; ``None``: the GPU where there is one.
        tta: test-time options; ``None``: those of the run's recipe, and one pass where there is no run.
        optimize: prepare the model for inference, see :func:`dcn.models.inference.prepare`; ``False`` keeps its layers
            and its state dict as they are in training.
        precision: of weights and maps, ``"float32"``, ``"bfloat16"`` or ``"float16"``; needs ``optimize``.
        compile: run the model through ``torch.compile``.
        cuda_graph: on a GPU: record a CUDA graph for each size, and replay it.

    Raises:
        ValueError: ``source`` is neither a file, a run nor a name (near names are given); weights that do not fit;
            unknown classes; options that do not fit the model or each other.
    """
    model = read_model(source, weights, classes)
    if tta is None:
        tta = recipe_tta(source)
    ready = ready_model(model, tta, optimize=optimize, precision=precision, compile=compile, cuda_graph=cuda_graph)
    return Predictor(ready, choose_device(device), tta)


def recipe_tta(source: StrPath) -> TTA:
    """The test-time options of the run that weights come from; the defaults where they come from no run."""
    origin = find_source(source)
    return TTA() if origin is None or origin.run is None else read_recipe(origin.run / RECIPE_FILE).tta


def ready_model(
    model: nn.Module, tta: TTA, *, optimize: bool, precision: Precision, compile: bool, cuda_graph: bool
) -> nn.Module:
    """The model prepared for inference; arguments as in :func:`load`."""
    if getattr(model, "exported", False):
        return _as_exported(model, tta, precision, compile or cuda_graph)
    if not optimize:
        for name, given in (("compile", compile), ("cuda_graph", cuda_graph), ("precision", precision != "float32")):
            if given:
                raise ValueError(f"optimize: expected True with {name}, got False; it prepares the model for inference")
        return model
    if (compile or cuda_graph) and tta != TTA(window=tta.window, overlap=tta.overlap):
        raise ValueError(
            f"compile, cuda_graph: expected one pass for each image, got the test-time options {tta}; leave out one of "
            "the two"
        )
    return accelerate(prepare(model, precision), compiled=compile, cuda_graph=cuda_graph)


def _as_exported(model: nn.Module, tta: TTA, precision: Precision, faster: bool) -> nn.Module:
    """A model in an exported file, which holds final results of one pass."""
    if faster or precision != "float32" or tta != TTA(window=tta.window, overlap=tta.overlap):
        raise ValueError(
            "model: an exported file holds final results of one pass in its own precision; leave out test-time "
            "options, precision, compile and cuda_graph, or use the weights that it was exported from"
        )
    return model


def read_model(source: StrPath, weights: StrPath | None = None, classes: Sequence[str] | None = None) -> Model:
    """The model of :func:`load` alone: on the CPU, in training mode, not prepared for inference."""
    if isinstance(classes, str):
        raise ValueError(f"classes: expected a list of names, got the text {classes!r}; write [{classes!r}]")
    origin = find_source(source)
    if origin is not None:
        if weights is not None:
            raise ValueError(f"weights: {origin.weights} has its own weights; give weights only with a model's name")
        if origin.run is not None:
            read_recipe(origin.run / RECIPE_FILE)  # its plug-ins are those that the user named for the training
        return _from_file(origin.weights, classes)
    name = fspath(source)
    if name not in MODELS:
        expected = "source: expected a weights file, a run folder or the name of a model"
        if Path(name).name != name:
            raise ValueError(f"{expected}, got {name!r}, which does not exist (looked for from {Path.cwd()})")
        raise ValueError(f"{expected}, got {name!r}; " + suggest(name, {*MODELS, *shipped_models()}, "`dcn models`"))
    return _from_name(name, weights, classes)


def _from_file(path: Path, classes: Sequence[str] | None) -> Any:
    if path.suffix in EXPORTED:
        return _from_exported(path, classes)
    state, info = read_weights(path)
    if classes is not None and tuple(classes) != info.classes:
        raise ValueError(
            f"classes: {path} has the classes {list(info.classes)}, got {list(classes)}; leave classes out, they are "
            "for models given by name"
        )
    if info.model not in MODELS:
        raise ValueError(f"{path}: the model {info.model!r} is not known here; {_where_from(info)}")
    model = build(info.model, info.classes, **info.options)
    if isinstance(model, SegmentationModel):
        model.colors = info.colors
    load_state(model, state, str(path))
    return model


def described(path: Path) -> tuple[str, dict[str, Any]]:
    """The name of the model in a weights file or an exported file, and its options (of the latter the test size)."""
    if path.suffix in EXPORTED:
        metadata = _from_exported(path, None).metadata
        return metadata.model, {"test_size": metadata.test_size}
    info = read_weights(path)[1]
    return info.model, dict(info.options)


def _from_exported(path: Path, classes: Sequence[str] | None) -> Any:
    from dcn.export.predictors import read_exported

    model = read_exported(path)
    if classes is not None and tuple(classes) != model.classes:
        raise ValueError(
            f"classes: {path} has the classes {list(model.classes)}, got {list(classes)}; leave classes out"
        )
    return model


def _where_from(info: WeightsInfo) -> str:
    near = suggest(info.model, MODELS, "`dcn models`")
    return advice(info.plugins) if info.plugins else f"{near}; {advice(())}"


def _from_name(name: str, weights: StrPath | None, classes: Sequence[str] | None) -> Model:
    if weights is None:
        warnings.warn(f"{name}: no weights given; its predictions are random", stacklevel=4)
        return build(name, COCO_CLASSES if classes is None else classes)
    path = get_weights(name) if weights == PUBLISHED else Path(fspath(weights)).expanduser()
    file = read_state(path)
    if is_detectron2(file.tensors):
        return _from_detectron2(name, path, file, classes)
    state, own = detector_in(file, path)
    names = classes or own
    if names is None:
        raise ValueError(f"classes: expected class names, got none in {path}; give them in the order of the labels")
    model = build(name, names)
    load_state(model, state, str(path))
    return model


def _from_detectron2(name: str, path: Path, file: StateFile, classes: Sequence[str] | None) -> Model:
    """A detector of detectron2 with the options that its weights need."""
    if not is_detectron2_detector(file.tensors):
        raise ValueError(f"weights: expected a detector that is here too, got {path}; `dcn import` takes its backbone")
    found = detector_of(file)
    if found.name != name:
        raise ValueError(f"source: expected {found.name}, the model of {path}, got {name}")
    model = build(name, classes or class_names(found.classes), **found.options)
    load_state(model, found.tensors, str(path))
    return model
