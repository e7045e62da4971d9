"""``dcn reproduce``: what the papers report, trained again."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn.cli.words import add_device, examples

if TYPE_CHECKING:
    from dcn.reproduce.plan import Choice, Plan
    from dcn.reproduce.queue import Places

_EXAMPLES = """\
examples:
  dcn reproduce --small --dataset letters uniform --seeds 0-2
  dcn reproduce --small --dataset cards --system rcnn rfcn --data data --weights weights --part a
  dcn reproduce --small --dry-run
  dcn reproduce --small --tables

--small trains the ablation in miniature, run by run: every finished run is a row of the results file and is not
repeated. It can be stopped at any time and continues where it stopped; several processes may share one folder.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``reproduce``."""
    help_text = "train and tabulate what the papers report, at full size or in miniature"
    parser = subparsers.add_parser("reproduce", help=help_text, **examples(_EXAMPLES))
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the data sets")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder with weights files (default DATA/weights)")
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"), help="folder (default runs/reproduce)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and what they need; train nothing")
    small = parser.add_argument_group("in miniature")
    small.add_argument("--small", action="store_true", help="the ablation in miniature")
    small.add_argument("--dataset", nargs="+", metavar="NAME", help="letters, uniform, cards, ... (default: all)")
    small.add_argument("--system", nargs="+", metavar="NAME", help="deeplab, rpn, rcnn, rfcn (default: all)")
    small.add_argument("--part", nargs="+", metavar="NAME", help="a, b, c, d: parts of the ablation (default: all)")
    small.add_argument("--variant", nargs="+", metavar="NAME", help="plain, deformable, ... (default: all of the part)")
    small.add_argument("--seeds", default="0-2", metavar="0-2", help="first and last seed, or a list 0,3 (default 0-2)")
    small.add_argument("--results", type=Path, metavar="FILE", help="the CSV of the rows (default OUTPUT/results.csv)")
    small.add_argument("--plan", type=Path, metavar="FILE", help="another plan than that of the package")
    small.add_argument("--keep", action="store_true", help="keep the weights of all runs")
    small.add_argument("--tables", action="store_true", help="print the tables of the results; train nothing")
    add_device(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.small:
        raise ValueError("--small: expected --small, got neither a table nor --small")
    from dcn.reproduce.plan import PLAN, Choice, read_plan
    from dcn.reproduce.queue import Places

    plan = read_plan(arguments.plan or PLAN)
    choice = Choice(
        arguments.dataset, arguments.system, arguments.part, arguments.variant, parse_seeds(arguments.seeds)
    )
    places = Places(
        arguments.output,
        arguments.results or arguments.output / "results.csv",
        arguments.data,
        arguments.weights,
        arguments.device,
        arguments.keep,
    )
    if arguments.tables:
        return _tables(plan, choice, places)
    return _small(plan, choice, places, dry_run=arguments.dry_run)


def _tables(plan: Plan, choice: Choice, places: Places) -> int:
    from dcn.reproduce.intervals import update_intervals
    from dcn.reproduce.tables import all_tables, summary
    from dcn.reproduce.written import read_results

    update_intervals(plan, choice, places)
    results = read_results(plan, places.results)
    print("\n".join([summary(results), *(table.markdown() for table in all_tables(results))]).strip() or "no results")
    return 0


def _small(plan: Plan, choice: Choice, places: Places, *, dry_run: bool) -> int:
    from dcn.engine.distributed import World, choose_device
    from dcn.reproduce.plan import chosen_jobs
    from dcn.reproduce.queue import missing_jobs, recipe_of, run_queue

    jobs = chosen_jobs(plan, choice)
    left = missing_jobs(jobs, places)
    if dry_run:
        print("\n".join(f"{job.name}  {job.recipe}" for job in left))
        print(f"{len(left)} runs are left for {len(jobs)} results in {places.results}")
        return 0
    for job in left:
        recipe_of(job, places)  # what is missing is said before the first run, not hours later
    result = run_queue(plan, jobs, places, World(choose_device(places.device)))
    for name, reason in result.failed.items():
        print(f"{name} failed: {reason}")
    print(f"{result.done} runs done, {len(missing_jobs(jobs, places))} left; results in {places.results}")
    return 130 if result.interrupted else int(bool(result.failed))


def parse_seeds(text: str) -> list[int]:
    """``0-2`` or ``0,3,5`` as numbers.

    Raises:
        ValueError: something else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match is None:
            raise ValueError(f"--seeds: expected a range such as 0-2 or a list such as 0,3, got {text!r}")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return seeds
