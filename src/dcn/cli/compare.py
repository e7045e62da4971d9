"""``dcn compare``: runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dcn.cli.words import add_device, add_split, examples, split_words

_EXAMPLES = """\
examples:
  dcn compare runs/bccd_plain/0 runs/bccd_deformable/0
  dcn compare runs/bccd_plain/0 runs/bccd_deformable/0 --split val -o comparison.html
  dcn compare runs/cards_rcnn/0 runs/cards_rcnn/1 runs/cards_rcnn_deformable/0 runs/cards_rcnn_deformable/1

Several seeds of two recipes are paired by seed. Each difference has a 95 % interval: over images by resampling them,
over seeds by Student's t.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``compare``."""
    parser = subparsers.add_parser("compare", help="compare runs, with intervals", **examples(_EXAMPLES))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN RUN key=value",
        help="two or more run folders, then key=value changes of every recipe",
    )
    add_split(parser, "test")
    parser.add_argument("-o", "--output", type=Path, help="write an HTML page, too: its file or folder")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples over images (default 1000)")
    add_device(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.runs.compare import compare

    runs, changes = split_words(arguments.words)
    result = compare(
        runs,
        arguments.split,
        output=arguments.output,
        device=arguments.device,
        resamples=arguments.resamples,
        changes=changes,
    )
    print(result)
    if result.page is not None:
        print(result.page)
    return 0
