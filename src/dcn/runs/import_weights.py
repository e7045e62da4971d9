"""Checkpoints of other programs into weights files that know their model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from dcn.class_names import CITYSCAPES_CLASSES, class_names
from dcn.engine.checkpoint import save_weights
from dcn.models import MODELS, build, options_of
from dcn.models.backbones.resnet import Style
from dcn.models.checkpoints import (
    StateFile,
    export_backbone,
    is_backbone_alone,
    is_detector,
    is_model,
    load_mxnet,
    load_state,
    model_of,
    read_backbone,
    read_detector,
    read_params,
    read_state,
)
from dcn.models.checkpoints.backbone import backbone_size, shortened
from dcn.models.checkpoints.detectron2 import backbone_of as detectron2_backbone
from dcn.models.checkpoints.detectron2 import detector_of, is_detectron2, is_detectron2_detector
from dcn.models.checkpoints.mxnet import beside_backbone
from dcn.models.preprocess import PreprocessName


@dataclass(frozen=True)
class Training:
    """What a file of weights does not say about its training; ``None``: as the published files of its kind.

    Attributes:
        preprocess: normalisation of the images, such as ``"bgr_mean"``.
        style: where the strides of the ResNet are, ``"caffe"`` or ``"pytorch"``.
    """

    preprocess: str | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (("preprocess", get_args(PreprocessName)), ("style", get_args(Style))):
            if getattr(self, name) not in (None, *choices):
                raise ValueError(f"--{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")

    @property
    def options(self) -> dict[str, object]:
        """What is said, as options of a model."""
        return {name: value for name, value in vars(self).items() if value is not None}


def import_weights(
    file: Path,
    output: Path,
    name: str | None = None,
    classes: tuple[str, ...] | None = None,
    training: Training = Training(),  # frozen
) -> str:
    """Convert a checkpoint.

    Args:
        file: ``.params`` of the original MXNet code; ``.pth`` of mmdetection; ``.pkl`` or ``.pth`` of detectron2;
            ``.pth`` or ``.safetensors`` of an ImageNet ResNet.
        output: the ``.safetensors`` file to write.
        name: the model of an mmdetection file whose own name does not begin with it.
        classes: class names in the order of the labels; ``None``: those of the file.
        training: what the file does not say.

    Returns:
        What the file holds, in words.

    Raises:
        ValueError: a file that cannot be read, or that does not fit ``name`` or ``classes``.
    """
    convert = _from_mxnet if file.suffix == ".params" else _from_pytorch
    return convert(file, output, name, classes, training)


def convert_detector(
    file: Path,
    output: Path,
    name: str,
    classes: tuple[str, ...] | None = None,
    training: Training = Training(),
) -> str:
    """Convert a checkpoint of mmdetection of a known model; as :func:`import_weights`."""
    state, own = read_detector(file)
    names = classes or own
    if names is None:
        raise ValueError(f"{file}: expected class names, got none in the file; give them in the order of the labels")
    model = build(name, names, **training.options)
    load_state(model, state, str(file))
    plugin = MODELS.plugin_of(name)
    save_weights(output, model, name, training.options, plugins=() if plugin is None else (plugin,))
    return f"{name}, {len(names)} classes"


def convert_backbone(file: Path, output: Path, training: Training = Training()) -> str:
    """Convert a ResNet; as :func:`import_weights`."""
    state, facts = read_backbone(file, training.preprocess, training.style)
    export_backbone(file, output, half=False, preprocess=training.preprocess, style=training.style)
    options = ", ".join(f"{name}={value}" for name, value in {**backbone_size(state), **vars(facts)}.items())
    return f"a backbone for model.backbone_weights; its model is built with {options}"


def _from_mxnet(file: Path, output: Path, name: str | None, classes: tuple[str, ...] | None, training: Training) -> str:
    if training.options:
        raise ValueError(f"--preprocess, --style: {file} is of the original code, which has one form; leave them out")
    arrays = read_params(file)
    if name is None and classes is None and not is_model(arrays):
        rest = beside_backbone(arrays)
        return convert_backbone(file, output) + (f"; left out: {', '.join(rest)}" if rest else "")
    detected, count, options = model_of(arrays)
    if name not in (None, detected):
        raise ValueError(f"--name: expected {detected}, the model of {file}, got {name}")
    if classes is not None and len(classes) != count:
        raise ValueError(f"--classes: expected {count} names, one for each class of {file}, got {len(classes)}")
    own = CITYSCAPES_CLASSES if count == len(CITYSCAPES_CLASSES) else class_names(count)
    model = build(detected, classes or own, **options)
    load_mxnet(model, file)
    save_weights(output, model, detected, options)
    return f"{detected}, {count} classes"


def _from_pytorch(
    file: Path, output: Path, name: str | None, classes: tuple[str, ...] | None, training: Training
) -> str:
    read = read_state(file)
    if is_detectron2_detector(read.tensors):
        return _from_detectron2(file, read, output, name, classes, training)
    beside = detectron2_backbone(read)[2] if is_detectron2(read.tensors) else None
    if beside is not None or not is_detector(read.tensors) or (name is None and is_backbone_alone(read.tensors)):
        if name is not None or classes is not None:
            of = "a detector of detectron2 that no model here is" if beside else "a backbone, which has neither"
            raise ValueError(f"--name, --classes: {file} holds {of}; leave them out to get the backbone")
        said = convert_backbone(file, output, training)
        return said + (f"; left out, as no model here has it: {shortened(beside)}" if beside else "")
    # Files are called after their configuration: the longest name that fits is the model.
    name = name or max((known for known in MODELS if file.name.startswith(known)), key=len, default=None)
    if name is None:
        raise ValueError(f"--name: expected the name of the model (`dcn models`), {file} does not say it, got None")
    options_of(name)  # an unknown name is refused with near ones
    return convert_detector(file, output, name, classes, training)


def _from_detectron2(
    file: Path,
    read: StateFile,
    output: Path,
    name: str | None,
    classes: tuple[str, ...] | None,
    training: Training,
) -> str:
    """A detector of detectron2, whose name and options follow from its tensors."""
    try:
        found = detector_of(read, training.preprocess, training.style)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if name not in (None, found.name):
        raise ValueError(f"--name: expected {found.name}, the model of {file}, got {name}; leave it out")
    if classes is not None and len(classes) != found.classes:
        raise ValueError(f"--classes: expected {found.classes} names, one for each class of {file}, got {len(classes)}")
    model = build(found.name, classes or class_names(found.classes), **found.options)
    load_state(model, found.tensors, str(file))
    save_weights(output, model, found.name, found.options)
    options = ", ".join(f"{key}={value}" for key, value in found.options.items())
    return f"{found.name}, {found.classes} classes, built with {options}"
