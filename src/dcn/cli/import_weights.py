"""``dcn import``: weights of other programs as a safetensors file that knows its network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb ``import``."""
    parser = subparsers.add_parser("import", help="turn weights of other programs into ours")
    parser.add_argument("file", type=Path, help=".params of the original MXNet code, or .pth of mmdetection")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--name", help="the network; a .params file says itself which one it is")
    parser.add_argument("--classes", help="class names in order, separated by commas")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    classes = None if arguments.classes is None else tuple(name.strip() for name in arguments.classes.split(","))
    convert = _from_mxnet if arguments.file.suffix == ".params" else _from_mmdet
    name, count = convert(arguments.file, arguments.output, arguments.name, classes)
    print(f"{arguments.output}: {name}, {count} classes")
    return 0


def _from_mxnet(file: Path, output: Path, name: str | None, classes: tuple[str, ...] | None) -> tuple[str, int]:
    from dcn.class_names import CITYSCAPES_CLASSES, class_names
    from dcn.engine import save_weights
    from dcn.models import build
    from dcn.models.checkpoints import load_mxnet, network_of, read_params

    found, count, options = network_of(read_params(file))
    if name not in (None, found):
        raise ValueError(f"--name: {file} holds {found}, not {name}")
    own = CITYSCAPES_CLASSES if count == len(CITYSCAPES_CLASSES) else class_names(count)
    model = build(found, classes or own, **options)
    load_mxnet(model, file)
    save_weights(output, model, found, options)
    return found, count


def _from_mmdet(file: Path, output: Path, name: str | None, classes: tuple[str, ...] | None) -> tuple[str, int]:
    from dcn.api import load_model
    from dcn.engine import save_weights
    from dcn.models import MODELS

    if name not in MODELS:
        raise ValueError(f"--name: expected the network that {file} belongs to (`dcn models`), got {name!r}")
    model = load_model(name, file, classes=classes)
    save_weights(output, model, name, {})
    return name, len(tuple(model.classes))  # type: ignore[arg-type]  # nn.Module attributes are untyped
