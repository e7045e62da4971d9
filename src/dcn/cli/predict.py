"""``dcn predict``: images, videos and cameras into pictures and JSON, or into segmentation maps."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcn.cli.words import add_device, add_speed_options, examples, is_change, names_of, speed_of

_STANDARD_OUTPUT = "-"
_EXAMPLES = """\
examples:
  dcn predict runs/bccd_deformable/0 photos/ --output predictions
  dcn predict runs/bccd_deformable/0 "photos/*.jpg" --score 0.3 transforms.test_short=640
  dcn predict runs/cards_plain/0 photo.jpg tta.flip=true tta.suppression=soft_nms_gaussian tta.sigma=0.6
  dcn predict runs/camvid_deformable/0 photos/ tta.scales=0.75,1,1.25 tta.window=1024,1024
  dcn predict cells.onnx photos/ --recursive
  dcn predict runs/bccd_deformable/0 clip.mp4 --every 5
  dcn predict runs/bccd_deformable/0 0 --frames 100        # a camera; without --frames until Ctrl-C
  dcn predict runs/bccd_deformable/0 https://example.org/photo.jpg
  dcn predict runs/bccd_deformable/0 - --json -            # paths on standard input, JSON lines on standard output
  dcn predict faster_rcnn_r50_fpn --weights faster_rcnn_r50_fpn_1x_coco.pth photo.jpg
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``predict``."""
    help_text = "detect objects in images, or segment them"
    parser = subparsers.add_parser("predict", help=help_text, **examples(_EXAMPLES))
    parser.add_argument("source", help="a run folder, a weights file, a file of `dcn export`, or the name of a model")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="IMAGES key=value",
        help="image and video files, folders, patterns, image URLs, numbers of cameras, - for a list of "
        "paths on standard input; then key=value changes of tta.*, transforms.test_short, transforms.long",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="folder (default predictions; with --json nothing but the lines is written)"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write a JSON line for each image to this new file, - for standard output"
    )
    parser.add_argument("--recursive", action="store_true", help="take the images in folders below, too")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="videos and cameras: take every Nth frame (default 1)"
    )
    parser.add_argument("--frames", type=int, metavar="N", help="take N frames of each video or camera (default all)")
    parser.add_argument(
        "--score",
        "--min-score",
        dest="min_score",
        type=float,
        help="detectors: score threshold (default 0.5, for pictures; `predict` in Python keeps the model's own, mostly "
        "0.05 or less)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images per forward pass (default 1)")
    parser.add_argument("--keep-size", action="store_true", help="do not resize the images")
    parser.add_argument("--no-pictures", action="store_true", help="write only the JSON files, or the maps")
    parser.add_argument("--weights", help="weights file for the name of a model (default: published weights)")
    parser.add_argument("--classes", help="class names for the name of a model, in order, separated by commas")
    add_device(parser)
    add_speed_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Exit code 1 where an image could not be read."""
    from dcn.analysis.memory import keep_freed_memory
    from dcn.runs.find_inputs import find_inputs
    from dcn.runs.inputs import Frames
    from dcn.runs.predict import open_predictor, predict_files

    changes = [word for word in arguments.words if is_change(word) and not Path(word).exists()]
    words = [word for word in arguments.words if word not in changes]
    if not words:
        raise ValueError("images: expected files, folders, patterns, URLs, cameras or - after the model, got none")
    inputs = find_inputs(words, recursive=arguments.recursive, frames=Frames(arguments.every, arguments.frames))
    output = arguments.output or (Path("predictions") if arguments.json is None else None)
    keep_freed_memory()
    predictor = open_predictor(
        arguments.source,
        arguments.weights,
        changes,
        classes=names_of(arguments.classes),
        device=arguments.device,
        **speed_of(arguments),
    )
    score = predictor.task.default_score if arguments.min_score is None else arguments.min_score
    with _lines(arguments.json) as line:
        done = predict_files(
            predictor,
            inputs,
            output,
            min_score=score,
            resize=None if arguments.keep_size else "default",
            batch_size=arguments.batch,
            pictures=not arguments.no_pictures,
            line=line,
        )
    streamed = arguments.json == _STANDARD_OUTPUT
    place = output or ("standard output" if streamed else arguments.json)
    print(f"{place}: {done}", file=sys.stderr if streamed else sys.stdout)
    return 0 if done.skipped == 0 else 1


@contextmanager
def _lines(name: str | None) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """What writes the record of an image as a line at once; letters beyond ASCII are escaped.

    Raises:
        ValueError: the file exists.
    """
    if name is None:
        yield None
    elif name == _STANDARD_OUTPUT:
        yield lambda record: print(json.dumps(record), flush=True)
    else:
        try:
            file = Path(name).expanduser().open("x", encoding="ascii")
        except FileExistsError:
            raise ValueError(f"json: {name} exists and is not replaced; choose another name or remove it") from None
        with file:
            yield lambda record: print(json.dumps(record), file=file, flush=True)
