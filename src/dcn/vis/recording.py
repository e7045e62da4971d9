"""Watches a network while it runs: what its deformable layers sampled, and where their grids lie in the image.

Grids are described in *index* coordinates: unit 0 of a map sits at ``origin`` (image pixels, 0 is the centre of the
first pixel) and the next one ``stride`` pixels further. A convolution with kernel k, stride s, padding p, dilation d
turns a grid (stride S, origin o) into (S·s, o + S·(d·(k-1)/2 - p)): its output unit belongs to the centre of its taps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcn.nn import DeformConv2d

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

    def from_image(self, positions: Tensor) -> Tensor:
        """The inverse of `to_image`."""
        return (positions - torch.tensor(self.origin)) / torch.tensor(self.stride)


@dataclass(frozen=True)
class LayerOffsets:
    """What one deformable convolution did with one image.

    Attributes:
        name: dotted name in the network; a call after the first has its number in brackets.
        offset: ``[G, K, 2, Ho, Wo]`` float32, (y, x) in units of the input map, taps row by row.
        mask: ``[G, K, Ho, Wo]``, the factor of each tap; ones for a layer without modulation.
        kernel_size: of the convolution, (vertical, horizontal) like the next three.
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
        input_grid: of the map that is sampled.
        output_grid: of the map that is made.
        boundary: ``"v1"`` or ``"v2"``, the rule at the edge of the map, see `dcn.ops.deform_conv2d`.
    """

    name: str
    offset: Tensor
    mask: Tensor
    kernel_size: Size
    stride: Size
    padding: Size
    dilation: Size
    input_grid: Grid
    output_grid: Grid
    boundary: str = "v2"


def record_offsets(model: nn.Module, image: Tensor) -> list[LayerOffsets]:
    """Run a network on one image and record its deformable layers in the order in which they ran.

    Plain convolutions and pooling layers (as modules) are followed to learn how each map lies in the image: a map of a
    new size inherits its grid from the map it was made from. Where a size appears without such a layer, its grid is
    taken to start at the first pixel with the rounded ratio of sizes as stride.

    Args:
        model: a detector of this package, or any network with `dcn.nn.DeformConv2d` in it. It runs in evaluation mode,
            without gradients, and is left in the mode it was in.
        image: ``[3, H, W]`` uint8, handed over as ``model([image])`` as detectors take it; or ``[1, C, H, W]``
            floating point, handed over as ``model(image)``.

    Raises:
        ValueError: for another kind of image, or a network without a deformable layer.
    """
    if not any(isinstance(module, DeformConv2d) for module in model.modules()):
        raise ValueError("model: expected at least one dcn.nn.DeformConv2d in it, found none")
    is_photo = image.dtype == torch.uint8 and image.ndim == 3
    if not is_photo and not (image.is_floating_point() and image.ndim == 4 and image.shape[0] == 1):
        raise ValueError(
            f"image: expected [3, H, W] uint8 or [1, C, H, W] float, got {list(image.shape)} {image.dtype}"
        )
    watcher = _Watcher()
    was_training = model.training
    model.eval()
    try:
        with watcher.watching(model), torch.no_grad():
            model([image] if is_photo else image)
    finally:
        model.train(was_training)
    return watcher.layers


class _Watcher:
    """Grids by map size, in order of appearance, and the deformable layers seen."""

    def __init__(self) -> None:
        self.grids: dict[Size, Grid] = {}
        self.layers: list[LayerOffsets] = []
        self._calls: dict[str, int] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            if not name.endswith("conv_offset") and isinstance(
                module, DeformConv2d | nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d
            ):
                handles.append(module.register_forward_hook(self._hook(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before = self._grid(inputs[0])
            size = (output.shape[-2], output.shape[-1])
            after = self.grids.setdefault(size, _after(module, before, size))
            if isinstance(module, DeformConv2d):
                self._record(name, module, inputs[0][:1], before, after)

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

    def _record(self, name: str, module: DeformConv2d, features: Tensor, before: Grid, after: Grid) -> None:
        offset, mask = module.offsets(features)
        kernel = _pair(module.kernel_size)
        taps, groups = kernel[0] * kernel[1], module.offset_groups
        shape = (groups, taps, *offset.shape[-2:])
        made = torch.ones(shape) if mask is None else mask[0].float().cpu().reshape(shape)
        call = self._calls[name] = self._calls.get(name, 0) + 1
        layer = LayerOffsets(
            name=name if call == 1 else f"{name}[{call}]",
            offset=offset[0].float().cpu().reshape(groups, taps, 2, *offset.shape[-2:]),
            mask=made,
            kernel_size=kernel,
            stride=_pair(module.stride),
            padding=_pair(module.padding),
            dilation=_pair(module.dilation),
            input_grid=before,
            output_grid=after,
            boundary=module.boundary,
        )
        self.layers.append(layer)


def _after(module: Any, before: Grid, size: Size) -> Grid:
    """The grid of a layer's output: see the module's docstring."""
    kernel, stride, dilation = _pair(module.kernel_size), _pair(module.stride), _pair(getattr(module, "dilation", 1))
    padding = _same(kernel, dilation) if module.padding == "same" else _pair(module.padding)
    center = [d * (k - 1) / 2 - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    return Grid(
        size,
        (before.stride[0] * stride[0], before.stride[1] * stride[1]),
        (before.origin[0] + before.stride[0] * center[0], before.origin[1] + before.stride[1] * center[1]),
    )


def _same(kernel: Size, dilation: Size) -> Size:
    return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2


def _pair(value: Any) -> Size:
    """(vertical, horizontal) of one number, a pair, or torch's name for no padding."""
    if value == "valid":
        return 0, 0
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
