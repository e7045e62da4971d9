"""How much a demo does, what it trained, and how long its parts took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dcn.engine import Recipe, load_recipe
from dcn.metrics.results import CocoResult, VocResult

MODELS = ("plain", "deformable")

START = "shapes_detection"
"""The recipe that trained the model from which both start; it has seen images of another seed only."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        images: how many are generated for each split.
        changes: changes to the recipes ``demo_plain`` and ``demo_deformable``, the same for both.
        offset_images: held-out images whose offsets are measured, spread over all.
        pictures: held-out images that are drawn on the page.
    """

    images: dict[str, int]
    changes: tuple[str, ...] = ()
    offset_images: int = 100
    pictures: int = 6


FULL = Plan({"train": 1000, "val": 60, "test": 400})
QUICK = Plan(
    {"train": 160, "val": 20, "test": 40},
    ("schedule.steps=40", "schedule.warmup.steps=10", "schedule.milestones=30", "eval.every=20"),
    offset_images=24,
)


class Metrics(NamedTuple):
    """Of one model on the held-out images of :data:`FULL`: COCO AP, and AP50 and AP70 of Pascal VOC."""

    ap: float
    ap50: float
    ap70: float


@dataclass(frozen=True)
class SeedResult:
    """What a full demo gave with a seed (``benchmarks/results/demo.csv``)."""

    seed: int
    plain: Metrics
    deformable: Metrics


# python -m benchmarks.demo_seeds
SEEDS: tuple[SeedResult, ...] = (
    SeedResult(0, Metrics(0.5031, 0.8285, 0.7096), Metrics(0.5967, 0.8484, 0.7653)),
    SeedResult(1, Metrics(0.5107, 0.8317, 0.7040), Metrics(0.5971, 0.8528, 0.7773)),
    SeedResult(2, Metrics(0.4911, 0.8234, 0.6836), Metrics(0.5948, 0.8532, 0.7620)),
    SeedResult(3, Metrics(0.5085, 0.8326, 0.6873), Metrics(0.5914, 0.8448, 0.7592)),
    SeedResult(4, Metrics(0.5037, 0.8252, 0.6997), Metrics(0.5953, 0.8497, 0.7721)),
)
SEEDS_MACHINE = "one thread of an AMD EPYC"


@dataclass(frozen=True)
class Trained:
    """One model of the demo.

    Attributes:
        name: of :data:`MODELS`.
        folder: its run folder.
        recipe: of its training.
        voc: metrics of `dcn.metrics.VocAP` on the held-out images.
        coco: metrics of `dcn.metrics.CocoAP` on the same detections.
        parameters: how many it has.
    """

    name: str
    folder: Path
    recipe: Recipe
    voc: VocResult
    coco: CocoResult
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


def data_options() -> dict[str, Any]:
    """What is generated: options of the data of :data:`START`, without its seed and length."""
    options = load_recipe(START).data.options
    return {key: value for key, value in options.items() if key not in ("seed", "length")}
