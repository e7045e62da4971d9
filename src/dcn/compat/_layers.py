"""What the drop-in layers of several libraries share: parameters, their first values, the call of the operator."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dcn import ops
from dcn.ops.deform_conv import output_size

Size = int | Sequence[int]
Made = TypeVar("Made", bound=Callable[..., Any])


class Refused(ValueError, AssertionError):
    """A wrong argument: a ``ValueError`` as everywhere in this package, and what programs written for mmcv catch."""


def pair(name: str, value: Size) -> tuple[int, int]:
    """``value`` as ``(y, x)``.

    Raises:
        Refused: neither one int nor two.
    """
    if isinstance(value, (int, Integral)):
        return int(value), int(value)
    if len(value) != 2:
        raise Refused(f"{name}: expected an int or 2 ints, got {value!r}")
    return int(value[0]), int(value[1])


def renamed(**names: str) -> Callable[[Made], Made]:
    """Accept keyword arguments by the names they had in older versions: ``renamed(iou_thr="iou_threshold")``."""

    def decorate(function: Made) -> Made:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise Refused(f"{new}: expected once, got it also by its old name {old}")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        wrapper.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return wrapper  # type: ignore[return-value]

    return decorate


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Refuse channels that the groups do not divide.

    Raises:
        Refused: naming the argument.
    """
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if groups < 1 or channels % groups:
            raise Refused(f"{name}: expected a multiple of groups={groups}, got {channels}")


def check_call(input: Tensor, offset: Tensor, weight: Tensor, groups: int, deform_groups: int) -> None:
    """Refuse groups that contradict the tensors; the operator itself reads them off the tensors.

    Raises:
        Refused: naming the argument.
    """
    if input.ndim != 4:
        raise Refused(f"input: expected 4 axes [N, C, H, W], got shape {list(input.shape)}")
    if input.shape[1] != groups * weight.shape[1]:
        raise Refused(
            f"groups: expected input channels / weight.shape[1] = {input.shape[1]} / {weight.shape[1]}, got {groups}"
        )
    channels = 2 * deform_groups * weight.shape[2] * weight.shape[3]
    if offset.ndim != 4 or offset.shape[1] != channels:
        raise Refused(
            f"offset: expected [N, 2*deform_groups*kh*kw = {channels}, H_out, W_out], got shape {list(offset.shape)}"
        )


def smaller_output(
    input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, geometry: tuple[Size, Size, Size]
) -> tuple[int, int] | None:
    """``(H_out, W_out)`` where offset and mask are maps of one size that is larger; ``None``: they are not."""
    if mask is None or {input.ndim, offset.ndim, mask.ndim, weight.ndim} != {4} or mask.shape[2:] != offset.shape[2:]:
        return None
    stride, padding, dilation = (pair(n, v) for n, v in zip(("stride", "padding", "dilation"), geometry, strict=True))
    if min(stride) < 1:
        return None
    rows, columns = output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    other = tuple(offset.shape[2:]) != (rows, columns) and min(rows, columns) > 0
    return (rows, columns) if other and offset.shape[2] * offset.shape[3] >= rows * columns else None


def front(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``[N, C, *size]`` from the front of the memory of each image of maps ``[N, C, H, W]`` that are larger."""
    return maps.flatten(1)[:, : maps.shape[1] * size[0] * size[1]].unflatten(1, (maps.shape[1], *size))


def conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    geometry: tuple[Size, Size, Size],
    groups: tuple[int, int],
) -> Tensor:
    """The operator as these libraries call it: everything is cast to the type of the offset, as mmcv does for AMP.

    Args:
        input: ``[N, C, H, W]``.
        offset: ``[N, 2*G*K, H_out, W_out]``.
        weight: ``[O, C/groups, kh, kw]``.
        bias: ``[O]`` or ``None``.
        mask: ``[N, G*K, H_out, W_out]`` or ``None``.
        geometry: stride, padding, dilation.
        groups: groups and offset groups.
    """
    check_call(input, offset, weight, *groups)
    stride, padding, dilation = (pair(n, v) for n, v in zip(("stride", "padding", "dilation"), geometry, strict=True))
    data = [None if t is None else t.type_as(offset) for t in (input, weight, bias, mask)]
    assert data[0] is not None
    assert data[1] is not None
    return ops.deform_conv2d(data[0], offset, data[1], data[2], stride, padding, dilation, data[3])


def uniform(weight: Tensor, bias: Tensor | None, in_channels: int) -> None:
    """The first values of every modulated layer: uniform within ``1/sqrt(in_channels * kh * kw)``, bias 0."""
    limit = 1 / math.sqrt(in_channels * weight.shape[2] * weight.shape[3])
    nn.init.uniform_(weight, -limit, limit)
    if bias is not None:
        nn.init.zeros_(bias)


def zero(layer: nn.Module) -> None:
    """Set all parameters of ``layer`` to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU, Linear, ReLU, Linear with the last one at zero: keys ``0``, ``2``, ``4``."""
    layers = nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs),
    )
    zero(layers[-1])
    return layers


def mask_branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU, Linear (at zero), Sigmoid: keys ``0``, ``2``."""
    layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs), nn.Sigmoid())
    zero(layers[2])
    return layers


def split(predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Offset and mask from what the one branch of a modulated pack gives: two thirds, and the sigmoid of the rest."""
    count = predicted.shape[1] // 3 * 2
    return predicted[:, :count], torch.sigmoid(predicted[:, count:])


class OffsetPack(nn.Module):
    """What a pack answers as a :class:`dcn.nn.offset_layer.OffsetLayer`; written here for a branch with masks."""

    boundary = "v2"
    _branch, _groups = "conv_offset", "deform_groups"

    @property
    def offset_branch(self) -> nn.Module:
        """The convolution that gives the offsets, and the masks where there are any."""
        return self.get_submodule(self._branch)

    @property
    def offset_groups(self) -> int:
        """Parts of the channels that move on their own."""
        return int(getattr(self, self._groups))

    def split(self, predicted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offset and mask from what the branch put out."""
        return split(predicted)

    def offsets(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offset and mask for the input ``[N, C, H, W]``, as :meth:`split` gives them."""
        return self.split(self.offset_branch(input))
