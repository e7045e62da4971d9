"""What a training step of the small ablation costs, plain and deformable: measured in turns, on the same images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch.amp.grad_scaler import GradScaler

from dcn.analysis.clock import interleaved, processor_time
from dcn.engine.config import Recipe
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
    dataset = open_split(recipe, "train", training=True)
    batches, _ = training_batches(recipe, dataset, world)
    samples = list(islice(batches(0), repetitions + 1))
    prepared = [_prepare(recipe_of(job, locations), tuple(dataset.classes), samples, world) for job in jobs]
    calls = [step for _, step in prepared]
    times = interleaved(calls, world.device, repetitions=repetitions, warm_up=1, clock=processor_time)
    return [
        StepRow(
            *(job.system, job.variant, job.dataset, job.stage, job.seed, job.recipe),
            parameters,
            recipe.schedule.images_per_step,
            round(1000 * own.median, 1),
            repetitions,
            **environment(),
        )
        for job, (parameters, _), own in zip(jobs, prepared, times, strict=True)
    ]


def _prepare(
    recipe: Recipe, classes: tuple[str, ...], samples: Sequence[list[Sample]], world: World
) -> tuple[int, Callable[[], object]]:
    """The number of parameters, and a step of training on the next batch."""
    model = build_model(recipe, classes).train()
    optimizer, scaler = make_optimizer(model, recipe.schedule), GradScaler("cpu", enabled=False)
    set_learning_rate(optimizer, 0.0)
    left = iter(samples)

    def step() -> object:
        torch.manual_seed(recipe.seed)
        return train_step(model, next(left), optimizer, scaler, recipe, world)

    return sum(parameter.numel() for parameter in model.parameters()), step
