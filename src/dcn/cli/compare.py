"""``dcn compare``: runs, or files of detections, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dcn.cli.words import add_device, add_file_options, examples, names_of, refuse_given, split_words

_EXAMPLES = """\
examples:
  dcn compare runs/bccd_plain/0 runs/bccd_deformable/0
  dcn compare runs/bccd_plain/0 runs/bccd_deformable/0 --split val -o comparison.html
  dcn compare runs/cards_rcnn/0 runs/cards_rcnn/1 runs/cards_rcnn_deformable/0 runs/cards_rcnn_deformable/1
  dcn compare --results theirs.json ours.json --annotations instances_val2017.json

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
    parser.add_argument(
        "--split",
        help="train, val or test of the recipe, or the data's own name of a split (default test); for result files a "
        "split of the folder of annotations (default the only one)",
    )
    parser.add_argument("-o", "--output", type=Path, help="write an HTML page, too: its file or folder")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples over images (default 1000)")
    device = add_device(parser)
    files = parser.add_argument_group("files of detections instead of runs")
    results = "two or more JSON files, or folders of text files, as for `dcn eval --results`"
    files.add_argument("--results", nargs="+", metavar="FILE", help=results)
    file_options = add_file_options(files, boxes_only=True)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.set_defaults(run=_run, model_options=[device], file_options=file_options)


def _run(arguments: argparse.Namespace) -> int:
    result = _compare_runs(arguments) if arguments.results is None else _compare_files(arguments)
    print(json.dumps(result.to_dict(), indent=2) if arguments.json else result)
    if result.page is not None:
        print(result.page, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _compare_runs(arguments: argparse.Namespace) -> Any:
    from dcn.runs.compare import compare

    got = "runs" if arguments.words else "none"
    refuse_given(arguments, arguments.file_options, f"--results beside it, got {got}")
    runs, changes = split_words(arguments.words)
    return compare(
        runs,
        arguments.split or "test",
        output=arguments.output,
        device=arguments.device,
        resamples=arguments.resamples,
        changes=changes,
    )


def _compare_files(arguments: argparse.Namespace) -> Any:
    from dcn.runs.result_files import compare_files

    if arguments.words or arguments.annotations is None:
        got = f"{arguments.words[0]!r}" if arguments.words else "no --annotations"
        raise ValueError(f"--results: expected --annotations beside it and no runs, got {got}")
    refuse_given(arguments, arguments.model_options, "runs, got result files")
    return compare_files(
        arguments.results,
        arguments.annotations,
        output=arguments.output,
        split=arguments.split,
        iou_type=arguments.iou_type,
        classes=names_of(arguments.classes),
        outside=arguments.outside,
        resamples=arguments.resamples,
    )
