"""``dcn export``: a model as a file for other programs, with a report of how its results differ."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from dcn.cli.words import examples, names_of, one_source

_EXAMPLES = """\
examples:
  dcn export runs/bccd_deformable/0 -o cells.onnx --images photos/
  dcn export runs/bccd_deformable/0 -o cells.onnx --split val eval.images=50
  dcn export runs/bccd_deformable/0 -o small.onnx --precision int8 --calibration photos/ --split val
  dcn export runs/bccd_deformable/0 -o cells.pt2 --format torch
  dcn export faster_rcnn_r50_fpn --weights faster_rcnn_r50_fpn_1x_coco.pth -o detector.onnx --size 800x1344
  dcn predict cells.onnx photos/ --output predictions

`dcn predict`, `dcn eval` and `dcn bench model` take the file. Load a .pt2 file only if you trust it: it may run code.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``export``."""
    parser = subparsers.add_parser("export", help="write a model for other programs", **examples(_EXAMPLES))
    parser.add_argument(
        "words",
        nargs="+",
        metavar="SOURCE key=value",
        help="a run folder, a weights file, or with --weights the name of a model; changes of the recipe of --split",
    )
    parser.add_argument("-o", "--output", type=Path, help="file (default model.onnx, or model.pt2)")
    parser.add_argument(
        "--format",
        choices=("onnx", "torch", "aoti"),
        default="onnx",
        help="onnx (default), torch: a torch.export program, aoti: compiled for this processor by AOTInductor",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of weights and maps (default float32); int8 is for onnx and needs --calibration",
    )
    parser.add_argument("--size", default="dynamic", help="HEIGHTxWIDTH of the input, or dynamic (default)")
    parser.add_argument("--batch", default="1", help="images of one call (default 1), or dynamic")
    parser.add_argument("--raw", action="store_true", help="end before detections, or classes of pixels, are selected")
    proof = parser.add_argument_group("proof")
    _images(proof, "--images", "on which results are compared (default: of --split, or three generated images)")
    proof.add_argument("--score", type=float, help="detectors: compare detections from this score on")
    proof.add_argument("--split", help="evaluate model and file on this split: train, val, test, or its own name")
    proof.add_argument("--recipe", help="the recipe that describes the data, for weights outside of a run folder")
    _images(proof, "--calibration", "like those to come, for int8")
    proof.add_argument(
        "--unproven",
        action="store_true",
        help="keep a file over the tolerance where rounding alone changes the model's results as much",
    )
    parser.add_argument("--with-example", action="store_true", help="also write a script that runs the file by itself")
    parser.add_argument("--weights", help="weights file, where the source is the name of a model")
    parser.add_argument("--classes", help="class names for the name of a model, separated by commas")
    parser.set_defaults(run=_run)


def _images(group: Any, option: str, what: str) -> None:
    group.add_argument(option, nargs="+", default=[], metavar="IMAGES", help=f"files, folders or patterns {what}")


def _size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"--size: expected HEIGHTxWIDTH such as 800x1344, or dynamic, got {text!r}")
    return int(match[1]), int(match[2])


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--batch: expected a number of images from 1 on, or dynamic, got {text!r}")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.runs.export import FORMATS, export
    from dcn.runs.find_inputs import find_images

    source, changes = one_source(arguments.words)
    done = export(
        source,
        arguments.output or f"model{FORMATS[arguments.format][0]}",
        format=arguments.format,
        precision=arguments.precision,
        size=_size(arguments.size),
        batch=_batch(arguments.batch),
        raw=arguments.raw,
        images=find_images(arguments.images),
        calibration=find_images(arguments.calibration),
        split=arguments.split,
        recipe=arguments.recipe,
        changes=changes,
        min_score=arguments.score,
        unproven=arguments.unproven,
        with_example=arguments.with_example,
        weights=arguments.weights,
        classes=names_of(arguments.classes),
    )
    print(done)
    return 0
