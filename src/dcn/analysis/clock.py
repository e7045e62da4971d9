"""How long calls take, on the CPU and on a GPU, and how long their parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch

from dcn.models.parts import ModelPart


def now(device: torch.device) -> float:
    """Seconds, after everything that was given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def processor_time(device: torch.device) -> float:
    """Seconds of the processor over all threads, which other work on the machine changes little.

    Raises:
        ValueError: the device is not the CPU.
    """
    if device.type != "cpu":
        raise ValueError(f"device: expected cpu, whose time the processor counts, got {device}")
    return time.process_time()


@dataclass(frozen=True)
class Times:
    """Repeated measurements of one call, in seconds.

    Attributes:
        seconds: all of them, in order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Percentiles 20 and 80; the value itself where there is only one."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        fifths = quantiles(self.seconds, n=5, method="inclusive")
        return fifths[0], fifths[3]


def interleaved(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    repetitions: int,
    warm_up: int = 2,
    clock: Callable[[torch.device], float] = now,
) -> list[Times]:
    """Times of several calls that take turns, so that a busy moment of the machine meets all of them.

    Args:
        calls: what is timed.
        device: where they compute.
        repetitions: of each call.
        warm_up: calls of each before that, not timed.
        clock: seconds, read before and after each call: :func:`now` or :func:`processor_time`.
    """
    for call in calls:
        for _ in range(warm_up):
            call()
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(repetitions):
        for call, seconds in zip(calls, taken, strict=True):
            start = clock(device)
            call()
            seconds.append(clock(device) - start)
    return [Times(tuple(seconds)) for seconds in taken]


@dataclass
class PartTimer:
    """Adds up the time spent in chosen methods of modules, by label.

    The device is waited for before and after each of them, which costs time by itself: parts are measured in passes of
    their own, apart from the time of the whole.

    Attributes:
        device: where the modules compute.
        seconds: by label.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def watching(self, parts: Sequence[ModelPart]) -> Iterator[None]:
        """Inside, calls of ``parts`` are timed. A part within another of the same label would be counted twice."""
        for label, module, name in parts:
            setattr(module, name, self._timed(label, getattr(module, name)))
        try:
            yield
        finally:
            for _, module, name in parts:
                # The method of the class shows again.
                module.__dict__.pop(name, None)

    def _timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = now(self.device)
            result = function(*arguments, **options)
            self.seconds[label] = self.seconds.get(label, 0.0) + now(self.device) - start
            return result

        return timed
