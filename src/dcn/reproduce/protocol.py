"""The published protocols where data and GPUs are there: runs what is missing, and writes the table."""

from __future__ import annotations

import csv
import json
import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dcn.analysis.effective_dilation import PAPER_SIDES
from dcn.engine.checkpoint import STATE_FILE
from dcn.engine.config import Recipe, TransformsConfig
from dcn.engine.folder import RECIPE_FILE
from dcn.engine.recipe import load_recipe, shipped_weights
from dcn.models import options_of
from dcn.models.zoo.costs import COSTS
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS
from dcn.reproduce.measure import short_name
from dcn.reproduce.papers import DOWNLOADS, TABLE2, Line, folder_of, images_of
from dcn.reproduce.tables import Table
from dcn.runs.analysis import analyze_dilation, open_analysis
from dcn.runs.build import RANDOM
from dcn.runs.evaluate import evaluate
from dcn.runs.sources import read_recipe
from dcn.tta import TTA

LOGGER = logging.getLogger("dcn")
FINISHED = "finished"
RUN_NAME = "reproduce"
TERAFLOPS = 6.0
"""What an estimate of hours assumes that one GPU sustains, in 10^12 operations a second: 40 % of a V100 in float32."""


@dataclass(frozen=True)
class Setting:
    """Where and with what the protocols run.

    Attributes:
        data: folder with the data sets.
        output: folder for runs and tables.
        gpus: processes of one training at most.
        weights: folder with weights files that the recipes name; ``None``: ``weights`` in ``data``.
        device: ``"cpu"``, ``"cuda"``; ``None``: the GPU where there is one.
        changes: ``key=value`` changes of all recipes.
        teraflops: see :data:`TERAFLOPS`.
    """

    data: Path
    output: Path
    gpus: int = 1
    weights: Path | None = None
    device: str | None = None
    changes: tuple[str, ...] = ()
    teraflops: float = TERAFLOPS


@dataclass(frozen=True)
class Planned:
    """One training of a table.

    Attributes:
        recipe: its name.
        folder: the run folder.
        state: ``finished``, ``to be resumed`` or ``missing``.
        hours: estimated; ``None`` where the number of images is not known.
        gpus: processes that share it.
        needs: what is not there: texts for people.
    """

    recipe: str
    folder: Path
    state: str
    hours: float | None
    gpus: int
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Reached:
    """One number of a table, published and reached.

    Attributes:
        model: name of ``dcn models``.
        recipe: that was evaluated.
        metric: its name.
        published: in percent.
        published_on: the data of the published number.
        reached: in percent; ``None`` where the run is not finished.
        reached_on: split of the recipe.
        source: of the published number.
        run: the run folder.
    """

    model: str
    recipe: str
    metric: str
    published: float
    published_on: str
    reached: float | None
    reached_on: str
    source: str
    run: str


def training_of(name: str) -> str:
    """The recipe that trains the model of another one, which differs in the test-time options alone."""
    for ending in ("_multiscale_voting", "_multiscale"):
        base = name.removesuffix(ending)
        if base != name and replace(load_recipe(name), tta=TTA()) == replace(load_recipe(base), tta=TTA()):
            return base
    return name


def changes_for(name: str, setting: Setting) -> list[str]:
    """Changes of a recipe: folders of the data and of the weights, then those of the caller."""
    recipe = read_recipe(name)
    words = []
    if recipe.data.root is not None:
        words.append(f"data.root={json.dumps(str(setting.data / folder_of(recipe.data.root)))}")
    if recipe.data.train == "train_aug":
        words.append(f"data.options.augmentation={json.dumps(str(setting.data / 'SBD'))}")
    file = recipe.model.backbone_weights
    if file is not None and not _comes_by_name(file):
        words.append(f"model.backbone_weights={json.dumps(str(_weights_folder(setting) / file))}")
    return [*words, *setting.changes]


def _comes_by_name(weights: str) -> bool:
    return weights == RANDOM or weights in PUBLISHED_WEIGHTS or weights in shipped_weights()


def _weights_folder(setting: Setting) -> Path:
    return setting.weights or setting.data / "weights"


def planned(lines: Sequence[Line], setting: Setting) -> list[Planned]:
    """The trainings of a table, each once, with what they still need."""
    return [_planned(name, setting) for name in dict.fromkeys(training_of(line.recipe) for line in lines)]


def _planned(name: str, setting: Setting) -> Planned:
    folder = setting.output / Path(name).stem / RUN_NAME
    state = "missing"
    if (folder / STATE_FILE).is_file():
        state = "to be resumed"
    if (folder / FINISHED).is_file():
        return Planned(name, folder, FINISHED, 0.0, 0, ())
    recipe = read_recipe(name, changes_for(name, setting))
    count = processes(recipe, setting.gpus)
    return Planned(name, folder, state, hours_of(name, recipe, count, setting), count, tuple(_needs(recipe, setting)))


def _needs(recipe: Recipe, setting: Setting) -> list[str]:
    needs = []
    folders = [] if recipe.data.root is None else [Path(recipe.data.root)]
    folders += [Path(recipe.data.options["augmentation"])] if "augmentation" in recipe.data.options else []
    for folder in folders:
        own = folder.relative_to(setting.data).as_posix() if folder.is_relative_to(setting.data) else ""
        if not folder.is_dir():
            known = DOWNLOADS.get(own)
            what = f"{', '.join(known.files)} into {setting.data / known.folder}: {known.then}" if known else "the data"
            needs.append(f"{folder} is not there; download {what}")
    weights = recipe.model.backbone_weights
    if weights is not None and not _comes_by_name(weights) and not Path(weights).is_file():
        needs.append(
            f"{weights} is not there, and it is not published: put your copy there, or name other weights with "
            "model.backbone_weights=FILE"
        )
    return needs


def hours_of(name: str, recipe: Recipe, gpus: int, setting: Setting) -> float | None:
    """Estimated hours of a training on its GPUs.

    Multiply-adds of the model for an image, times the images of all steps, times three for forward and backward,
    two operations each, at :data:`TERAFLOPS` a GPU. Loading images is not in it.
    """
    images = images_of(name)
    if images is None or recipe.model.name not in COSTS:
        return None
    schedule = recipe.schedule
    steps = schedule.total_steps(max(1, math.ceil(images / schedule.images_per_step)))
    size: Any = options_of(recipe.model.name).get("test_size", (800, 1333))
    share = _pixels(recipe.transforms) / (size[0] * size[1])
    operations = 6e9 * COSTS[recipe.model.name][1] * share * steps * schedule.images_per_step
    return operations / (setting.teraflops * 1e12 * gpus) / 3600


def _pixels(transforms: TransformsConfig) -> float:
    """Of a training image of 4:3, as most photos are."""
    if transforms.crop is not None:
        return transforms.crop[0] * transforms.crop[1]
    short = sum(transforms.short) / len(transforms.short)
    return short * min(transforms.long, short * 4 / 3)


def processes(recipe: Recipe, gpus: int) -> int:
    """How many processes share a training: at most as many as there are GPUs, and a divisor of its batch."""
    batch = recipe.schedule.images_per_step // recipe.schedule.accumulate
    return max(count for count in range(1, gpus + 1) if batch % count == 0)


def train_planned(plan: Sequence[Planned], setting: Setting) -> bool:
    """Train what is missing, one run after another, each in processes of its own.

    Returns:
        Whether all runs are finished; ``False``: one was interrupted.

    Raises:
        ValueError: data or weights are missing, or a training failed.
    """
    needs = dict.fromkeys(need for one in plan if one.state != FINISHED for need in one.needs)
    if needs:
        raise ValueError("reproduce: expected all data and weights, got:\n  " + "\n  ".join(needs))
    for one in plan:
        if one.state == FINISHED:
            continue
        words = changes_for(one.recipe, setting)
        command = [*_launcher(one.gpus), "-m", "dcn", "train"]
        if (one.folder / RECIPE_FILE).is_file():
            command += ["--resume", str(one.folder)]
        else:
            command += [one.recipe, *words, "--output", str(setting.output), "--name", RUN_NAME]
        command += ["--device", setting.device] if setting.device else []
        LOGGER.info("%s: processes: %d", one.recipe, one.gpus)
        code = subprocess.run(command, check=False).returncode
        if code == 130:
            return False
        if code != 0:
            raise ValueError(f"reproduce: the training of {one.recipe} ended with code {code}; see its messages above")
        (one.folder / FINISHED).touch()
    return True


def _launcher(count: int) -> list[str]:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [sys.executable, *(several if count > 1 else [])]


def reached_numbers(lines: Sequence[Line], setting: Setting) -> list[Reached]:
    """Evaluate every finished run that has no results yet, and put the numbers beside the published ones."""
    rows = []
    for line in lines:
        one = _planned(training_of(line.recipe), setting)
        metrics = _metrics(line, one, setting) if one.state == FINISHED else {}
        split = read_recipe(line.recipe).data.test
        for name, published in line.published.items():
            value = metrics.get(name)
            reached = None if value is None else round(100 * value, 1)
            rows.append(
                Reached(
                    line.model, line.recipe, name, published, line.data, reached, split, line.source, str(one.folder)
                )
            )
    return rows


def _metrics(line: Line, one: Planned, setting: Setting) -> dict[str, float]:
    folder = one.folder / "eval" / Path(line.recipe).stem
    if not (folder / "test.json").is_file():
        words = changes_for(line.recipe, setting)
        evaluate(one.folder, "test", recipe=line.recipe, changes=words, output=folder, device=setting.device)
    values: dict[str, float] = json.loads((folder / "test.json").read_text(encoding="utf-8"))
    return values


def comparison(title: str, rows: Sequence[Reached]) -> Table:
    """Published and reached numbers side by side; the rows of unfinished runs have no reached one."""
    lines = []
    for row in rows:
        gap = "" if row.reached is None else f"{row.reached - row.published:+.1f}"
        reached = "" if row.reached is None else f"{row.reached:.1f}"
        own = (row.model, row.recipe, row.metric, f"{row.published:.1f}", row.published_on)
        lines.append((*own, reached, row.reached_on, gap, row.source))
    header = ("model", "recipe", "metric", "published", "on", "reached", "on", "difference", "source")
    return Table(title, header, tuple(lines))


def dilation_comparison(title: str, run: Path, setting: Setting) -> Table:
    """Table 2: effective dilation of a run on its test split beside the published one, with the paper's sides."""
    opened = open_analysis(run, "test", device=setting.device, changes=["eval.batch_size=1"])
    lines = []
    for row in analyze_dilation(opened, PAPER_SIDES):
        layer = short_name(row.layer)
        for location, own in row.effective.items():
            published = TABLE2.get(layer, {}).get(location)
            there = "" if published is None else f"{published[0]} ± {published[1]}"
            here = f"{own.mean:.1f} ± {own.std:.1f}" if own.count else ""
            lines.append((layer, location, f"{row.undeformed:g}", there, here))
    return Table(title, ("layer", "location", "without offsets", "published", "reached"), tuple(lines))


def write_rows(path: Path, title: str, rows: Sequence[Reached]) -> None:
    """Write ``path`` with the suffixes ``.md``, ``.csv`` and ``.json``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(comparison(title, rows).markdown(1), encoding="utf-8")
    plain = [asdict(row) for row in rows]
    path.with_suffix(".json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Reached.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain)
