"""What the drop-ins of DCNv3, DCNv4 and multi-scale deformable attention share."""

from __future__ import annotations

import torch
from torch import Tensor

from dcn import checks


def beside(tensor: Tensor, input: Tensor) -> Tensor:
    """In the type of ``input``; float32 stays beside half precision."""
    fits = tensor.dtype == input.dtype or (tensor.dtype == torch.float32 and input.dtype in checks.HALVES)
    return tensor if fits else tensor.to(input.dtype)


def groups_of(input: Tensor, group: int, group_channels: int) -> int:
    """``group``, if the channels of ``input`` are so many times ``group_channels``.

    Raises:
        ValueError: they are not.
    """
    checks.ndim("input", input, 4, "[N, H, W, C] (channels last)")
    if input.shape[3] != group * group_channels:
        raise ValueError(
            f"input: expected [N, H, W, C] with C = group * group_channels = {group} * {group_channels}, "
            f"got shape {list(input.shape)}; is it channels-last?"
        )
    return group
