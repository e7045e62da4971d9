"""Watches a model while it runs: what its deformable layers sampled, and where their grids lie in the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dcn.nn.grids import Call, Grid, Size, pair, watch_deformable
from dcn.nn.wrapped import HasModel, module_of
from dcn.suggest import first_line


@dataclass(frozen=True)
class LayerOffsets:
    """What one deformable convolution did with one image.

    Attributes:
        name: dotted name in the model; a call after the first has its number in brackets.
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

    def without_offsets(self) -> LayerOffsets:
        """The same layer as the ordinary convolution that it started as: no offsets, all factors 1."""
        return replace(self, offset=torch.zeros_like(self.offset), mask=torch.ones_like(self.mask))

    def enlarged(self, factor: float) -> LayerOffsets:
        """The same layer for a picture of its image that is enlarged by a factor."""
        return replace(self, input_grid=self.input_grid.enlarged(factor), output_grid=self.output_grid.enlarged(factor))


def record_offsets(model: nn.Module | HasModel, image: Tensor) -> list[LayerOffsets]:
    """Run a model on one image and record its deformable layers in the order in which they ran.

    How maps are placed in the image: see `dcn.nn.grids.watch_deformable`.

    Args:
        model: a predictor of `dcn.load`, a model of this package, or any module with `dcn.nn.DeformConv2d` or the
            packs of `dcn.compat` in it. It runs in evaluation mode, without gradients, and is left in the mode it was
            in.
        image: for predictors and models of this package ``[3, H, W]`` uint8, handed over as ``model([image])``; for
            other modules what they take, normalised: ``[1, C, H, W]`` floating point, handed over as ``model(image)``.

    Raises:
        ValueError: for another kind of image, or a model without a deformable layer.
    """
    if not isinstance(image, Tensor):
        raise ValueError(f"image: expected a tensor, got {type(image).__name__}; convert with torch.as_tensor")
    is_photo = image.dtype == torch.uint8 and image.ndim == 3
    if not is_photo and not (image.is_floating_point() and image.ndim == 4 and image.shape[0] == 1):
        raise ValueError(
            f"image: expected [3, H, W] uint8 or [1, C, H, W] float, got {list(image.shape)} {image.dtype}"
        )
    layers: list[LayerOffsets] = []
    module = module_of(model)
    device = next(module.parameters(), image).device
    was_training = module.training
    module.eval()
    try:
        with watch_deformable(module, lambda call: layers.append(_recorded(call))), torch.no_grad():
            _run(module, [image.to(device)] if is_photo else image.to(device))
    finally:
        module.train(was_training)
    return layers


def _run(module: nn.Module, image: Tensor | list[Tensor]) -> None:
    try:
        module(image)
    except (TypeError, AttributeError, ValueError) as error:
        if isinstance(image, Tensor) or hasattr(module, "preprocess"):
            raise
        raise ValueError(
            f"image: expected [1, C, H, W] floating point, since {type(module).__name__} takes no list of uint8 images "
            f"as the models of this package do, got {list(image[0].shape)} {image[0].dtype}; pass the tensor that you "
            f"would call the model with (it says: {first_line(error)})"
        ) from error


def _recorded(call: Call) -> LayerOffsets:
    layer = call.layer
    offset, mask = layer.split(call.predicted[:1])
    kernel = pair(layer.kernel_size)
    taps, groups = kernel[0] * kernel[1], layer.offset_groups
    shape = (groups, taps, *offset.shape[-2:])
    return LayerOffsets(
        name=call.name,
        offset=offset[0].float().cpu().reshape(groups, taps, 2, *offset.shape[-2:]),
        mask=torch.ones(shape) if mask is None else mask[0].float().cpu().reshape(shape),
        kernel_size=kernel,
        stride=pair(layer.stride),
        padding=pair(layer.padding),
        dilation=pair(layer.dilation),
        input_grid=call.input_grid,
        output_grid=call.output_grid,
        boundary=layer.boundary,
    )
