"""``dcn explore``: one interactive page of what a deformable model reads in images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dcn.cli.words import add_device, examples, split_words

_EXAMPLES = """\
examples:
  dcn explore                                 # the model and generated images that come with the package
  dcn explore runs/demo/deformable photos/ -o page.html
  dcn explore runs/bccd_deformable/0 cell.jpg --score 0.5 transforms.test_short=480
  dcn explore faster_rcnn_r50_fpn_dconv_c3-c5 photo.jpg

The page is one file. It opens without a network or a server.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``explore``."""
    help_text = "write a page that shows what each unit of a deformable model reads"
    parser = subparsers.add_parser("explore", help=help_text, **examples(_EXAMPLES))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="MODEL IMAGES key=value",
        help="a run folder, a weights file or the name of a model (default: one that comes with the package); image "
        "files, folders or patterns (default: generated images)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("explorer.html"),
        help="page, or folder for it (default explorer.html)",
    )
    parser.add_argument("--score", type=float, default=0.3, help="detectors: score threshold (default 0.3)")
    parser.add_argument("--weights", help="weights file, where SOURCE is the name of a model")
    add_device(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.demo.shipped import DETECTOR, sample_images
    from dcn.runs.explore import explore
    from dcn.runs.sources import names_a_model

    words, changes = split_words(arguments.words)
    source = words.pop(0) if words and (names_a_model(words[0]) or len(words) > 1 or arguments.weights) else None
    page = explore(
        source or DETECTOR,
        words or [image for _, image in sample_images()],
        arguments.output,
        weights=arguments.weights,
        min_score=arguments.score,
        device=arguments.device,
        changes=changes,
    )
    print(page)
    return 0
