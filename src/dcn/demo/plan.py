"""How much a demo does, what it trained, and how long its parts took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dcn.engine import Recipe
from dcn.metrics.results import CocoResult, VocResult

MODELS = ("plain", "deformable")


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        images: how many are generated for each split.
        changes: changes to the recipes ``demo_plain`` and ``demo_deformable``, the same for both.
        offset_images: held-out images whose offsets are measured.
        pictures: held-out images that are drawn on the page.
    """

    images: dict[str, int]
    changes: tuple[str, ...] = ()
    offset_images: int = 24
    pictures: int = 6


FULL = Plan({"train": 1000, "val": 60, "test": 200})
QUICK = Plan(
    {"train": 160, "val": 20, "test": 40},
    ("schedule.steps=60", "schedule.warmup.steps=10", "schedule.milestones=45", "eval.every=30"),
)


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
