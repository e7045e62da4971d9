"""``dcn demo``: the whole system from end to end in minutes, on generated data, into one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dcn.cli.words import add_device


def add_parser(subparsers: Any) -> None:
    """Add the verb ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="train, evaluate and draw a small detector in minutes",
        description="Generate data, train a plain and a deformable detector with identical settings, evaluate both on "
        "held-out images, and write one page with metrics and pictures.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder (default runs/demo)")
    parser.add_argument("--quick", action="store_true", help="takes a minute: every step runs, little is learnt")
    parser.add_argument("--seed", type=int, default=0, help="of new weights and of the order of images (default 0)")
    add_device(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.demo.job import run_demo
    from dcn.demo.plan import FULL, QUICK
    from dcn.engine.distributed import World, choose_device

    plan = QUICK if arguments.quick else FULL
    lines = run_demo(arguments.output, plan, World(choose_device(arguments.device)), arguments.seed)
    if lines is None:
        print(f"interrupted; `dcn demo --output {arguments.output}` starts again")
        return 130
    print("\n".join(lines))
    return 0
