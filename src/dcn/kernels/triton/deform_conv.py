"""Deformable convolution in one, two or three dimensions on the GPU: callers of the Triton kernels beside this file.

Shapes, with ``n`` spatial axes, ``K`` kernel taps, ``G`` offset groups: input ``[N, C, *size]``, offset
``[N, n*G*K, *out]``, weight ``[O, C/g, *kernel]``, mask ``[N, G*K, *out]``. Coordinates and sums are float32, float64
for float64 data. Nothing here waits for the device, and every buffer comes from torch's allocator, so that calls can be
captured in CUDA graphs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dcn.kernels.triton import _runtime, _tiles
from dcn.kernels.triton._deform_conv_call import Call, Operands, dense, describe
from dcn.memory_format import new_map

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LIST_BLOCK = 128  # locations per program of the small kernels that make lists
_SUM_BLOCK = 1024  # elements per program of the kernel that sums shares
_MOST_SHARES = 32
_SHARES_PART = 21  # shares of the weight's gradient take at most this part of what a column buffer would
_STRIP = 8  # rows of a patch of locations: a tile of 64 or 128 is then 8 x 8 or 16 x 8


def unsupported(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> str | None:
    """Why this call cannot run here, or None when it can."""
    if input.dtype not in _DTYPES:
        return f"dtype {input.dtype} is not one of float16, bfloat16, float32, float64"
    return _runtime.reason(input, offset, weight, bias, mask)


def forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
) -> Tensor:
    """``[N, O, *out]`` in the type and the memory format of ``input``: weight * mask * sampled input, plus bias."""
    call, operands = describe(input, offset, weight, mask, stride, padding, dilation, boundary)
    output = new_map(input, (call.batch, call.outputs, *offset.shape[2:]), call.last)
    if call.count:
        with _runtime.launching(input, lambda: call.name("forward")):
            _forward(call, operands.gathered(), call.pack(weight), bias, output)
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    boundary: str,
    needs: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, offset, weight and mask, each in the shape and type of what it belongs to.

    That of the input has the input's memory format, the others are contiguous. ``needs`` says which are wanted; the
    others are None. Every run gives the same bits.
    """
    call, operands = describe(input, offset, weight, mask, stride, padding, dilation, boundary)
    new = torch.empty if call.count else torch.zeros
    grad_input = new_map(input, (call.batch, call.channels, *input.shape[2:]), call.last) if needs[0] else None
    others = [
        new(tensor.shape, dtype=tensor.dtype, device=tensor.device) if need and tensor is not None else None
        for tensor, need in zip((offset, weight, mask), needs[1:], strict=True)
    ]
    grad_offset, grad_weight, grad_mask = others
    if call.count:
        grad_output = dense(grad_output)
        operands = operands.gathered() if any(needs[1:]) else operands
        packed = call.pack(weight) if needs[0] or needs[1] or needs[3] else weight
        with _runtime.launching(input, lambda: call.name("backward")):
            if grad_offset is not None or grad_mask is not None:
                _backward_offset(call, operands, packed, grad_output, grad_offset, grad_mask)
            if grad_input is not None:
                _backward_input(call, operands, packed, grad_output, grad_input)
            if grad_weight is not None:
                _backward_weight(call, operands, grad_output, grad_weight)
    return grad_input, grad_offset, grad_weight, grad_mask


class Launch(NamedTuple):
    """What a kernel is launched with beside its tensors; computed once for all calls alike."""

    grid: tuple[int]
    numbers: tuple[Any, ...]
    variant: dict[str, Any]


def _forward(call: Call, operands: Operands, weight: Tensor, bias: Tensor | None, output: Tensor) -> None:
    from dcn.kernels.triton import _deform_conv_forward_kernels as kernels

    plan = _runtime.once(_forward_plan)(call)
    kernel = _runtime.launcher(kernels.depthwise if call.depthwise else kernels.dense)
    kernel[plan.grid](*operands, weight, bias, output, *plan.numbers, **plan.variant)


@functools.lru_cache(maxsize=4096)
def _forward_plan(call: Call) -> Launch:
    columns = call.in_offset_group * call.out_group if call.depthwise else call.span * call.out_group
    tile = _tile(call, "forward", columns, min(call.span * call.in_group, call.in_offset_group))
    multiprocessors = _runtime.multiprocessors(call.device)
    blocks = call.offset_groups if call.depthwise else blocks_of(call.groups, call.span)
    if not call.depthwise:
        tile = _tiles.halved(tile, _tiles.table(_runtime.generation(call.device))["forward", call.dtype.itemsize])
    tile = _tiles.lowered(tile, call.count, blocks * blocks_of(columns, tile.columns), multiprocessors)
    programs = blocks * blocks_of(call.count, tile.rows)
    tile = _tiles.spread(tile, columns, programs, multiprocessors)
    grid = (programs * blocks_of(columns, tile.columns),)
    variant = _variant(call, tile) | {"BLOCK_LOCATIONS": tile.rows, "BLOCK_OUTPUTS": tile.columns}
    variant |= {"LAST": call.last, "STRIP": _strip(call)}
    if call.depthwise:
        numbers = (*call.counts(), call.out_group, call.in_offset_group, call.taps, *call.geometry_numbers())
        return Launch(grid, numbers, variant | {"EVEN": columns % tile.columns == 0})
    groups = (call.in_group, call.out_group, call.in_offset_group, call.span, call.taps)
    variant |= {"EVEN": _even_runs(call, tile.inner), "MERGED": call.span > 1}
    variant |= {"PRECISION": call.precision, "BLOCK_CHANNELS": tile.inner}
    return Launch(grid, (*call.counts(), *groups, *call.geometry_numbers()), variant)


def _backward_offset(
    call: Call,
    operands: Operands,
    weight: Tensor,
    grad_output: Tensor,
    grad_offset: Tensor | None,
    grad_mask: Tensor | None,
) -> None:
    from dcn.kernels.triton import _deform_conv_offset_kernels as kernels

    if grad_offset is None:  # the mask's alone is wanted: rare, and not worth a kernel of its own
        grad_offset = torch.empty_like(operands.offset, memory_format=torch.contiguous_format)
    plan = _runtime.once(_offset_plan)(call)
    tensors = (*operands, weight, grad_output, grad_offset, grad_mask)
    _runtime.launcher(kernels.offset_and_mask)[plan.grid](*tensors, *plan.numbers, **plan.variant)


@functools.lru_cache(maxsize=4096)
def _offset_plan(call: Call) -> Launch:
    tile = _tile(call, "offset", call.in_offset_group, _connected_outputs(call, call.in_offset_group))
    slots = call.offset_groups * call.taps
    tile = _tiles.shorter(tile, blocks_of(call.count, tile.rows) * slots, _runtime.multiprocessors(call.device))
    groups = (call.in_group, call.out_group, call.in_offset_group, call.taps)
    variant = _variant(call, tile) | _backward_blocks(call, tile)
    variant |= {"EVEN": call.in_offset_group % tile.columns == 0, "EVEN_OUTPUTS": call.out_group % tile.inner == 0}
    variant |= {"MERGED": _merged(call, tile)}
    grid = (blocks_of(call.count, tile.rows) * slots,)
    return Launch(grid, (*call.counts(), *groups, *call.geometry_numbers()), variant)


def _backward_input(call: Call, operands: Operands, weight: Tensor, grad_output: Tensor, grad_input: Tensor) -> None:
    from dcn.kernels.triton import _deform_conv_input_kernels as kernels

    lists, arranged = _lists(call, operands.offset)
    plan = _runtime.once(_input_plan)(call)
    tensors = (grad_output, operands.offset, operands.mask, weight, lists, arranged, grad_input)
    _runtime.launcher(kernels.gather)[plan.grid](*tensors, *plan.numbers, **plan.variant)


@functools.lru_cache(maxsize=4096)
def _input_plan(call: Call) -> Launch:
    tile = _tile(call, "input", call.in_offset_group, _connected_outputs(call, call.in_offset_group))
    patch = _tiles.patch(call.axes, tile.rows)
    programs = call.batch * call.offset_groups
    for size, side in zip(call.size, patch, strict=True):
        programs *= blocks_of(size, side)
    tile = _tiles.spread(tile, call.in_offset_group, programs, _runtime.multiprocessors(call.device))
    even = call.in_offset_group % tile.columns == 0
    groups = (call.in_group, call.out_group, call.in_offset_group, call.taps)
    variant = _variant(call, tile) | _backward_blocks(call, tile) | {"EVEN": even, "LAST": call.last}
    variant |= {"EVEN_OUTPUTS": even if call.depthwise else call.out_group % tile.inner == 0}
    variant |= {"MERGED": _merged(call, tile)}
    variant |= {"PATCH": patch, "BLOCK_SAMPLES": _tiles.samples(patch, call.axes, call.geometry[1])}
    grid = (programs * blocks_of(call.in_offset_group, tile.columns),)
    return Launch(grid, (*call.counts()[1:], *groups, *call.geometry_numbers()), variant)


def _lists(call: Call, offset: Tensor) -> tuple[Tensor, Tensor]:
    """For every image, offset group, tap and cell between grid points, the output locations that sample in it.

    Returns:
        The beginning of each list, and the lists, one behind the other.
    """
    from dcn.kernels.triton import _deform_conv_input_kernels as kernels

    (grid, numbers, variant), cells, samples = _runtime.once(_lists_plan)(call)
    kind, device = torch.int64 if call.wide else torch.int32, call.device
    lists = torch.zeros(cells, dtype=kind, device=device)
    entries = torch.empty(samples, dtype=kind, device=device)
    arranged = torch.empty_like(entries)
    _runtime.launcher(kernels.count)[grid](offset, lists, *numbers, **variant)
    lists.cumsum_(0)
    _runtime.launcher(kernels.fill)[grid](offset, lists, entries, *numbers, **variant)
    _runtime.launcher(kernels.settle)[grid](offset, lists, entries, arranged, *numbers, **variant)
    return lists, arranged


@functools.lru_cache(maxsize=4096)
def _lists_plan(call: Call) -> tuple[Launch, int, int]:
    """How to launch the kernels that make lists, the number of these lists, and how many entries they have at most."""
    slots = call.offset_groups * call.taps
    numbers = (call.count, call.locations, slots, call.taps, *call.geometry_numbers()[:-3])
    variant = {"AXES": call.axes, "V1": call.v1, "WIDE": call.wide, "BLOCK": _LIST_BLOCK, "num_warps": 4}
    launch = Launch((blocks_of(call.count, _LIST_BLOCK) * slots,), numbers, variant)
    return launch, call.batch * slots * call.cells + 2, call.count * slots


def _backward_weight(call: Call, operands: Operands, grad_output: Tensor, grad_weight: Tensor) -> None:
    from dcn.kernels.triton import _deform_conv_weight_kernels as kernels

    plan, parts = _runtime.once(_weight_plan)(call)
    sums = grad_weight if parts == 1 else _new_shares(parts, grad_weight)
    kernel = _runtime.launcher(kernels.depthwise if call.depthwise else kernels.dense)
    kernel[plan.grid](*operands, grad_output, sums, *plan.numbers, **plan.variant)
    if parts > 1:
        count = call.outputs * call.in_group * call.taps
        variant = {"WIDE": call.wide, "BLOCK": _SUM_BLOCK, "num_warps": 4}
        numbers = (count, call.in_group, call.taps, parts)
        _runtime.launcher(kernels.add)[blocks_of(count, _SUM_BLOCK),](sums, grad_weight, *numbers, **variant)


@functools.lru_cache(maxsize=4096)
def _weight_plan(call: Call) -> tuple[Launch, int]:
    """How to launch the kernel, and into how many shares the locations are divided."""
    columns = call.in_offset_group * (call.out_group if call.depthwise else 1)
    widest = _tile(call, "weight", columns, call.count, rows=_connected_outputs(call, call.in_offset_group))
    tiles = [widest] if call.depthwise else _tiles.narrower(widest)
    programs = [_weight_programs(call, columns, tile) for tile in tiles]
    steps = blocks_of(call.count, widest.inner)
    found, most = _tiles.divide(tiles, programs, _shares(call, steps), _runtime.multiprocessors(call.device))
    tile, share = tiles[found], blocks_of(steps, most) * widest.inner
    parts = 1 if most == 1 else blocks_of(call.count, share)
    grid = (programs[found] * parts,)
    variant = _variant(call, tile) | {"EVEN": columns % tile.columns == 0, "BLOCK_LOCATIONS": tile.inner}
    if call.depthwise:
        numbers = (*call.counts(), call.out_group, call.in_offset_group, call.taps, share, *call.geometry_numbers())
        return Launch(grid, numbers, variant | {"BLOCK_OUTPUTS": tile.columns}), parts
    output_blocks = blocks_of(_connected_outputs(call, tile.columns), tile.rows)
    groups = (call.in_group, call.out_group, call.in_offset_group, call.taps, share, output_blocks)
    steps_of_result = (call.taps, 1) if parts == 1 else (1, call.in_group)  # from channel to channel, from tap to tap
    merged = _merged(call, tile)  # then some blocks of channels have fewer outputs than others
    variant |= {"EVEN_OUTPUTS": not merged and call.out_group % tile.rows == 0, "PRECISION": call.precision}
    variant |= {"BLOCK_OUTPUTS": tile.rows, "BLOCK_CHANNELS": tile.columns, "MERGED": merged}
    return Launch(grid, (*call.counts(), *groups, *steps_of_result, *call.geometry_numbers()), variant), parts


def _weight_programs(call: Call, columns: int, tile: _tiles.Tile) -> int:
    """Programs of one share."""
    output_blocks = 1 if call.depthwise else blocks_of(_connected_outputs(call, tile.columns), tile.rows)
    return output_blocks * call.offset_groups * call.taps * blocks_of(columns, tile.columns)


def _shares(call: Call, steps: int) -> int:
    """Into how many shares the locations may be divided: at least 8 steps in each, and little memory for all."""
    elements = call.outputs * call.in_group * call.taps
    if elements * _MOST_SHARES >= 2**31:  # they are addressed as the other tensors are
        return 1
    column = call.channels * call.taps * call.count * call.dtype.itemsize
    most = column // (_SHARES_PART * elements * max(4, call.dtype.itemsize))
    return next((n for n in range(_MOST_SHARES, 1, -1) if most >= n and steps >= 8 * n), 1)


def forget_plans() -> None:
    """Let the next calls see a changed table of tiles."""
    for plan in (_forward_plan, _offset_plan, _input_plan, _lists_plan, _weight_plan):
        plan.cache_clear()


def _new_shares(parts: int, weight: Tensor) -> Tensor:
    """Memory for shares ``[parts, O, taps, C/g]``."""
    kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return torch.empty((parts, *weight.shape), dtype=kind, device=weight.device)


def _connected_outputs(call: Call, channels: int) -> int:
    """Outputs that a run of so many channels of an offset group can feed."""
    groups = (
        1
        if gcd(call.in_group, call.in_offset_group) % channels == 0
        else min(call.groups, (channels - 1) // call.in_group + 2)
    )
    return groups * call.out_group


def _even_runs(call: Call, block: int) -> bool:
    """Whether every program of the forward kernel finds only whole blocks of channels in every offset group.

    Not so if the groups that share a tile cross the border of an offset group, or if the last ones are fewer.
    """
    width = call.span * call.in_group
    short, long = sorted((width, call.in_offset_group))
    return short % block == 0 and long % short == 0 and call.channels % width == 0


def _merged(call: Call, tile: _tiles.Tile) -> bool:
    """Whether a block of channels may lie in more than one group; not if groups of both kinds are whole blocks."""
    return call.groups > 1 and gcd(call.in_group, call.in_offset_group) % tile.columns != 0


def _tile(call: Call, kernel: str, columns: int, inner: int, rows: int | None = None) -> _tiles.Tile:
    generation = _runtime.generation(call.device)
    kernel = "depthwise" if call.depthwise else kernel
    return _tiles.choose(generation, kernel, call.dtype.itemsize, rows=rows, columns=columns, inner=inner)


def _variant(call: Call, tile: _tiles.Tile) -> dict[str, Any]:
    """Constants that every kernel has, and how to compile it."""
    constants = {"AXES": call.axes, "V1": call.v1, "WIDE": call.wide}
    return constants | {"num_warps": tile.warps, "num_stages": tile.stages}


def _backward_blocks(call: Call, tile: _tiles.Tile) -> dict[str, Any]:
    """Constants that the kernels of offset and input share."""
    blocks = {"BLOCK_LOCATIONS": tile.rows, "BLOCK_CHANNELS": tile.columns, "BLOCK_OUTPUTS": tile.inner}
    return blocks | {"DEPTHWISE": call.depthwise, "PRECISION": call.precision}


def _strip(call: Call) -> int:
    """Rows of a map that programs walk over together; neighbours along x lie together in a contiguous map."""
    return _STRIP if call.last else 1


def blocks_of(count: int, block: int) -> int:
    """Blocks that cover ``count``."""
    return -(-count // block)
