"""A detector over a data set, into a metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import nn

from dcn.engine.distributed import World
from dcn.engine.train import autocast
from dcn.structures import Detections, Sample, Target

M = TypeVar("M", bound="Metric")


class Metric(Protocol):
    """What :func:`evaluate` needs of a metric; see :mod:`dcn.metrics`."""

    def update(self, detections: list[Detections], targets: list[Target]) -> None:
        """Take in a batch, both in pixels of the original image."""

    def compute(self) -> Mapping[str, float]:
        """The figures."""

    def merge(self: M, other: M) -> None:
        """Take in what another process has seen."""


def detect(
    model: nn.Module, batches: Iterable[list[Sample]], device: torch.device, amp: str = "off"
) -> Iterator[tuple[list[Detections], list[Target]]]:
    """Detections of every sample, on the CPU, in pixels of its target.

    Args:
        model: ``model(images, output_sizes=sizes)`` gives one ``Detections`` per image; set to evaluation mode, and
            back to the mode it was in at the end.
        batches: samples whose image is as the network shall see it (resized) and whose target is in pixels of the
            original image: ``target.size`` is the size that the detections are wanted in.
        device: where the model is.
        amp: ``off``, ``bf16`` or ``fp16``.
    """
    was_training = model.training
    model.eval()
    try:
        for samples in batches:
            targets = [_detection_target(sample) for sample in samples]
            images = [sample.image.to(device, non_blocking=True) for sample in samples]
            with torch.no_grad(), autocast(amp, device):
                found = model(images, output_sizes=[target.size for target in targets])
            yield [detections.to("cpu") for detections in found], targets
    finally:
        model.train(was_training)


def evaluate(
    model: nn.Module, batches: Iterable[list[Sample]], metric: M, world: World, amp: str = "off"
) -> dict[str, float]:
    """Judge a detector; arguments as in :func:`detect`.

    With several processes each is given its own share of the batches; the figures come back in the first one, the
    others get an empty dict.
    """
    for detections, targets in detect(model, batches, world.device, amp):
        metric.update(detections, targets)
    gathered = world.gather(metric)
    if not world.is_main:
        return {}
    for other in gathered[1:]:
        metric.merge(other)
    return dict(metric.compute())


def _detection_target(sample: Sample) -> Target:
    if not isinstance(sample.target, Target):
        raise ValueError(f"target: a detector is judged on boxes, got {type(sample.target).__name__}")
    return sample.target
