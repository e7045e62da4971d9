"""The smallest detector and data that the engine can be tried on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dcn.engine.config import DataConfig, EvalConfig, ModelConfig, Recipe, ScheduleConfig, WarmupConfig
from dcn.engine.distributed import World
from dcn.engine.train import train
from dcn.structures import Detections, Sample, Target

STEPS_PER_EPOCH = 4


class TinyDetector(nn.Module):
    """One box an image: the whole image, scored by its mean colour. Its loss draws random numbers, as real ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.classes = ("dark", "bright")
        self.test_size = (8, 16)
        self.score_threshold = 0.05
        self.given: list[tuple[int, int]] = []

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        colours = torch.stack([image.float().mean((1, 2)) / 255 for image in images])
        logits = self.layer(colours)
        if self.training:
            assert targets is not None
            labels = torch.stack([target.labels[0] for target in targets])
            noise = torch.rand(len(images))
            return {
                "loss_class": nn.functional.cross_entropy(logits, labels),
                "loss_noise": (logits.mean(1) * noise).mean(),
            }
        self.given += [(image.shape[1], image.shape[2]) for image in images]
        sizes = output_sizes or [(image.shape[1], image.shape[2]) for image in images]
        return [self._detections(row, size) for row, size in zip(logits.softmax(1), sizes, strict=True)]

    def _detections(self, scores: Tensor, size: tuple[int, int]) -> Detections:
        keep = torch.nonzero(scores > self.score_threshold)[:, 0]
        order = keep[scores[keep].argsort(descending=True)]
        box = torch.tensor([0.0, 0.0, size[1], size[0]])
        return Detections(box.expand(len(order), 4), scores[order], order)


def sample(index: int) -> Sample:
    """A dark or a bright picture."""
    label = index % 2
    values = np.random.default_rng(index).integers(100 * label, 100 * label + 120, (3, 6, 10), dtype=np.uint8)
    box = torch.tensor([[0.0, 0.0, 10.0, 6.0]])
    return Sample(torch.from_numpy(values), Target(box, torch.tensor([label]), (6, 10), image_id=index))


def stream(start: int) -> Iterator[list[Sample]]:
    """Batches of four; a function of the step."""
    step = start
    while True:
        yield [sample(4 * step + position) for position in range(4)]
        step += 1


class CountingMetric:
    """The share of images whose first detection has the right label."""

    def __init__(self) -> None:
        self.right: list[bool] = []

    def update(self, detections: list[Detections], targets: list[Target]) -> None:
        pairs = zip(detections, targets, strict=True)
        self.right += [bool(actual.labels[0] == target.labels[0]) for actual, target in pairs]

    def compute(self) -> dict[str, float]:
        return {"AP": sum(self.right) / len(self.right)}

    def merge(self, other: CountingMetric) -> None:
        self.right += other.right


def recipe(steps: int = 8, **schedule: object) -> Recipe:
    """A recipe for the tiny detector, with a state saved every second step."""
    settings = {"steps": steps, "batch_size": 4, "lr": 0.1, "milestones": (5.0,), "warmup": WarmupConfig(2)} | schedule
    return Recipe(
        ModelConfig("tiny"),
        DataConfig("none"),
        ScheduleConfig(**settings),  # type: ignore[arg-type]  # checked by the dataclass
        eval=EvalConfig(every=2),
        log_every=3,
    )


def new_detector() -> TinyDetector:
    torch.manual_seed(0)
    return TinyDetector()


if __name__ == "__main__":
    # A run that kills itself, without warning, in the middle of update sys.argv[2].
    import os
    import signal

    def deadly(start: int) -> Iterator[list[Sample]]:
        for step, batch in enumerate(stream(start), start):
            if step == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    os.fsync = lambda fd: None
    folder = Path(sys.argv[1])
    world = World(torch.device("cpu"))
    train(new_detector(), deadly, STEPS_PER_EPOCH, recipe(), folder, world, evaluate=lambda step: {"AP": step / 100})
