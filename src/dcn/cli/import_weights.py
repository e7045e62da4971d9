"""``dcn import``: weights of other programs as a safetensors file that knows its model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dcn.cli.words import examples, names_of

_EXAMPLES = """\
examples:
  dcn import rfcn_dcn_coco-0000.params -o rfcn.safetensors
  dcn import faster_rcnn_r50_fpn_dconv_c3-c5_1x_coco.pth -o faster.safetensors
  dcn import my_checkpoint.pth --name mask_rcnn_r50_fpn_mdconv_c3-c5 --classes cat,dog -o mine.safetensors
  dcn import resnet50-0676ba61.pth -o resnet50.safetensors

The last one is a backbone, for `model.backbone_weights=resnet50.safetensors` in a recipe.
Files are never run: pickles that need anything but tensors and plain containers are refused.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``import``."""
    parser = subparsers.add_parser("import", help="convert weights of other programs", **examples(_EXAMPLES))
    parser.add_argument(
        "file",
        type=Path,
        help=".params of the original MXNet code; .pth of mmdetection; .pth or .safetensors of an ImageNet ResNet",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--name", help="the model of an mmdetection file whose own name does not begin with it")
    parser.add_argument("--classes", help="class names in order, separated by commas (default: those of the file)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    names = names_of(arguments.classes)
    classes = None if names is None else tuple(names)
    if arguments.output.suffix != ".safetensors":
        raise ValueError(f"--output: expected a name that ends in .safetensors, got {arguments.output}")
    convert = _from_mxnet if arguments.file.suffix == ".params" else _from_pytorch
    print(f"{arguments.output}: {convert(arguments.file, arguments.output, arguments.name, classes)}")
    return 0


def _from_mxnet(file: Path, output: Path, name: str | None, classes: tuple[str, ...] | None) -> str:
    from dcn.class_names import CITYSCAPES_CLASSES, class_names
    from dcn.engine import save_weights
    from dcn.models import build
    from dcn.models.checkpoints import is_model, load_mxnet, model_of, read_params
    from dcn.models.checkpoints.mxnet import beside_backbone

    arrays = read_params(file)
    if name is None and classes is None and not is_model(arrays):
        rest = beside_backbone(arrays)
        return _backbone(file, output) + (f"; left out: {', '.join(rest)}" if rest else "")
    found, count, options = model_of(arrays)
    if name not in (None, found):
        raise ValueError(f"--name: expected {found}, the model of {file}, got {name}")
    if classes is not None and len(classes) != count:
        raise ValueError(f"--classes: expected {count} names, one for each class of {file}, got {len(classes)}")
    own = CITYSCAPES_CLASSES if count == len(CITYSCAPES_CLASSES) else class_names(count)
    model = build(found, classes or own, **options)
    load_mxnet(model, file)
    save_weights(output, model, found, options)
    return f"{found}, {count} classes"


def _from_pytorch(file: Path, output: Path, name: str | None, classes: tuple[str, ...] | None) -> str:
    from dcn.engine import save_weights
    from dcn.models import MODELS, options_of
    from dcn.models.checkpoints import is_detector, read_state
    from dcn.runs.load import read_model

    if not is_detector(read_state(file).tensors):
        if name is not None or classes is not None:
            raise ValueError(f"--name, --classes: {file} holds a backbone, which has neither; leave them out")
        return _backbone(file, output)
    # Files are called after their configuration: the longest name that fits is the model.
    name = name or max((known for known in MODELS if file.name.startswith(known)), key=len, default=None)
    if name is None:
        raise ValueError(f"--name: expected the name of the model (`dcn models`), {file} does not say it, got None")
    options_of(name)  # an unknown name is refused with near ones
    model = read_model(name, file, classes=classes)
    save_weights(output, model, name, {})
    return f"{name}, {len(model.classes)} classes"


def _backbone(file: Path, output: Path) -> str:
    from dcn.models.checkpoints import export_backbone, read_backbone

    _, facts = read_backbone(file)
    export_backbone(file, output, half=False)
    options = ", ".join(f"{name}={value}" for name, value in vars(facts).items())
    return f"a backbone for model.backbone_weights; its model is built with {options}"
