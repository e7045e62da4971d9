"""Watch the offsets of deformable RoI pooling, whichever layer or function calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class RoIPoolingCalls(TorchDispatchMode):
    """Shows every call of deformable RoI pooling to a function while it is used as a context manager.

    Under a dispatch mode the poolings run as registered operators, so calls by layers, by models and by functions of
    :mod:`dcn.ops` are all seen. Calls without offsets or without regions are left out.

    Args:
        see: is given the arguments of the operator ``dcn::roi_mean`` by name, before it runs.
    """

    def __init__(self, see: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == "dcn::roi_mean":
            names = [argument.name for argument in func._schema.arguments]
            call = dict(zip(names, args, strict=False)) | (kwargs or {})
            if call["offset"] is not None and call["offset"].numel():
                self._see(call)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class RoIOffsetHealth:
    """What the offsets of deformable RoI pooling looked like over all calls since the last reset.

    Attributes:
        mean: mean of ``|offset|`` over all finite values, as a share of the region's side; the mean over the calls.
        largest: largest finite ``|offset|``, likewise.
        broken: share of the offset values that are NaN or infinite, 0 to 1; the mean over the calls.
        calls: poolings with offsets.
    """

    mean: float
    largest: float
    broken: float
    calls: int


class RoIOffsetMonitor(RoIPoolingCalls):
    """Collects :class:`RoIOffsetHealth` of all deformable RoI poolings while it is used as a context manager.

        with RoIOffsetMonitor() as monitor:
            loss = train_step(model)
        print(monitor.report().mean)

    It changes nothing. Offsets count as they act: times the layer's ``gamma`` (``trans_std``), 0.1 in the papers.
    """

    def __init__(self) -> None:
        super().__init__(self._add)
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._means: list[float] = []
        self._broken: list[float] = []
        self._largest = 0.0

    def report(self) -> RoIOffsetHealth:
        """The numbers over all calls; all zero where there was none."""
        calls = len(self._means)
        mean, broken = (sum(values) / max(1, calls) for values in (self._means, self._broken))
        return RoIOffsetHealth(mean, self._largest, broken, calls)

    def _add(self, call: Mapping[str, Any]) -> None:
        offset: Tensor = call["offset"].detach().float() * call["gamma"]
        finite = torch.isfinite(offset)
        size = torch.where(finite, offset.abs(), 0.0)
        count = int(finite.sum())
        self._means.append(size.sum(dtype=torch.float64).item() / max(1, count))
        self._broken.append(1 - count / offset.numel())
        self._largest = max(self._largest, size.max().item())
