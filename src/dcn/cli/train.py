"""``dcn train``: a recipe into a run folder."""

from __future__ import annotations

import argparse
from typing import Any

from dcn.cli.words import add_device, examples, split_words

_EXAMPLES = """\
examples:
  dcn train synthetic_deformable
  dcn train bccd_deformable data.root=data/bccd schedule.batch_size=4
  dcn train my.yaml schedule.lr=0.005 amp=bf16 --name first-try
  dcn train my.yaml transforms.short=480,640 "model.options={width: 0.5}"
  dcn train --resume runs/bccd_deformable/0
  torchrun --nproc-per-node 8 -m dcn train faster_rcnn_r50_fpn_dconv_c3-c5_1x data.root=data/coco
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``train``."""
    parser = subparsers.add_parser("train", help="train a model from a recipe", **examples(_EXAMPLES))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE key=value",
        help="a shipped recipe, a .yaml file or the name of a model, then key=value changes; lists are written a,b",
    )
    parser.add_argument("-o", "--output", default="runs", help="folder for run folders (default runs)")
    parser.add_argument("--name", help="name of the run folder (default: the next number)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="RUN",
        help="continue a run folder, or the latest run of the recipe",
    )
    add_device(parser)
    parser.add_argument("--list", action="store_true", help="list the shipped recipes and stop")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        from dcn.engine.recipe import recipe_names

        print("\n".join(recipe_names()))
        return 0
    from dcn.runs.train import train

    names, changes = split_words(arguments.words)
    if len(names) > 1 or not (names or arguments.resume):
        raise ValueError(
            f"recipe: expected one recipe, got {' '.join(names) or 'none'}; `dcn train --list` lists the shipped ones"
        )
    run = train(
        names[0] if names else None,
        output=arguments.output,
        name=arguments.name,
        resume=arguments.resume,
        device=arguments.device,
        changes=changes,
    )
    if not run.finished:
        print(f"stopped before the end; continue with: dcn train --resume {run.folder}")
        return 130
    return 0
