"""The fixed-size part of a model, compiled or recorded once and played back: less work for the host."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

RECORDINGS = 8
"""Sizes of which recordings are kept; each holds the memory of one pass."""
WARM_UP = 3
"""Passes before a recording: kernels are compiled and algorithms chosen in them."""


@dataclass(frozen=True)
class Recording:
    """One recorded call.

    Attributes:
        inputs: its arguments; new values are written into their tensors.
        replay: runs it again.
        output: its result, which every replay overwrites.
    """

    inputs: tuple[Any, ...]
    replay: Callable[[], None]
    output: Any


Record = Callable[[Callable[..., Any], tuple[Any, ...]], Recording]


class Recorded:
    """A function of tensors of a GPU, recorded as a CUDA graph once for every shape of its arguments.

    Between two calls the host only copies the arguments and starts the graph. The function must not wait for the
    device, and its shapes must not depend on values.

    Args:
        function: takes and returns tensors, dataclasses of tensors, and constants.
        record: makes a recording; the default records a CUDA graph.
    """

    def __init__(self, function: Callable[..., Any], record: Record | None = None) -> None:
        self._function, self._record = function, record or record_cuda_graph
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()

    def __call__(self, *arguments: Any) -> Any:
        """The result of the function, in memory of its own."""
        key = tuple(_signature(argument) for argument in arguments)
        if key not in self._recordings:
            while len(self._recordings) >= RECORDINGS:
                self._recordings.popitem(last=False)
            self._recordings[key] = self._record(self._function, arguments)
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        for held, given in zip(tensors_of(recording.inputs), tensors_of(arguments), strict=True):
            held.copy_(given, non_blocking=True)
        recording.replay()
        return map_tensors(recording.output, Tensor.clone)


@torch.no_grad()
def record_cuda_graph(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Recording:
    """Record one call as a CUDA graph.

    Raises:
        ValueError: the arguments are not on a GPU.
    """
    device = next(tensors_of(arguments)).device
    if device.type != "cuda":
        raise ValueError(f"cuda_graph: expected images on a GPU, got them on {device}; leave the option out")
    inputs = map_tensors(arguments, lambda value: value.clone(memory_format=torch.preserve_format))
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function(*inputs)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as the one that pins batches, may work meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = function(*inputs)
    return Recording(inputs, graph.replay, output)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor in it changed: a tensor, a tuple, a dataclass, or anything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(part, change) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), change) for f in fields(value)})
    return value


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor that :func:`map_tensors` would change, in the same order."""
    tensors: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(value, note)
    return iter(tensors)


def _signature(value: Any) -> Hashable:
    """What must be the same for a recording to serve again: shapes, types and constants."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.stride(), value.dtype, value.device)
    if is_dataclass(value):
        return tuple(_signature(getattr(value, f.name)) for f in fields(value))
    return value


def accelerate(model: nn.Module, *, compiled: bool = False, cuda_graph: bool = False) -> nn.Module:
    """Compile or record the part of a model between normalised images and final result, in place.

    That part is a model's ``detect(pixels, frames, min_score)`` or ``scores(pixels)``. Every new size of the batch
    takes seconds to minutes, so it pays off where many images have few sizes.

    Args:
        model: in evaluation mode and with its final weights.
        compiled: by ``torch.compile``, as one graph.
        cuda_graph: as CUDA graphs, one per shape.

    Raises:
        ValueError: the model has no such part.
    """
    name = next((name for name in ("detect", "scores") if callable(getattr(model, name, None))), None)
    if name is None:
        raise ValueError(f"model: expected a model with `detect` or `scores`, got {type(model).__name__}")
    function: Callable[..., Any] = getattr(model, name)
    if compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)
    if cuda_graph:
        function = Recorded(function)
    if compiled or cuda_graph:
        setattr(model, name, function)
    return model
