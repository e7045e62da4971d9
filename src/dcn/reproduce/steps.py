"""What a training step of the small ablation costs, plain and deformable: measured in turns, on the same images."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch.amp.grad_scaler import GradScaler

from dcn.engine.distributed import World
from dcn.engine.optim import make_optimizer, set_learning_rate
from dcn.engine.train import train_step
from dcn.reproduce.intervals import DEFORMABLE
from dcn.reproduce.plan import PLAIN, Choice, Job, Plan, chosen_jobs
from dcn.reproduce.queue import Locations, has_weights, recipe_of
from dcn.reproduce.rows import StepRow, append, environment, read_table
from dcn.runs.build import build_model, open_split, training_batches
from dcn.structures import Sample

LOGGER = logging.getLogger("dcn")
REPETITIONS = 7


def measure_steps(plan: Plan, choice: Choice, locations: Locations, *, repetitions: int = REPETITIONS) -> list[StepRow]:
    """Time a training step on the CPU for every chosen data set and system, plain and deformable in turns.

    What counts is the time of the processor, which other work on the machine changes little. Both variants begin with
    the weights of the finished start and see the same batches; the learning rate is zero. Pairs that have rows with
    the same recipes are not measured again; those without a finished start are left out, and the log says so.

    Args:
        plan: what is compared.
        choice: data sets and systems.
        locations: where runs and rows are; the rows go into ``locations.steps``.
        repetitions: timed steps of each, after one that is not.

    Returns:
        The new rows.
    """
    known = {(row.recipe, row.variant) for row in read_table(locations.steps, StepRow)}
    pairs: dict[tuple[str, str], list[Job]] = {}
    for job in chosen_jobs(plan, replace(choice, parts=None, variants=(PLAIN, DEFORMABLE), seeds=(0,))):
        pairs.setdefault((job.dataset, job.system), []).append(job)
    new: list[StepRow] = []
    for (dataset, system), jobs in pairs.items():
        if all((job.recipe, job.variant) in known for job in jobs):
            continue
        if not all(job.start is not None and has_weights(job.start, locations) for job in jobs):
            LOGGER.info("%s/%s: its start is not finished in %s; no step is timed", dataset, system, locations.output)
            continue
        rows = _measure(jobs, locations, repetitions)
        append(locations.steps, rows)
        new += rows
    return new


def _measure(jobs: Sequence[Job], locations: Locations, repetitions: int) -> list[StepRow]:
    world = World(torch.device("cpu"))
    recipe = recipe_of(jobs[0], locations)
    batches, _ = training_batches(recipe, open_split(recipe, "train", training=True), world)
    prepared = [_prepare(job, locations, world) for job in jobs]
    times: list[list[float]] = [[] for _ in jobs]
    for number, samples in enumerate(islice(batches(0), repetitions + 1)):
        for (_, step), own in zip(prepared, times, strict=True):
            begin = time.process_time()
            step(samples)
            if number > 0:  # the first step of each loads libraries
                own.append(time.process_time() - begin)
    return [
        StepRow(
            *(job.system, job.variant, job.dataset, job.stage, job.seed, job.recipe),
            parameters,
            recipe.schedule.images_per_step,
            round(1000 * statistics.median(own), 1),
            len(own),
            **environment(),
        )
        for job, (parameters, _), own in zip(jobs, prepared, times, strict=True)
    ]


def _prepare(job: Job, locations: Locations, world: World) -> tuple[int, Callable[[list[Sample]], object]]:
    """The number of parameters, and a step of training."""
    recipe = recipe_of(job, locations)
    model = build_model(recipe, tuple(open_split(recipe, "train", training=True).classes)).train()
    optimizer, scaler = make_optimizer(model, recipe.schedule), GradScaler("cpu", enabled=False)
    set_learning_rate(optimizer, 0.0)

    def step(samples: list[Sample]) -> object:
        torch.manual_seed(recipe.seed)
        return train_step(model, samples, optimizer, scaler, recipe, world)

    return sum(parameter.numel() for parameter in model.parameters()), step
