"""Where feature maps lie in the image, learnt from the layers that make them while a network runs.

Grids are described in *index* coordinates: unit 0 of a map sits at ``origin`` (image pixels, 0 is the centre of the
first pixel) and the next one ``stride`` pixels further. A convolution with kernel k, stride s, padding p, dilation d
turns a grid (stride S, origin o) into (S·s, o + S·(d·(k-1)/2 - p)): its output unit belongs to the centre of its taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcn.nn.offset_layer import OffsetLayer

Pair = tuple[float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """Where the units of a feature map lie in the image; all pairs are (vertical, horizontal).

    Attributes:
        size: height and width of the map, in units.
        stride: image pixels from one unit to the next.
        origin: image index coordinate of the first unit.
    """

    size: Size
    stride: Pair
    origin: Pair

    def to_image(self, positions: Tensor) -> Tensor:
        """Image index coordinates ``[..., 2]`` (y, x) of positions ``[..., 2]`` in units of this map."""
        return positions * torch.tensor(self.stride) + torch.tensor(self.origin)

    def enlarged(self, factor: float) -> Grid:
        """The same map in an image that is enlarged by a factor; pixel centres lie half a pixel inside, as before."""
        stride = (self.stride[0] * factor, self.stride[1] * factor)
        y, x = ((value + 0.5) * factor - 0.5 for value in self.origin)
        return Grid(self.size, stride, (y, x))

    def from_image(self, positions: Tensor) -> Tensor:
        """The inverse of `to_image`."""
        return (positions - torch.tensor(self.origin)) / torch.tensor(self.stride)


@dataclass(frozen=True)
class Call:
    """One call of a deformable convolution.

    Attributes:
        name: dotted name of the layer in the network; a call after the first has its number in brackets.
        layer: the layer.
        features: ``[N, C, H, W]``, its input.
        predicted: what its offset branch gave in this call, for :meth:`OffsetLayer.split`.
        input_grid: where the input lies in the image.
        output_grid: where the output lies: the centres of the filters.
    """

    name: str
    layer: OffsetLayer
    features: Tensor
    predicted: Tensor
    input_grid: Grid
    output_grid: Grid


@dataclass(frozen=True)
class Mapped:
    """One call of a convolution or pooling layer.

    Attributes:
        name: dotted name of the layer in the network; a call after the first has its number in brackets.
        layer: the layer.
        features: ``[N, C, H, W]``, its input.
        output: ``[N, C, H, W]``.
        input_grid: where the input lies in the image.
        output_grid: where the output lies.
    """

    name: str
    layer: nn.Module
    features: Tensor
    output: Tensor
    input_grid: Grid
    output_grid: Grid


_PLAIN = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def _deformable(module: nn.Module) -> bool:
    return isinstance(module, OffsetLayer) and len(module.kernel_size) == 2


def _parts(layer: OffsetLayer) -> Iterator[nn.Module]:
    return layer.offset_branch.modules()


@contextmanager
def watch_deformable(model: nn.Module, see: Callable[[Call], None]) -> Iterator[None]:
    """Inside, one forward pass of ``model`` tells ``see`` of every call of a deformable layer, in order.

    Plain convolutions and pooling layers (as modules) are followed to learn how each map lies in the image: a map of a
    new size inherits its grid from the map it was made from. Where a size appears without such a layer, its grid is
    taken to start at the first pixel with the rounded ratio of sizes as stride. The map that the first of these layers
    sees is the image, with the padding of its batch.

    Raises:
        ValueError: a network without a 2-D deformable convolution that predicts its offsets.
    """
    if not any(_deformable(module) for module in model.modules()):
        raise ValueError(
            "model: expected at least one 2-D deformable convolution that predicts its offsets (dcn.nn.DeformConv2d, "
            "or a drop-in that does), got none"
        )

    predictions: dict[nn.Module, Tensor] = {}

    def predicted(branch: nn.Module, inputs: object, output: Tensor) -> None:
        """Keep what a branch gave: it may have seen another map than its layer."""
        predictions[branch] = output

    def seen(one: Mapped) -> None:
        """Pass on the calls of deformable convolutions that asked their branch."""
        if isinstance(one.layer, OffsetLayer):
            output = predictions.pop(one.layer.offset_branch, None)
            if output is not None:
                see(Call(one.name, one.layer, one.features, output, one.input_grid, one.output_grid))

    branches = {layer.offset_branch for layer in model.modules() if isinstance(layer, OffsetLayer)}
    handles = [branch.register_forward_hook(predicted) for branch in branches]
    try:
        with watch_maps(model, seen):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watch_maps(model: nn.Module, see: Callable[[Mapped], None]) -> Iterator[None]:
    """As :func:`watch_deformable`, of every convolution and pooling layer but the branches that predict offsets."""
    watcher = _Watcher(see)
    handles = []
    branches = {part for layer in model.modules() if isinstance(layer, OffsetLayer) for part in _parts(layer)}
    for name, module in model.named_modules():
        branch = module in branches or name.endswith("conv_offset")
        if not branch and (_deformable(module) or isinstance(module, _PLAIN)):
            handles.append(module.register_forward_hook(watcher.hook(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watcher:
    """Grids by map size, in order of appearance."""

    def __init__(self, see: Callable[[Mapped], None]) -> None:
        self.see = see
        self.grids: dict[Size, Grid] = {}
        self._calls: dict[str, int] = {}

    def hook(self, name: str) -> Any:
        """What sees the calls of a layer."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before = self._grid(inputs[0])
            size = (output.shape[-2], output.shape[-1])
            after = self.grids.setdefault(size, _after(module, before, size))
            call = self._calls[name] = self._calls.get(name, 0) + 1
            shown = name if call == 1 else f"{name}[{call}]"
            self.see(Mapped(shown, module, inputs[0], output, before, after))

        return hook

    def _grid(self, features: Tensor) -> Grid:
        size = (features.shape[-2], features.shape[-1])
        if not self.grids:
            self.grids[size] = Grid(size, (1.0, 1.0), (0.0, 0.0))
        if size not in self.grids:
            image = next(iter(self.grids))
            ratio = [float(max(1, round(a / max(1, b)))) for a, b in zip(image, size, strict=True)]
            self.grids[size] = Grid(size, (ratio[0], ratio[1]), (0.0, 0.0))
        return self.grids[size]


def _after(module: Any, before: Grid, size: Size) -> Grid:
    """The grid of a layer's output: see the module's docstring."""
    kernel, stride, dilation = pair(module.kernel_size), pair(module.stride), pair(getattr(module, "dilation", 1))
    padding = _same(kernel, dilation) if module.padding == "same" else pair(module.padding)
    center = [d * (k - 1) / 2 - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    return Grid(
        size,
        (before.stride[0] * stride[0], before.stride[1] * stride[1]),
        (before.origin[0] + before.stride[0] * center[0], before.origin[1] + before.stride[1] * center[1]),
    )


def _same(kernel: Size, dilation: Size) -> Size:
    return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2


def pair(value: Any) -> Size:
    """(vertical, horizontal) of one number, a pair, or torch's name for no padding."""
    if value == "valid":
        return 0, 0
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
