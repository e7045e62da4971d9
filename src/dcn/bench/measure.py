"""Time, memory and parts of models, measured in turns."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

import dcn
from dcn.analysis.clock import PartTimer, interleaved, now
from dcn.analysis.memory import peak_bytes, processor, reset_peak
from dcn.bench.workload import Workload, deformable_parts, inference_call, is_exported, make_call, make_model
from dcn.models import Model
from dcn.models.checkpoints import load_state, read_detector
from dcn.models.inference import prepare
from dcn.models.parts import ModelPart


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model.

    Attributes:
        name: of ``dcn models``, or the path of a file.
        milliseconds: of one image: median over the repetitions.
        low: percentile 20 of the same.
        high: percentile 80.
        images_per_second: at the median.
        peak_mib: weights, the state of the optimiser, and the largest memory that a call needs beside them; ``None``
            where it is not known.
        parts: milliseconds of an image by part.
        deformable: milliseconds of an image in deformable convolutions and their offset branches.
    """

    name: str
    milliseconds: float
    low: float
    high: float
    images_per_second: float
    peak_mib: float | None
    parts: dict[str, float]
    deformable: float


def measure(
    names: Sequence[str], work: Workload, *, repetitions: int, weights: dict[str, str] | None = None
) -> list[Measurement]:
    """Measure models in turns.

    Args:
        names: of ``dcn models``, run folders, weights files or files of ``dcn export``.
        work: what they do.
        repetitions: timed calls of each.
        weights: files of weights by name; random where there is none.
    """
    models = {name: make_model(name, work, _loader((weights or {}).get(name))) for name in names}
    return measure_models(models, work, repetitions=repetitions)


def measure_models(models: Mapping[str, Model], work: Workload, *, repetitions: int) -> list[Measurement]:
    """Measure models in turns; arguments as of :func:`measure`, the models by name on the workload's device."""
    calls, peaks = [], []
    for model in models.values():
        call = make_call(model, work)
        call()
        peaks.append(None if is_exported(model) else _peak_mib(call, model, work))
        calls.append(call)
    times = interleaved(calls, work.device, repetitions=repetitions, warm_up=1)
    measurements = []
    for (name, model), timed, peak in zip(models.items(), times, peaks, strict=True):
        low, high = timed.spread
        scale = 1000 / work.batch
        parts, deformable = _parts(model, work, min(3, repetitions))
        speed = (timed.median * scale, low * scale, high * scale, work.batch / timed.median)
        measurements.append(Measurement(name, *speed, peak, parts, deformable))
    return measurements


def _loader(path: str | None) -> Callable[[nn.Module], object] | None:
    if path is None:
        return None
    return lambda model: load_state(model, read_detector(path)[0], path)


def _peak_mib(call: Callable[[], object], model: nn.Module, work: Workload) -> float | None:
    """The most memory that a call needs, measured at its second run: the first one also loads libraries."""
    sizes = {p: p.numel() * p.element_size() for p in model.parameters()}
    # Momentum is as large as what is trained; weights of inference are in the precision of the workload.
    momentum = sum(size for parameter, size in sizes.items() if parameter.requires_grad)
    half = work.precision != "float32"
    held = sum(sizes.values()) + momentum if work.train else sum(sizes.values()) // (2 if half else 1)
    if work.device.type == "cuda":
        before = torch.cuda.memory_allocated(work.device)
        torch.cuda.reset_peak_memory_stats(work.device)
        call()
        return (torch.cuda.max_memory_allocated(work.device) - before + held) / 2**20
    reset_peak()
    started = peak_bytes()
    call()
    peak = peak_bytes()
    return None if started is None or peak is None else (peak - started + held) / 2**20


def _parts(model: Model, work: Workload, passes: int) -> tuple[dict[str, float], float]:
    """Milliseconds of an image by part, and those in deformable layers: medians over passes of their own."""
    if is_exported(model):
        return {}, 0.0
    # Neither compiled nor recorded: there would be no parts.
    watched: Any = model if work.train else prepare(model, work.precision)
    call = make_call(model, work) if work.train else inference_call(watched, work)
    call()
    rest = "backward, update" if work.train else "post-processing"
    outer = [_pass(call, watched.parts(), work, rest) for _ in range(passes)]
    inner = [_pass(call, deformable_parts(watched), work, rest) for _ in range(passes)]
    parts = {label: median(seconds[label] for seconds in outer) for label in outer[0]}
    return parts, median(seconds.get("deformable", 0.0) for seconds in inner)


def _pass(call: Callable[[], object], parts: Sequence[ModelPart], work: Workload, rest: str) -> dict[str, float]:
    """Milliseconds of an image by part in one call, what is left under ``rest``."""
    timer = PartTimer(work.device)
    with timer.watching(parts):
        start = now(work.device)
        call()
        total = now(work.device) - start
    left = max(total - sum(timer.seconds.values()), 0.0)
    return {label: seconds * 1000 / work.batch for label, seconds in {**timer.seconds, rest: left}.items()}


def report(measurements: Sequence[Measurement], work: Workload) -> dict[str, Any]:
    """The measurements as JSON, with machine and versions."""
    gpu = torch.cuda.get_device_name(work.device) if work.device.type == "cuda" else None
    return {
        "workload": {**asdict(work), "device": str(work.device)},
        "models": [asdict(one) for one in measurements],
        "machine": {"processor": processor(), "gpu": gpu, "threads": torch.get_num_threads()},
        "versions": {"dcn": dcn.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
