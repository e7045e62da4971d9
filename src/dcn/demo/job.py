"""``dcn demo``: the main job from end to end in minutes, on data drawn on the spot, into one page."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcn.engine import Recipe
    from dcn.engine.distributed import World

NETWORKS = ("plain", "deformable")
RESULT_FILE = "demo.json"
_DATA_SEED = 0  # the shipped backbone has seen images of seed 1000 only (recipe synthetic_backbone)


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        images: how many are drawn for each split.
        overrides: changes to the recipes ``demo_plain`` and ``demo_deformable``, the same for both.
        judged_offsets: held-out images whose offsets are measured.
        pictures: held-out images that are drawn on the page.
    """

    images: dict[str, int]
    overrides: tuple[str, ...] = ()
    judged_offsets: int = 24
    pictures: int = 6


FULL = Plan({"train": 1000, "val": 60, "test": 200})
QUICK = Plan(
    {"train": 160, "val": 20, "test": 40},
    ("schedule.steps=60", "schedule.warmup.steps=10", "schedule.milestones=[45]", "eval.every=30"),
)


@dataclass(frozen=True)
class Trained:
    """One network of the demo.

    Attributes:
        name: of `NETWORKS`.
        folder: its run folder.
        recipe: what it was trained by.
        voc: figures of `dcn.metrics.VocAP` on the held-out images.
        coco: figures of `dcn.metrics.CocoAP` on the same detections.
        parameters: how many it has.
    """

    name: str
    folder: Path
    recipe: Recipe
    voc: dict[str, float]
    coco: dict[str, float]
    parameters: int


@dataclass
class Clock:
    """Seconds of the parts of the job, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


def add_parser(subparsers: Any) -> None:
    """Add the verb ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="train, judge and draw a small detector in minutes",
        description="Draw data, train a plain and a deformable detector alike, judge both on held-out images, and "
        "write one page with figures and pictures.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder (default runs/demo)")
    parser.add_argument("--quick", action="store_true", help="a minute's worth: everything is tried, little is learnt")
    parser.add_argument("--seed", type=int, default=0, help="of new weights and of the order of images (default 0)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.engine.distributed import World, choose_device

    plan = QUICK if arguments.quick else FULL
    return run_demo(arguments.output, plan, World(choose_device(arguments.device)), arguments.seed)


def run_demo(output: Path, plan: Plan, world: World, seed: int = 0) -> int:
    """Do the whole job.

    Args:
        output: gets ``report.html``, ``demo.json``, the data and the two run folders; those of an earlier demo are
            replaced.
        plan: how much to do.
        world: this process; the demo runs in one.
        seed: of the recipes.

    Returns:
        0, or 130 where training was interrupted.

    Raises:
        ValueError: ``output`` holds something that is not an earlier demo.
    """
    from dcn.cli.demo_report import write_page

    clear(output)
    clock = Clock()
    with clock.part("drawing and writing the data"):
        write_data(output / "data", plan)
    trained = []
    for name in NETWORKS:
        overrides = [f"data.root={json.dumps(str(output / 'data'))}", f"seed={seed}", *plan.overrides]
        result = _train_and_judge(name, output / name, overrides, world, clock)
        if result is None:
            print(f"interrupted; `dcn demo --output {output}` starts afresh")
            return 130
        trained.append(result)
    with clock.part("pictures"):
        page = write_page(output / "report.html", trained, plan, clock, world.device)
    _write_results(output, trained, clock)
    for line in conclusion(trained, plan, page, clock.total):
        print(line)
    return 0


def clear(output: Path) -> None:
    """Make the folder ready: what an earlier demo left there is removed, anything else is refused.

    Raises:
        ValueError: the folder is not empty and has no ``demo.json``.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: expected a folder, got the file {output}")
    if output.is_dir() and any(output.iterdir()) and not (output / RESULT_FILE).is_file():
        raise ValueError(f"--output: {output} holds other things than a demo; choose another folder or empty it")
    for name in ("data", *NETWORKS):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / "report.html").unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / RESULT_FILE).write_text("{}\n", encoding="utf-8")


def write_data(folder: Path, plan: Plan) -> None:
    """Draw the splits and write them in the Pascal VOC layout, so that the reader of real data is what is used."""
    from dcn.data.datasets.synthetic import Synthetic
    from dcn.data.writers import write_voc

    for split, count in plan.images.items():
        write_voc(Synthetic(split, seed=_DATA_SEED, length=count, masks=False), folder, split)


def _train_and_judge(name: str, folder: Path, overrides: list[str], world: World, clock: Clock) -> Trained | None:
    """``None`` where training was interrupted."""
    from dcn.api import load_model
    from dcn.cli.train import train_recipe
    from dcn.engine import load_recipe

    recipe = load_recipe(f"demo_{name}", overrides)
    folder.mkdir()
    with clock.part(f"training, {name}"):
        outcome = train_recipe(recipe, folder, world)
    if not outcome.finished:
        return None
    with clock.part(f"held-out images, {name}"):
        model = load_model(folder).to(world.device)
        voc, coco = judge(recipe, model, world)
    return Trained(name, folder, recipe, voc, coco, sum(p.numel() for p in model.parameters()))


def judge(recipe: Recipe, model: Any, world: World) -> tuple[dict[str, float], dict[str, float]]:
    """Figures by the rules of VOC and of COCO, from the same detections in the images of ``recipe.data.test``."""
    from dcn.cli import assemble
    from dcn.engine.evaluate import detect
    from dcn.metrics import CocoAP, VocAP

    dataset = assemble.open_split(recipe, recipe.data.test)
    batches = assemble.evaluation_batches(recipe, dataset, assemble.test_size(recipe), world)
    voc, coco = VocAP(dataset.classes), CocoAP(dataset.classes)
    for found, targets in detect(model, batches, world.device, recipe.amp):
        voc.update(found, targets)
        coco.update(found, targets)
    return voc.compute(), coco.compute()


def _write_results(output: Path, trained: list[Trained], clock: Clock) -> None:
    def known(figures: dict[str, float]) -> dict[str, float | None]:
        """NaN, the figure of a class without objects, is not JSON."""
        return {name: None if math.isnan(value) else value for name, value in figures.items()}

    networks = {o.name: {"voc": known(o.voc), "coco": known(o.coco), "parameters": o.parameters} for o in trained}
    content = {"networks": networks, "seconds": clock.seconds}
    (output / RESULT_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def conclusion(trained: list[Trained], plan: Plan, page: Path, seconds: float) -> list[str]:
    """The last lines: what was reached, and where the page is."""
    lines = [f"on {plan.images['test']} held-out images, trained alike:"]
    for one in trained:
        figures = f"AP50 {one.voc['AP50']:.3f}, AP70 {one.voc['AP70']:.3f}, COCO AP {one.coco['AP']:.3f}"
        lines.append(f"  {one.name:<10} {figures}")
    return [*lines, f"{int(seconds // 60)} min {int(seconds % 60)} s; the page: {page.resolve()}"]
