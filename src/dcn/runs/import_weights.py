"""Checkpoints of other programs into weights files that know their model."""

from __future__ import annotations

from pathlib import Path

from dcn.class_names import CITYSCAPES_CLASSES, class_names
from dcn.engine.checkpoint import save_weights
from dcn.models import MODELS, build, options_of
from dcn.models.checkpoints import (
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
from dcn.models.checkpoints.backbone import backbone_size
from dcn.models.checkpoints.mxnet import beside_backbone


def import_weights(file: Path, output: Path, name: str | None = None, classes: tuple[str, ...] | None = None) -> str:
    """Convert a checkpoint.

    Args:
        file: ``.params`` of the original MXNet code; ``.pth`` of mmdetection; ``.pth`` or ``.safetensors`` of an
            ImageNet ResNet.
        output: the ``.safetensors`` file to write.
        name: the model of an mmdetection file whose own name does not begin with it.
        classes: class names in the order of the labels; ``None``: those of the file.

    Returns:
        What the file holds, in words.

    Raises:
        ValueError: a file that cannot be read, or that does not fit ``name`` or ``classes``.
    """
    convert = _from_mxnet if file.suffix == ".params" else _from_pytorch
    return convert(file, output, name, classes)


def convert_detector(file: Path, output: Path, name: str, classes: tuple[str, ...] | None = None) -> str:
    """Convert a checkpoint of mmdetection of a known model; as :func:`import_weights`."""
    state, own = read_detector(file)
    names = classes or own
    if names is None:
        raise ValueError(f"{file}: expected class names, got none in the file; give them in the order of the labels")
    model = build(name, names)
    load_state(model, state, str(file))
    plugin = MODELS.plugin_of(name)
    save_weights(output, model, name, {}, plugins=() if plugin is None else (plugin,))
    return f"{name}, {len(names)} classes"


def convert_backbone(file: Path, output: Path) -> str:
    """Convert a ResNet; as :func:`import_weights`."""
    state, facts = read_backbone(file)
    export_backbone(file, output, half=False)
    options = ", ".join(f"{name}={value}" for name, value in {**backbone_size(state), **vars(facts)}.items())
    return f"a backbone for model.backbone_weights; its model is built with {options}"


def _from_mxnet(file: Path, output: Path, name: str | None, classes: tuple[str, ...] | None) -> str:
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


def _from_pytorch(file: Path, output: Path, name: str | None, classes: tuple[str, ...] | None) -> str:
    tensors = read_state(file).tensors
    if not is_detector(tensors) or (name is None and is_backbone_alone(tensors)):
        if name is not None or classes is not None:
            raise ValueError(f"--name, --classes: {file} holds a backbone, which has neither; leave them out")
        return convert_backbone(file, output)
    # Files are called after their configuration: the longest name that fits is the model.
    name = name or max((known for known in MODELS if file.name.startswith(known)), key=len, default=None)
    if name is None:
        raise ValueError(f"--name: expected the name of the model (`dcn models`), {file} does not say it, got None")
    options_of(name)  # an unknown name is refused with near ones
    return convert_detector(file, output, name, classes)
