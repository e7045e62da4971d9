"""The functions of ``mmcv._ext``, mmcv's compiled extension, under their names and with their arguments.

They write into tensors that the caller has made, as the extension does; buffers (``columns``, ``ones``) and
``im2col_step`` have no effect. mmcv's own Python code around them stays in use, its classes and registries with it. The
rules are those of the files of the same names in ``mmcv/ops``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dcn import ops
from dcn.compat import _layers, _mmcv_nms, _mmcv_roi
from dcn.compat.ms_deform_attn import attend

_METHODS = ("naive", "linear", "gaussian")
_TINY = torch.finfo(torch.float32).tiny


def _gradients(call: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of all inputs of a call."""
    leaves = [value.detach().requires_grad_() for value in inputs]
    with torch.enable_grad():
        output = call(*leaves)
    return torch.autograd.grad(output, leaves, grad.to(output.dtype))


def _conv_gradients(
    grad: Tensor,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None],
    geometry: tuple[list[int], list[int], list[int]],
    needs: list[bool],
) -> list[Tensor]:
    """Of input, offset, weight, bias and mask; an empty tensor where it is not needed."""
    gradients: list[Tensor] = torch.ops.dcn.deform_conv_backward(grad, *tensors, *geometry, "v2", None, needs)
    return gradients


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fills ``output [N, O, H_out, W_out]``."""
    geometry = ((dH, dW), (padH, padW), (dilationH, dilationW))
    output.copy_(_layers.conv(input, offset, weight, None, None, geometry, (group, deformable_group)).view_as(output))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fills ``gradInput`` and ``gradOffset``."""
    geometry = ([dH, dW], [padH, padW], [dilationH, dilationW])
    needs = [True, True, False, False, False]
    gradients = _conv_gradients(gradOutput, (input, offset, weight, None, None), geometry, needs)
    gradInput.copy_(gradients[0])
    gradOffset.copy_(gradients[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds ``scale`` times the gradient to ``gradWeight``."""
    geometry = ([dH, dW], [padH, padW], [dilationH, dilationW])
    needs = [False, False, True, False, False]
    # The gradient of the weight does not depend on the weight, of which the caller gives the shape alone.
    tensors = (input, offset, torch.zeros_like(gradWeight), None, None)
    gradWeight.add_(_conv_gradients(gradOutput, tensors, geometry, needs)[2], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fills ``output [N, O, H_out, W_out]``."""
    geometry = ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    groups = (group, deformable_group)
    result = _layers.conv(input, offset, weight, bias if with_bias else None, mask, geometry, groups)
    output.copy_(result.view_as(output))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fills the gradients; those of weight and bias are added to."""
    geometry = ([stride_h, stride_w], [pad_h, pad_w], [dilation_h, dilation_w])
    tensors = (input, offset, weight, bias if with_bias else None, mask)
    gradients = _conv_gradients(grad_output, tensors, geometry, [True, True, True, with_bias, True])
    for target, value in zip((grad_input, grad_offset, grad_mask), (*gradients[:2], gradients[4]), strict=True):
        target.copy_(value)
    grad_weight.add_(gradients[2])
    if with_bias:
        grad_bias.add_(gradients[3])


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fills ``output [R, C, rows, columns]``; an empty ``offset`` means none."""
    size = (pooled_height, pooled_width)
    moved = offset if offset.numel() else None
    output.copy_(
        ops.deform_roi_pool(input, rois, moved, size, spatial_scale, sampling_ratio=sampling_ratio, gamma=gamma)
    )


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fills ``grad_input``, and ``grad_offset`` where there are offsets."""

    def call(input: Tensor, moved: Tensor | None = None) -> Tensor:
        size = (pooled_height, pooled_width)
        return ops.deform_roi_pool(input, rois, moved, size, spatial_scale, sampling_ratio=sampling_ratio, gamma=gamma)

    inputs, targets = ([input, offset], [grad_input, grad_offset]) if offset.numel() else ([input], [grad_input])
    for target, value in zip(targets, _gradients(call, inputs, grad_output), strict=True):
        target.copy_(value)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills ``output [R, C, rows, columns]``; ``pool_mode`` 0: maximum, 1: mean.

    For the maximum ``argmax_y`` and ``argmax_x`` get row and column of the sample in the grid of all samples of its
    RoI, which :func:`roi_align_backward` reads again (the extension stores coordinates there).
    """
    grid = (spatial_scale, sampling_ratio, aligned)
    if pool_mode == 1:
        output.copy_(ops.roi_align(input, rois, (aligned_height, aligned_width), *grid))
        return
    pooled = _mmcv_roi.largest_samples(input, rois, (aligned_height, aligned_width), *grid)
    for target, value in zip((output, argmax_y, argmax_x), pooled, strict=True):
        target.copy_(value)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills ``grad_input``."""
    size, grid = (aligned_height, aligned_width), (spatial_scale, sampling_ratio, aligned)
    if pool_mode == 1:  # linear in the input, whose values do not matter

        def call(input: Tensor) -> Tensor:
            return ops.roi_align(input, rois, size, *grid)

        grad_input.copy_(_gradients(call, [grad_input], grad_output)[0])
        return
    chosen = (argmax_y.long(), argmax_x.long())
    grad_input.copy_(_mmcv_roi.largest_samples_gradient(grad_output, grad_input, rois, chosen, size, *grid))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fills ``output [R, C, rows, columns]`` and ``argmax``, the cell ``y * W + x`` of each maximum, -1 for none."""
    pooled, cells = _mmcv_roi.largest_cells(input, rois, (pooled_height, pooled_width), spatial_scale)
    output.copy_(pooled)
    argmax.copy_(cells)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds to ``grad_input``."""
    count, channels = argmax.shape[:2]
    planes = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    cells = planes.view(count, channels, 1, 1) * grad_input[0, 0].numel() + argmax
    hit = argmax >= 0
    flat = torch.zeros_like(grad_input).view(-1)
    grad_input.add_(flat.index_add(0, cells[hit].long(), grad_output[hit]).view_as(grad_input))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that stay, best first."""
    return ops.nms(boxes, scores, iou_threshold, plus_one=offset == 1)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Indices of the boxes that stay; the first rows of ``dets [N, 5]`` get them with their scores."""
    kept, inds = _mmcv_nms.soft_nms(boxes, scores, iou_threshold, sigma, min_score, _METHODS[method], offset)
    dets[: len(kept)] = kept
    return inds


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int,
) -> Tensor:
    """``[N, Q, M*D]``."""
    with torch.no_grad():
        return attend(value, spatial_shapes, level_start_index, sampling_loc, attn_weight)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fills the three gradients."""

    def call(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return attend(value, spatial_shapes, level_start_index, locations, weights)

    gradients = _gradients(call, (value, sampling_loc, attn_weight), grad_output)
    for target, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        target.copy_(gradient)


def _focal(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Lin et al., Focal Loss for Dense Object Detection, equation 5, for every class; a target of C has none."""
    hot = F.one_hot(target, input.shape[1] + 1)[:, :-1].to(input.dtype)
    chance = torch.where(hot > 0, input, -input).sigmoid()
    loss = -torch.where(hot > 0, alpha, 1 - alpha) * (1 - chance) ** gamma * chance.clamp(min=_TINY).log()
    return loss * weight[target][:, None] if weight.numel() else loss


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fills ``output [N, C]``; ``target [N]``, a class or C for none; ``weight [C]`` or empty."""
    output.copy_(_focal(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills ``grad_input`` with the derivative of each entry."""

    def call(input: Tensor) -> Tensor:
        return _focal(input, target, weight, gamma, alpha)

    grad_input.copy_(_gradients(call, [input], torch.ones_like(input))[0])


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fills ``col [C*kh*kw, n]`` with the windows around n places of ``im [1, C, H, W]``."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    windows = col.view(im.shape[1], kernel_h, kernel_w, -1)
    for row in range(kernel_h):
        for column in range(kernel_w):
            windows[:, row, column] = padded[:, mask_h_idx + row, mask_w_idx + column]


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Puts ``col [C, n]`` at n places of ``im [1, C, H, W]``."""
    im[0][:, mask_h_idx, mask_w_idx] = col.view(channels, -1)


def get_compiler_version() -> str:
    """What mmcv's report of the environment shows."""
    return "none: dcn.compat.mmcv stands in for mmcv._ext"


def get_compiling_cuda_version() -> str:
    """Likewise."""
    return "not available"


def missing(name: str) -> Any:
    """Any other function: mmcv's modules can be imported, and a call says what is missing."""
    if name.startswith("_"):
        raise AttributeError(name)

    def refuse(*args: object, **kwargs: object) -> None:
        raise NotImplementedError(
            f"mmcv._ext.{name}: expected mmcv's compiled extension, got the stand-in of dcn.compat.mmcv, which has "
            "deformable convolution, attention and RoI pooling, RoIAlign, RoIPool, NMS, masked convolution and the "
            "sigmoid focal loss; install a compiled mmcv for this function"
        )

    refuse.__name__ = name
    return refuse


FUNCTIONS = {
    function.__name__: function
    for function in (
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
        deform_roi_pool_forward,
        deform_roi_pool_backward,
        roi_align_forward,
        roi_align_backward,
        roi_pool_forward,
        roi_pool_backward,
        nms,
        softnms,
        ms_deform_attn_forward,
        ms_deform_attn_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        masked_im2col_forward,
        masked_col2im_forward,
        get_compiler_version,
        get_compiling_cuda_version,
    )
}
"""From a name of the extension to what stands in for it."""
