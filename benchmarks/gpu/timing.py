"""Times of calls on a device: CUDA events, a cold cache, contenders in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Call = Callable[[], object]
_WARM_UP = 3


@dataclass(frozen=True)
class Times:
    """Microseconds: the median, and the 20th and 80th percentiles."""

    median: float
    low: float
    high: float


def _summary(microseconds: list[float]) -> Times:
    if len(microseconds) < 2:
        return Times(microseconds[0], microseconds[0], microseconds[0])
    low, *_, high = statistics.quantiles(microseconds, n=5)
    return Times(statistics.median(microseconds), low, high)


def waits(call: Call) -> str | None:
    """The first message of CUDA's own watch over synchronising calls, or None: nothing in the call waits for the card.

    The call is made once before, which may load libraries and compile.
    """
    call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def captured(call: Call) -> Call | None:
    """The call as a CUDA graph, so that launch gaps stay out of its time; None where it cannot be captured.

    A call that waits is not tried: a capture that fails leaves torch's random numbers and its allocator as if it still
    went on, and everything after it in the process fails too.
    """
    if waits(call) is not None:
        return None
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


class _Flush:
    """Fills twice the second-level cache, so that a call finds none of its data there."""

    def __init__(self, device: torch.device) -> None:
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        self.buffer: Tensor = torch.empty(size, dtype=torch.int8, device=device)

    def __call__(self) -> None:
        self.buffer.zero_()


def interleaved(calls: Mapping[str, Call], repetitions: int, device: torch.device) -> dict[str, Times]:
    """The times of every call; in each round all of them have their turn."""
    if device.type == "cpu":
        return {name: _host_time(call) for name, call in calls.items()}
    flush = _Flush(device)
    marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for repetition in range(_WARM_UP + repetitions):
        for name, call in calls.items():
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            flush()
            pair[0].record()
            call()
            pair[1].record()
            if repetition >= _WARM_UP:
                marks[name].append(pair)
    torch.cuda.synchronize(device)
    return {name: _summary([a.elapsed_time(b) * 1e3 for a, b in pairs]) for name, pairs in marks.items()}


def _host_time(call: Call) -> Times:
    start = time.perf_counter()
    call()
    return _summary([(time.perf_counter() - start) * 1e6])


def extra_memory(call: Callable[[], tuple[Tensor, ...]], device: torch.device) -> int:
    """Bytes that a call needs at its peak above what it was given and what it returns; 0 on the CPU."""
    if device.type == "cpu":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    results = call()
    peak = torch.cuda.max_memory_allocated(device)
    kept = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in results}
    return max(0, peak - before - sum(kept.values()))
