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
  dcn import model_final_f10217.pkl -o mask.safetensors
  dcn import my_detectron2_run.pth --preprocess rgb_std --style pytorch -o mine.safetensors
  dcn import R-50.pkl -o r50.safetensors
  dcn import resnet50-0676ba61.pth -o resnet50.safetensors

The last two are backbones, for `model.backbone_weights=resnet50.safetensors` in a recipe.
No code in a file is run: weights that are anything but tensors, arrays and plain containers are refused.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``import``."""
    parser = subparsers.add_parser("import", help="convert weights of other programs", **examples(_EXAMPLES))
    parser.add_argument(
        "file",
        type=Path,
        help=".params of the original MXNet code; .pth of mmdetection; .pkl or .pth of detectron2; .ckpt of Lightning; "
        ".pth or .safetensors of an ImageNet ResNet",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--name", help="the model, if the name of an mmdetection file does not begin with it")
    parser.add_argument("--classes", help="class names in order, separated by commas (default: those of the file)")
    parser.add_argument(
        "--preprocess",
        help="how its training normalised images, where it differs from the published files: rgb_std, bgr_mean, ...",
    )
    parser.add_argument("--style", help="where its strides are, in the same way: caffe (first 1x1), pytorch (3x3)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.runs.import_weights import Training, import_weights

    names = names_of(arguments.classes)
    classes = None if names is None else tuple(names)
    if arguments.output.suffix != ".safetensors":
        raise ValueError(f"--output: expected a name that ends in .safetensors, got {arguments.output}")
    training = Training(arguments.preprocess, arguments.style)
    print(f"{arguments.output}: {import_weights(arguments.file, arguments.output, arguments.name, classes, training)}")
    return 0
