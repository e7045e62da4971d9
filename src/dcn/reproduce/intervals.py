"""Intervals over images of the differences between two variants, whose runs of all seeds are resampled together."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcn.report.comparison import CONFIDENCE, mean_iou, resampled_images
from dcn.report.diagnosis import evaluator
from dcn.report.resampled_ap import class_matches, resampled_precision
from dcn.reproduce.measure import CONFUSIONS_FILE, DETECTIONS_FILE
from dcn.reproduce.plan import PLAIN, Choice, Job, Plan, chosen_jobs
from dcn.reproduce.queue import Locations
from dcn.reproduce.rows import Row, read_table, write_table

LOGGER = logging.getLogger("dcn")
Floats = npt.NDArray[np.float64]

ATROUS = ("atrous4", "atrous6", "atrous8")
DEFORMABLE = "deformable"
STILL = "still"
"""The deformable network with offsets kept at zero; in systems without RoI pooling the plan calls it plain."""
FIXED = "fixed"
"""The deformable network with learnt offsets that are the same for every image and place."""


@dataclass(frozen=True)
class ImageRow:
    """The difference of one metric between two variants, with its interval over images.

    Attributes:
        system: name in the plan.
        dataset: likewise.
        variant: likewise.
        reference: the variant that is subtracted.
        recipe: of the variant.
        reference_recipe: of the reference.
        metric: its name.
        seeds: those of both variants, separated by blanks.
        images: that were resampled.
        difference: mean over the seeds, 0 to 1.
        low: lower end of the 95 % interval over images.
        high: upper end.
    """

    system: str
    dataset: str
    variant: str
    reference: str
    recipe: str
    reference_recipe: str
    metric: str
    seeds: str
    images: int
    difference: float
    low: float
    high: float

    @property
    def key(self) -> tuple[str, ...]:
        """What is compared; a later row of the same replaces this one."""
        return self.dataset, self.system, self.variant, self.reference, self.metric


def references(variant: str) -> tuple[str, ...]:
    """The variants that one is compared with: plain, and deformable also with the other references."""
    if variant == PLAIN:
        return ()
    return (PLAIN, STILL, FIXED, *ATROUS) if variant == DEFORMABLE else (PLAIN,)


@dataclass(frozen=True)
class _Resampled:
    """One run: the number of test images, and by metric its value and ``[R]`` values of the resampled images."""

    images: int
    values: dict[str, float]
    resampled: dict[str, Floats]


def update_intervals(plan: Plan, choice: Choice, locations: Locations) -> list[ImageRow]:
    """Compute what the run folders have grown by, and write all of it beside the results.

    Args:
        plan: names the variants.
        choice: which of them; the seeds are those that have rows.
        locations: with the run folders.

    Returns:
        The new rows.
    """
    runs = _finished(plan, choice, locations)
    known = {row.key: row for row in read_table(locations.images, ImageRow)}
    resampled: dict[str, _Resampled] = {}
    new = []
    for (dataset, system, variant), jobs in runs.items():
        for reference in dict.fromkeys(plan.resolved(system, name) for name in references(variant)):
            others = runs.get((dataset, system, reference), {})
            seeds = sorted(jobs.keys() & others.keys())
            pairs = [(jobs[seed], others[seed]) for seed in seeds]
            if not pairs or _is_known(known, pairs[0], seeds):
                continue
            LOGGER.info("%s/%s: %s - %s over %d seeds", dataset, system, variant, reference, len(seeds))
            for job in (job for pair in pairs for job in pair if job.name not in resampled):
                resampled[job.name] = _resample(locations.run_folder(job))
            new += _rows(pairs, [(resampled[a.name], resampled[b.name]) for a, b in pairs])
    if new:
        write_table(locations.images, sorted((known | {row.key: row for row in new}).values(), key=_order), ImageRow)
    return new


def _order(row: ImageRow) -> tuple[str, ...]:
    return row.key


def _finished(plan: Plan, choice: Choice, locations: Locations) -> dict[tuple[str, str, str], dict[int, Job]]:
    """The runs with a row and the file of their results, by seed."""
    rows = {(row.recipe, row.seed) for row in read_table(locations.results, Row) if row.stage == "tune"}
    seeds = sorted({seed for _, seed in rows})
    wanted = Choice(choice.datasets, choice.systems, choice.parts, choice.variants, seeds)
    runs: dict[tuple[str, str, str], dict[int, Job]] = {}
    for job in chosen_jobs(plan, wanted):
        folder = locations.run_folder(job)
        kept = any((folder / name).is_file() for name in (DETECTIONS_FILE, CONFUSIONS_FILE))
        if (job.recipe, job.seed) in rows and kept:
            runs.setdefault((job.dataset, job.system, job.variant), {})[job.seed] = job
    return runs


def _is_known(known: dict[tuple[str, ...], ImageRow], pair: tuple[Job, Job], seeds: Sequence[int]) -> bool:
    job, other = pair
    shared = (job.dataset, job.system, job.variant, other.variant)
    wanted = (job.recipe, other.recipe, " ".join(map(str, seeds)))
    return any(
        (row.recipe, row.reference_recipe, row.seeds) == wanted for key, row in known.items() if key[:4] == shared
    )


def _resample(folder: Path) -> _Resampled:
    """All runs of a data set get the same samples of images; the first of them is the whole set."""
    if (folder / CONFUSIONS_FILE).is_file():
        with np.load(folder / CONFUSIONS_FILE) as file:
            counts = file["confusions"]
        tables = {"mIoU": mean_iou(np.tensordot(_samples(len(counts)).astype(np.float64), counts, 1))}
        images = len(counts)
    else:
        with gzip.open(folder / DETECTIONS_FILE, "rt", encoding="utf-8") as text:
            content = json.load(text)
        images = len(content["truth"]["images"])
        matches = class_matches(evaluator(content["truth"], content["results"]))
        tables = resampled_precision(matches, _samples(images))
    return _Resampled(
        images,
        {name: float(values[0]) for name, values in tables.items()},
        {name: values[1:] for name, values in tables.items()},
    )


def _samples(images: int) -> npt.NDArray[np.int64]:
    return np.vstack((np.ones((1, images), dtype=np.int64), resampled_images(images)))


def _rows(pairs: Sequence[tuple[Job, Job]], results: Sequence[tuple[_Resampled, _Resampled]]) -> list[ImageRow]:
    job, other = pairs[0]
    seeds, images = " ".join(str(one.seed) for one, _ in pairs), results[0][0].images
    shared = (job.system, job.dataset, job.variant, other.variant, job.recipe, other.recipe)
    rows = []
    for metric in results[0][0].values:
        gaps = [a.resampled[metric] - b.resampled[metric] for a, b in results]
        mean = float(np.mean([a.values[metric] - b.values[metric] for a, b in results]))
        low, high = np.quantile(np.mean(gaps, 0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        rows.append(ImageRow(*shared, metric, seeds, images, mean, float(low), float(high)))
    return rows
