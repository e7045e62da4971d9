"""The short way to a network that predicts: ``dcn.load(...).predict(...)``."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dcn.class_names import COCO_CLASSES
from dcn.data.geometry import resize_image
from dcn.data.images import read_image
from dcn.engine import InferenceConfig
from dcn.engine.checkpoint import find_weights, read_weights
from dcn.engine.distributed import choose_device
from dcn.engine.predict import Predictor
from dcn.engine.segment import Segmenter
from dcn.models import MODELS, build
from dcn.models.checkpoints import load_state, read_detector
from dcn.models.detection import Detector, TTADetector
from dcn.models.detection.shared.frames import Size
from dcn.models.inference import prepare
from dcn.models.inference.prepare import Precision
from dcn.models.segmentation import DeepLab
from dcn.tta import TTA

__all__ = ["load", "load_model", "load_segmenter", "make_predictor", "make_segmenter", "with_testing"]


def load(
    name_or_checkpoint: str | Path,
    weights: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    testing: InferenceConfig | None = None,
    optimize: bool = True,
    precision: Precision = "float32",
) -> Predictor:
    """A network ready to predict.

    Args:
        name_or_checkpoint: a weights file or run folder of ours (it knows its network), or a name of ``dcn models``.
        weights: with a name: weights of ours, or a ``.pth`` of mmdetection.
        classes: with a name: class names in the order of the labels. ``None``: those that the weights carry; if they
            carry none, the names of COCO for 80 classes, of VOC for 20, else numbers; without weights those of COCO.
        device: ``cpu``, ``cuda``...; ``None``: the GPU where there is one.
        testing: several scales, mirror images, soft-NMS and the like; ``None``: one pass at the test size.
        optimize: make the network ready for inference, see :func:`dcn.models.optimized`; ``False`` leaves its layers
            and its state dict as they are in training.
        precision: of weights and maps, ``"float32"``, ``"bfloat16"`` or ``"float16"``; needs ``optimize``.

    Raises:
        ValueError: neither a file, a run nor a name (the nearest name is given); weights that do not fit; classes not
            known; a network for label maps (:func:`load_segmenter`); test-time options for one that finds no boxes.
    """
    model = load_model(name_or_checkpoint, weights, classes=classes)
    if isinstance(model, DeepLab):
        raise ValueError(f"{name_or_checkpoint}: a network for label maps; use dcn.load_segmenter")
    model = _ready(model, optimize, precision)
    return make_predictor(with_testing(model, testing or InferenceConfig()), choose_device(device))


def load_segmenter(
    name_or_checkpoint: str | Path,
    weights: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    optimize: bool = True,
    precision: Precision = "float32",
) -> Segmenter:
    """A network that gives every pixel a class, ready to predict; arguments as in :func:`load`.

    Raises:
        ValueError: as :func:`load`, or the network is a detector.
    """
    model = load_model(name_or_checkpoint, weights, classes=classes)
    if not isinstance(model, DeepLab):
        raise ValueError(f"{name_or_checkpoint}: a detector; use dcn.load")
    ready = _ready(model, optimize, precision)
    assert isinstance(ready, DeepLab)
    return make_segmenter(ready, choose_device(device))


def _ready(model: nn.Module, optimize: bool, precision: Precision) -> nn.Module:
    if optimize:
        return prepare(model, precision)
    if precision != "float32":
        raise ValueError(f"precision: {precision} needs optimize=True, which casts the weights")
    return model


def load_model(
    name_or_checkpoint: str | Path, weights: str | Path | None = None, *, classes: Sequence[str] | None = None
) -> nn.Module:
    """The network of :func:`load` alone, on the CPU."""
    path = Path(name_or_checkpoint)
    if path.is_dir() or path.is_file():
        if weights is not None:
            raise ValueError(f"weights: {path} has its own weights; give weights only with the name of a network")
        return _from_file(find_weights(path) if path.is_dir() else path)
    name = str(name_or_checkpoint)
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "`dcn models` lists the names"
        raise ValueError(f"{name!r}: neither a weights file, a run folder nor the name of a network; {hint}")
    return _from_name(name, weights, classes)


def make_predictor(model: nn.Module, device: torch.device) -> Predictor:
    """A predictor that reads images upright and resizes them as training does."""
    return Predictor(model, device, _read, _resize)


def make_segmenter(model: DeepLab, device: torch.device) -> Segmenter:
    """The same for a network for label maps."""
    return Segmenter(model, device, _read, _resize)


def with_testing(model: nn.Module, testing: InferenceConfig, size: Size | None = None) -> nn.Module:
    """The same detector with test-time options; the detector itself where there are none.

    Args:
        model: a detector.
        testing: the options.
        size: ``(shorter side, largest longer side)`` of the one pass where ``testing`` names no scales; ``None``: the
            detector's test size.

    Raises:
        ValueError: a network that finds no boxes, or a threshold for a class it does not know.
    """
    if testing == InferenceConfig():
        return model
    if not isinstance(model, Detector):
        raise ValueError(f"model: expected a detector, got {type(model).__name__}; test-time options are about boxes")
    values = {**vars(testing), "scales": testing.scales or ()}
    return TTADetector(model, TTA(**values), _resize, size)


def _from_file(path: Path) -> nn.Module:
    state, info = read_weights(path)
    model = build(info.model, info.classes, **info.options)
    load_state(model, state, str(path))
    return model


def _from_name(name: str, weights: str | Path | None, classes: Sequence[str] | None) -> nn.Module:
    if weights is None:
        warnings.warn(f"{name}: no weights given; what it finds will be random", stacklevel=4)
        return build(name, COCO_CLASSES if classes is None else classes)
    state, found = read_detector(weights)
    names = classes or found
    if names is None:
        raise ValueError(f"classes: {weights} does not carry its class names; give them")
    model = build(name, names)
    load_state(model, state, str(weights))
    return model


def _read(path: Path) -> Tensor:
    return read_image(path, upright=True)


def _resize(image: Tensor, shorter: int, longer: int) -> Tensor:
    return resize_image(image, shorter, longer)[0]
