"""``dcn export``: a model as an ONNX file, with a report of how its results differ."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from dcn.cli.words import examples, names_of

_EXAMPLES = """\
examples:
  dcn export runs/bccd_deformable/0 -o cells.onnx --images photos/
  dcn export faster_rcnn_r50_fpn --weights faster_rcnn_r50_fpn_1x_coco.pth -o detector.onnx --size 800x1344
  dcn predict cells.onnx photos/ --output predictions
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``export``."""
    parser = subparsers.add_parser("export", help="write a model as an ONNX file", **examples(_EXAMPLES))
    parser.add_argument("source", help="a run folder, a weights file, or with --weights the name of a model")
    parser.add_argument("-o", "--output", type=Path, default=Path("model.onnx"), help="file (default model.onnx)")
    parser.add_argument("--size", default="dynamic", help="HEIGHTxWIDTH of the input, or dynamic (default)")
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        help="image files, folders or patterns on which results are compared (default: three generated images)",
    )
    parser.add_argument("--score", type=float, help="detectors: compare detections from this score on")
    parser.add_argument("--with-example", action="store_true", help="also write a script that runs the file by itself")
    parser.add_argument("--weights", help="weights file, where the source is the name of a model")
    parser.add_argument("--classes", help="class names for the name of a model, separated by commas")
    parser.set_defaults(run=_run)


def _size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"--size: expected HEIGHTxWIDTH such as 800x1344, or dynamic, got {text!r}")
    return int(match[1]), int(match[2])


def _run(arguments: argparse.Namespace) -> int:
    from dcn.runs.export import export
    from dcn.runs.predict import find_images

    done = export(
        arguments.source,
        arguments.output,
        weights=arguments.weights,
        classes=names_of(arguments.classes),
        size=_size(arguments.size),
        images=find_images(arguments.images),
        min_score=arguments.score,
        with_example=arguments.with_example,
    )
    print(done)
    return 0
