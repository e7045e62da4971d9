"""Watch the offsets of a network: how large they are, how many samples leave the map, where NaN began."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from dcn.nn.deform_conv import check_module
from dcn.nn.offset_layer import OffsetLayer


@dataclass(frozen=True)
class OffsetHealth:
    """What one layer's offsets looked like over all calls since the last reset.

    Attributes:
        layer: name in the model.
        mean: mean of ``|offset|`` in pixels of the layer's input, over all finite values.
        largest: largest finite ``|offset|`` in pixels.
        outside: share of the samples whose centre lies outside the map (broken ones included), 0 to 1.
        broken: share of the offset values that are NaN or infinite, 0 to 1.
        calls: forward passes seen.
    """

    layer: str
    mean: float
    largest: float
    outside: float
    broken: float
    calls: int


class _Sums:
    """Running sums of one layer."""

    def __init__(self) -> None:
        self.total, self.largest = 0.0, 0.0
        self.values, self.broken, self.samples, self.outside, self.calls = 0, 0, 0, 0, 0

    def report(self, layer: str) -> OffsetHealth:
        finite = max(1, self.values - self.broken)
        return OffsetHealth(
            layer,
            self.total / finite,
            self.largest,
            self.outside / max(1, self.samples),
            self.broken / max(1, self.values),
            self.calls,
        )


def outside_map(layer: OffsetLayer, size: torch.Size, offset: Tensor) -> Tensor:
    """Which samples have their centre outside the map.

    Args:
        layer: the layer the offsets belong to.
        size: spatial size of its input.
        offset: ``[N, n*G*K, *out]`` in pixels.

    Returns:
        bool ``[N, G*K, *out]``: any coordinate below 0, above ``size - 1`` or NaN.
    """
    n, out = len(layer.stride), offset.shape[2:]
    taps = offset.detach().float().reshape(offset.shape[0], offset.shape[1] // n, n, *out)
    index = torch.arange(prod(layer.kernel_size), device=offset.device).repeat(layer.offset_groups)
    inside = torch.ones_like(taps[:, :, 0], dtype=torch.bool)
    for axis in range(n):
        step = index // prod(layer.kernel_size[axis + 1 :]) % layer.kernel_size[axis]
        location = torch.arange(out[axis], device=offset.device) * layer.stride[axis] - layer.padding[axis]
        base = (step * layer.dilation[axis]).reshape(-1, *[1] * n) + location.reshape(
            [-1 if a == axis else 1 for a in range(n)]
        )
        position = taps[:, :, axis] + base
        inside &= (position >= 0) & (position <= size[axis] - 1)
    return ~inside


class OffsetMonitor:
    """Collects :class:`OffsetHealth` of every deformable layer of a model while it is used as a context manager.

        with OffsetMonitor(model) as monitor:
            loss = train_step(model)
        for row in monitor.report():
            ...
        if monitor.first_broken is not None:
            raise RuntimeError(f"NaN first appeared in {monitor.first_broken}")

    It reads what the offset branches put out (after the bound of the layer, if it has one) and changes nothing. One
    reduction per layer and call waits for the device; leave the monitor off in the steps that are not to be watched.

    Args:
        model: any module with deformable layers.

    Attributes:
        first_broken: name of the layer in which a NaN or infinite value appeared first, or ``None``. ``<name>`` means
            in its offsets, ``<name> (input)`` that the layer was already fed with one.

    Raises:
        ValueError: ``model`` is no module or has no deformable layer.
    """

    def __init__(self, model: nn.Module) -> None:
        check_module("model", model)
        self._layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, OffsetLayer)]
        if not self._layers:
            raise ValueError(
                "model: expected at least one deformable convolution that predicts its own offsets in it (of dcn.nn or "
                "dcn.compat, or one with the attributes of dcn.nn.offset_layer.OffsetLayer), got none"
            )
        self._handles: list[Any] = []
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._sums = {name: _Sums() for name, _ in self._layers}
        self.first_broken: str | None = None

    def __enter__(self) -> OffsetMonitor:
        for name, layer in self._layers:
            self._handles.append(layer.offset_branch.register_forward_hook(partial(self._see, name, layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def report(self) -> list[OffsetHealth]:
        """One row per layer, in the order of the model; layers that were not called have ``calls`` 0."""
        return [self._sums[name].report(name) for name, _ in self._layers]

    @torch.no_grad()
    def _see(
        self,
        name: str,
        layer: OffsetLayer,
        branch: nn.Module,
        inputs: tuple[Tensor, ...],
        output: Tensor,
    ) -> None:
        offset = layer.split(output)[0].float()
        finite = torch.isfinite(offset)
        size = torch.where(finite, offset.abs(), 0.0)
        outside = outside_map(layer, inputs[0].shape[2:], offset)
        sums = self._sums[name]
        sums.calls += 1
        sums.values += offset.numel()
        sums.samples += outside.numel()
        if offset.numel():
            sums.total += size.sum(dtype=torch.float64).item()
            sums.largest = max(sums.largest, size.max().item())
            sums.outside += int(outside.sum())
            broken = offset.numel() - int(finite.sum())
            sums.broken += broken
            if broken and self.first_broken is None:
                fed = not bool(torch.isfinite(inputs[0]).all())
                self.first_broken = f"{name} (input)" if fed else name
