"""A model over a data set, into a metric; the same loop for both tasks, in training and afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from dcn.engine.config import EvalConfig
from dcn.engine.distributed import World
from dcn.engine.train import autocast
from dcn.runs.tasks import Task
from dcn.runs.view import View
from dcn.structures import Sample

M = TypeVar("M", bound="Metric")


class Metric(Protocol):
    """What is needed of a metric beside the task's own update; see :mod:`dcn.metrics`."""

    def compute(self) -> Any:
        """The values by name."""

    def merge(self: M, other: M) -> None:
        """Add what another process has counted."""


def predictions(
    task: Task, model: nn.Module, view: View, batches: Iterable[list[Sample]], device: torch.device, amp: str = "off"
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Predictions and targets of every batch, on the CPU.

    Args:
        task: of the model.
        model: set to evaluation mode, and back to its mode at the end.
        view: how it looks at images.
        batches: samples whose image has the size of the view and whose target is in pixels of the file.
        device: where the model is.
        amp: ``off``, ``bf16`` or ``fp16``.
    """
    was_training = model.training
    model.eval()
    try:
        for samples in batches:
            targets = task.annotations(samples)
            images = [sample.image.to(device, non_blocking=True) for sample in samples]
            with autocast(amp, device):
                predicted = view.run(images, task.output_sizes(targets), None)
            yield predicted, targets
    finally:
        model.train(was_training)


def fill(
    task: Task, metric: M, pairs: Iterable[tuple[list[Any], list[Any]]], world: World, config: EvalConfig
) -> M | None:
    """Add all predictions to a metric; with several processes the first one gets the whole, the others ``None``."""
    for predicted, targets in pairs:
        task.update(metric, predicted, targets, config)
    gathered = world.gather(metric)
    if not world.is_main:
        return None
    for other in gathered[1:]:
        metric.merge(other)
    return metric
