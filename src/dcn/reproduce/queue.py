"""The queue of small runs: what has no row yet is trained, measured and written down; it can be killed at any time."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcn.engine.checkpoint import PREVIOUS_FILE, STATE_FILE
from dcn.engine.config import Recipe
from dcn.engine.distributed import World
from dcn.engine.lock import LockedError, locked
from dcn.engine.log import METRICS_FILE, read_rows
from dcn.engine.parse import parse
from dcn.engine.recipe import shipped_weights
from dcn.engine.train import DivergedError
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS
from dcn.reproduce.measure import measure
from dcn.reproduce.plan import Job, Plan, merged
from dcn.reproduce.rows import DilationRow, Keyed, Row, append, environment, read_table
from dcn.runs.train import Run, train_recipe

LOGGER = logging.getLogger("dcn")
WAIT = 20.0
"""Seconds between two looks at what other processes train."""


@dataclass(frozen=True)
class Locations:
    """Where everything is.

    Attributes:
        output: folder for the runs.
        results: the CSV of the rows.
        data: folder with the data sets of photos.
        weights: folder with weights files that the plan names.
        device: where to compute; ``None``: the GPU where there is one.
        keep: keep the weights of fine-tuned runs; they are removed once their row is written.
    """

    output: Path
    results: Path
    data: Path | None = None
    weights: Path | None = None
    device: str | None = None
    keep: bool = False

    @property
    def dilations(self) -> Path:
        """The CSV of effective dilations, beside that of the rows."""
        return self.results.with_name(f"{self.results.stem}_dilation.csv")

    @property
    def images(self) -> Path:
        """The CSV of intervals over images, beside that of the rows."""
        return self.results.with_name(f"{self.results.stem}_images.csv")

    @property
    def steps(self) -> Path:
        """The CSV of the times of training steps, beside that of the rows."""
        return self.results.with_name(f"{self.results.stem}_steps.csv")

    def run_folder(self, job: Job) -> Path:
        """Where a job trains."""
        return self.output / "runs" / f"{job.name}-{job.recipe}"


@dataclass(frozen=True)
class QueueResult:
    """How a queue ended.

    Attributes:
        done: jobs that were trained now.
        failed: names and reasons.
        interrupted: whether a signal ended it.
    """

    done: int
    failed: dict[str, str]
    interrupted: bool


def missing_jobs(jobs: Sequence[Job], locations: Locations) -> list[Job]:
    """The jobs without a row, each start before the first that needs it."""
    known = {(row.recipe, row.seed, row.stage) for row in read_table(locations.results, Row)}
    result: dict[str, Job] = {}
    for job in jobs:
        if (job.recipe, job.seed, job.stage) in known:
            continue
        if job.start is not None and not has_weights(job.start, locations):
            result.setdefault(job.start.name, job.start)
        result[job.name] = job
    return list(result.values())


def expected_hours(job: Job, rows: Sequence[Row]) -> float | None:
    """How long a job should take: as long a step as in other runs of its variant, else of its system, on its data.

    Returns:
        Hours, on the machines of the rows; ``None`` where there is no such row.
    """
    steps = job.settings.get("schedule", {}).get("steps")
    alike = [row for row in rows if (row.system, row.dataset) == (job.system, job.dataset) and row.steps]
    same = [row for row in alike if (row.variant, row.stage) == (job.variant, job.stage)]
    paces = [row.seconds / row.steps for row in same or alike]
    return None if not paces or steps is None else int(steps) * sum(paces) / len(paces) / 3600


def has_weights(job: Job, locations: Locations) -> bool:
    """Whether a start is finished here."""
    return (locations.run_folder(job) / "finished").is_file()


def run_queue(plan: Plan, jobs: Sequence[Job], locations: Locations, world: World) -> QueueResult:
    """Work through the jobs. Several processes may share one output folder: none takes what another one trains.

    Args:
        plan: says where medium and large objects begin.
        jobs: see :func:`dcn.reproduce.plan.chosen_jobs`.
        locations: see there.
        world: this process.
    """
    done, failed = 0, dict[str, str]()
    while True:
        left = [job for job in missing_jobs(jobs, locations) if not _hopeless(job, failed)]
        if not left:
            return QueueResult(done, failed, interrupted=False)
        advanced = False
        for number, job in enumerate(left):
            if job.start is not None and not has_weights(job.start, locations):
                continue
            LOGGER.info("%s: %d of %d runs are left", job.name, len(left) - number, len(jobs))
            try:
                finished = _take(plan, job, locations, world)
            except LockedError:
                continue
            except DivergedError as error:
                LOGGER.warning("%s: %s", job.name, error)
                failed[job.name] = str(error)
                continue
            if not finished:
                return QueueResult(done, failed, interrupted=True)
            done, advanced = done + 1, True
            # Other processes may have written rows meanwhile.
            break
        if not advanced and not failed.keys() >= {job.name for job in left}:
            LOGGER.info("other processes train the rest; waiting")
            time.sleep(WAIT)


def _hopeless(job: Job, failed: dict[str, str]) -> bool:
    return job.name in failed or (job.start is not None and job.start.name in failed)


def _take(plan: Plan, job: Job, locations: Locations, world: World) -> bool:
    """Train and measure one job; whether it was finished."""
    folder = locations.run_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        run = train_recipe(recipe_of(job, locations), world, lambda: folder)
        if not run.finished:
            return False
        _record(plan, job, locations, run)
        (folder / "finished").touch()
    return True


def _record(plan: Plan, job: Job, locations: Locations, run: Run) -> None:
    key = Keyed(job.system, job.variant, job.dataset, job.stage, job.seed, job.recipe)
    measured = measure(run.folder, key, plan.datasets[job.dataset]["sides"], locations.device)
    values: dict[str, Any] = {**vars(key), **measured.metrics, **environment()}
    seconds = training_seconds(run.folder, run.recipe.schedule.images_per_step)
    row = Row(
        **values,
        offset=measured.offset,
        offsets=measured.offsets,
        parameters=measured.parameters,
        steps=run.step,
        seconds=round(seconds, 3),
    )
    # The row comes last: what has a row is complete.
    if not _has_rows(locations.dilations, DilationRow, job):
        append(locations.dilations, measured.dilations)
    if not _has_rows(locations.results, Row, job):
        append(locations.results, [row])
    _clean(run.folder, keep_weights=locations.keep or job.stage == "start")


def _has_rows(path: Path, kind: type[Row] | type[DilationRow], job: Job) -> bool:
    rows: Sequence[Keyed] = read_table(path, kind)
    return any((row.recipe, row.seed, row.stage) == (job.recipe, job.seed, job.stage) for row in rows)


def _clean(folder: Path, keep_weights: bool) -> None:
    """Remove what nothing reads any more: the trainer's state, and weights but for the last."""
    for name in (STATE_FILE, PREVIOUS_FILE):
        (folder / name).unlink(missing_ok=True)
    if not keep_weights:
        shutil.rmtree(folder / "weights", ignore_errors=True)
        return
    for path in (folder / "weights").iterdir():
        if path.name != "last.safetensors":
            path.unlink()


def training_seconds(folder: Path, batch_size: int) -> float:
    """Seconds of all steps of a run, by its log: those of interrupted starts count, evaluations do not."""
    rows = [row for row in read_rows(folder / METRICS_FILE) if row["kind"] == "train"]
    before = [0, *(row["step"] for row in rows)]
    return math.fsum(
        (row["step"] - last) * batch_size / row["images_per_second"] for last, row in zip(before, rows, strict=False)
    )


def recipe_of(job: Job, locations: Locations) -> Recipe:
    """The whole recipe of a job with its folders.

    Raises:
        ValueError: data or weights are not where they are looked for, or the plan has a wrong key.
    """
    settings = merged([job.settings, {"seed": job.seed}])
    folder = settings["data"].pop("folder", None)
    if folder is not None:
        settings["data"]["root"] = str(_data_folder(job, folder, locations))
    model = settings["model"]
    if job.start is not None:
        model["weights"] = str(locations.run_folder(job.start) / "weights" / "last.safetensors")
    elif model.get("backbone_weights") is not None:
        model["backbone_weights"] = _weights_file(job, model["backbone_weights"], locations)
    try:
        return parse(Recipe, settings)
    except ValueError as error:
        raise ValueError(f"plan, {job.name}: {error}") from None


def _data_folder(job: Job, folder: str, locations: Locations) -> Path:
    if locations.data is None or not (locations.data / folder).is_dir():
        where = "no --data was given" if locations.data is None else f"{locations.data / folder} is not there"
        raise ValueError(f"--data: expected a folder with {folder}/ for {job.dataset}; {where}")
    return locations.data / folder


def _weights_file(job: Job, name: str, locations: Locations) -> str:
    if name in shipped_weights() or name in PUBLISHED_WEIGHTS:
        return name
    folders = [locations.weights] if locations.weights is not None else []
    folders += [locations.data / "weights", locations.data.parent / "weights"] if locations.data is not None else []
    for path in (folder / name for folder in folders):
        if path.is_file():
            return str(path)
    looked = ", ".join(str(folder) for folder in folders) or "nowhere; give --weights"
    raise ValueError(f"--weights: expected a folder with {name} for {job.dataset}, looked in {looked}")
