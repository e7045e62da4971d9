"""``dcn report``: the page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dcn.cli.words import add_device, add_split, examples, one_source

_EXAMPLES = """\
examples:
  dcn report runs/bccd_deformable/0
  dcn report runs/camvid_deformable/0 --split test -o camvid.html
  dcn report model.safetensors --recipe bccd_deformable data.root=data/bccd
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``report``."""
    help_text = "write the page about a run: metrics, kinds of error, worst images"
    parser = subparsers.add_parser("report", help=help_text, **examples(_EXAMPLES))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN key=value",
        help="a run folder or weights file, then key=value changes of its recipe",
    )
    add_split(parser, "val")
    parser.add_argument(
        "-o", "--output", type=Path, help="page, or folder for it (default report.html in the run folder)"
    )
    parser.add_argument("--recipe", help="the recipe that describes the data, for weights outside of a run folder")
    add_device(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.runs.report import report

    source, changes = one_source(arguments.words)
    page = report(
        source,
        arguments.split,
        output=arguments.output,
        recipe=arguments.recipe,
        device=arguments.device,
        changes=changes,
    )
    print(page)
    return 0
