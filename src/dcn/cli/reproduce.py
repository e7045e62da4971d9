"""``dcn reproduce``: what the papers report, trained again."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn.cli.words import add_device, examples, split_words
from dcn.suggest import counted

if TYPE_CHECKING:
    from dcn.reproduce.papers import Line
    from dcn.reproduce.plan import Choice, Plan
    from dcn.reproduce.protocol import Planned, Setting
    from dcn.reproduce.queue import Locations

_EXAMPLES = """\
examples:
  dcn reproduce table3 --data data --dry-run
  dcn reproduce table3 --data data --gpus 8
  dcn reproduce voc --data data model.backbone_weights=resnet101.params
  dcn reproduce table4
  dcn reproduce --small --dataset shapes uniform --seeds 0-2
  dcn reproduce --small --dataset cards --system rcnn rfcn --data data --weights weights --part a
  dcn reproduce --small --dry-run
  dcn reproduce --small --tables

TABLE is one of table1, table2, table3, table4, table5, voc, coco, fpn, deeplab and zoo: the published protocol.
Trainings that are finished are not repeated, interrupted ones are resumed, and the published number stands beside the
reached one. Several GPUs share a training through torchrun. table4 needs no data: it times the networks on the CPU.

--small trains the ablation in miniature, run by run: every finished run is a row of the results file and is not
repeated. It can be stopped at any time and continues where it stopped; several processes may share one folder.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``reproduce``."""
    help_text = "train and tabulate what the papers report, at full size or in miniature"
    parser = subparsers.add_parser("reproduce", help=help_text, **examples(_EXAMPLES))
    parser.add_argument(
        "words", nargs="*", metavar="TABLE key=value", help="a table, and changes of all of its recipes"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the data sets")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder with weights files (default DATA/weights)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("runs/reproduce"), help="folder (default runs/reproduce)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs and what they need; train nothing")
    full = parser.add_argument_group("published protocol")
    full.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs of one training at most (default: all of this machine)"
    )
    full.add_argument(
        "--teraflops", type=float, metavar="N", help="what one GPU sustains, for the estimate of hours (default 6)"
    )
    small = parser.add_argument_group("in miniature")
    small.add_argument("--small", action="store_true", help="the ablation in miniature")
    small.add_argument("--dataset", nargs="+", metavar="NAME", help="shapes, uniform, cards, ... (default: all)")
    small.add_argument("--system", nargs="+", metavar="NAME", help="deeplab, rpn, rcnn, rfcn (default: all)")
    small.add_argument("--part", nargs="+", metavar="NAME", help="a, b, c, d: parts of the ablation (default: all)")
    small.add_argument("--variant", nargs="+", metavar="NAME", help="plain, deformable, ... (default: all of the part)")
    small.add_argument("--seeds", default="0-2", metavar="0-2", help="first and last seed, or a list 0,3 (default 0-2)")
    small.add_argument("--results", type=Path, metavar="FILE", help="the CSV of the rows (default OUTPUT/results.csv)")
    small.add_argument("--plan", type=Path, metavar="FILE", help="another plan than that of the package")
    small.add_argument("--keep", action="store_true", help="keep the weights of all runs")
    small.add_argument("--tables", action="store_true", help="print the tables of the results; train nothing")
    small.add_argument(
        "--times", action="store_true", help="time a training step, plain and deformable in turns; train nothing"
    )
    small.add_argument("--figure", type=Path, metavar="FILE.png", help="with --tables: write a picture of them too")
    add_device(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    names, changes = split_words(arguments.words)
    if len(names) + arguments.small != 1:
        raise ValueError(
            f"reproduce: expected one table or --small, got {', '.join(names) or 'neither'}"
            f"{' and --small' if arguments.small else ''}"
        )
    if names:
        return _full(names[0], changes, arguments)
    if changes:
        raise ValueError(f"{changes[0]}: --small takes its settings from a plan; copy it and give it as --plan FILE")
    from dcn.reproduce.plan import PLAN, Choice, read_plan
    from dcn.reproduce.queue import Locations

    plan = read_plan(arguments.plan or PLAN)
    choice = Choice(
        arguments.dataset, arguments.system, arguments.part, arguments.variant, parse_seeds(arguments.seeds)
    )
    locations = Locations(
        arguments.output,
        arguments.results or arguments.output / "results.csv",
        arguments.data,
        arguments.weights,
        arguments.device,
        arguments.keep,
    )
    if arguments.figure is not None and not arguments.tables:
        raise ValueError("--figure: expected --tables beside it, got none")
    if arguments.times:
        return _times(plan, choice, locations)
    if arguments.tables:
        return _tables(plan, choice, locations, arguments.figure)
    return _small(plan, choice, locations, dry_run=arguments.dry_run)


def _full(table: str, changes: list[str], arguments: argparse.Namespace) -> int:
    import torch

    from dcn.reproduce.papers import PAPER_TABLES, lines_of
    from dcn.reproduce.protocol import TERAFLOPS, Setting, planned

    if table not in PAPER_TABLES:
        raise ValueError(f"table: expected one of {', '.join(PAPER_TABLES)}, got {table!r}")
    if table == "table4":
        return _costs(arguments.output / "table4.csv", dry_run=arguments.dry_run)
    if arguments.data is None:
        raise ValueError(
            f"--data: expected the folder of the data sets, got none; `dcn reproduce {table} --data DIR "
            "--dry-run` lists what has to be in it"
        )
    lines = lines_of(table)
    gpus = arguments.gpus if arguments.gpus is not None else max(1, torch.cuda.device_count())
    if gpus < 1:
        raise ValueError(f"--gpus: expected 1 or more, got {gpus}")
    setting = Setting(
        arguments.data,
        arguments.output,
        gpus,
        arguments.weights,
        arguments.device,
        tuple(changes),
        arguments.teraflops or TERAFLOPS,
    )
    plan = planned(lines, setting)
    if arguments.dry_run:
        _list_runs(plan, setting)
        return 0
    return _run_table(table, PAPER_TABLES[table], lines, plan, setting)


def _run_table(table: str, title: str, lines: list[Line], plan: list[Planned], setting: Setting) -> int:
    from dcn.reproduce.protocol import (
        comparison,
        dilation_comparison,
        planned,
        reached_numbers,
        train_planned,
        write_rows,
    )

    finished = train_planned(plan, setting)
    if table == "table2":
        if finished:
            text = dilation_comparison(title, planned(lines, setting)[0].folder, setting).markdown(1)
            (setting.output / "table2.md").write_text(text, encoding="utf-8")
            print(text)
        return 0 if finished else 130
    rows = reached_numbers(lines, setting)
    write_rows(setting.output / table, title, rows)
    print(comparison(title, rows).markdown(1))
    print(f"written: {setting.output / table}.md, .csv, .json")
    return 0 if finished else 130


def _list_runs(plan: list[Planned], setting: Setting) -> None:
    from dcn.reproduce.protocol import FINISHED

    for one in plan:
        hours = "length unknown" if one.hours is None else f"{one.hours:.1f} hours"
        gpus = f"{one.gpus} GPU{'s' if one.gpus > 1 else ''}"
        rest = "" if one.state == FINISHED else f", {hours} on {gpus}, into {one.folder}"
        print(f"{one.recipe}: {one.state}{rest}")
    total = sum(one.hours or 0.0 for one in plan)
    print(f"\n{total:.0f} hours in all, one training after another. Estimated from the multiply-adds of the models, at")
    print(f"{setting.teraflops:g} TFLOP/s sustained by each GPU (--teraflops); loading images is not in it.")
    needs = dict.fromkeys(need for one in plan for need in one.needs)
    if needs:
        print("\nmissing:\n  " + "\n  ".join(needs))


def _costs(path: Path, *, dry_run: bool) -> int:
    import torch

    from dcn.bench.workload import Workload, make_call, make_model
    from dcn.reproduce.costs import TABLE4, Prepared, measure_costs, table4

    def prepare(name: str, classes: int, size: tuple[int, int]) -> Prepared:
        work = Workload(size, 1, "float32", torch.device("cpu"))
        model = make_model(name, work, num_classes=classes)
        return model, make_call(model, work)

    if dry_run:
        print("\n".join(f"{one.title}: {one.plain} and {one.deformable} at {one.size}" for one in TABLE4))
        return 0
    table = table4(measure_costs(TABLE4, prepare, path=path))
    assert table is not None  # there are networks
    print(table.markdown(1))
    print(f"written: {path}")
    return 0


def _tables(plan: Plan, choice: Choice, locations: Locations, figure: Path | None) -> int:
    from dcn.reproduce.figure import effects_figure
    from dcn.reproduce.intervals import update_intervals
    from dcn.reproduce.tables import all_tables, summary
    from dcn.reproduce.written import read_results

    update_intervals(plan, choice, locations)
    results = read_results(plan, locations.results)
    if figure is not None:
        effects_figure(results, figure)
    print("\n".join([summary(results), *(table.markdown() for table in all_tables(results))]).strip() or "no results")
    return 0


def _times(plan: Plan, choice: Choice, locations: Locations) -> int:
    from dcn.reproduce.steps import measure_steps

    rows = measure_steps(plan, choice, locations)
    for row in rows:
        print(f"{row.dataset}/{row.system}/{row.variant}: {row.ms:.0f} ms of a core for {row.batch_size} images")
    print(f"{counted(len(rows), 'new row')} in {locations.steps}")
    return 0


def _small(plan: Plan, choice: Choice, locations: Locations, *, dry_run: bool) -> int:
    from dcn.engine.distributed import World, choose_device
    from dcn.reproduce.plan import chosen_jobs
    from dcn.reproduce.queue import expected_hours, missing_jobs, recipe_of, run_queue
    from dcn.reproduce.rows import Row, read_table

    jobs = chosen_jobs(plan, choice)
    left = missing_jobs(jobs, locations)
    if dry_run:
        rows = read_table(locations.results, Row)
        hours = [expected_hours(job, rows) for job in left]
        for job, own in zip(left, hours, strict=True):
            print(f"{job.name}  {job.recipe}  {'unknown' if own is None else f'{own:.2f} h'}")
        known = [own for own in hours if own is not None]
        print(f"left: {counted(len(left), 'run')}, with starts, for {counted(len(jobs), 'row')} of {locations.results}")
        print(f"hours of {len(known)} of them, by the rows of their system and data that are there: {sum(known):.1f}")
        return 0
    for job in left:
        recipe_of(job, locations)  # what is missing is said before the first run, not hours later
    result = run_queue(plan, jobs, locations, World(choose_device(locations.device)))
    for name, reason in result.failed.items():
        print(f"{name} failed: {reason}")
    print(f"{result.done} runs done, {len(missing_jobs(jobs, locations))} left; results in {locations.results}")
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
