"""Batch normalisation with fixed statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcn import checks


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics, scale and shift never change: one multiplication and one addition.

    Detectors are trained with few images per device, so they keep the statistics of the classification network. All
    four tensors are buffers under the key names of ``nn.BatchNorm2d``; its ``num_batches_tracked`` is ignored.

    Args:
        num_features: channels ``C``.
        eps: added to the variance.
        device: where the buffers live.
        dtype: their type.

    Raises:
        ValueError: ``num_features`` is not at least 1, or ``eps`` not above 0.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        checks.whole("num_features", num_features, 1)
        checks.number("eps", eps, above=0.0)
        self.num_features, self.eps = num_features, eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), value, device=device, dtype=dtype))
        self.register_load_state_dict_pre_hook(_drop_counter)

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the same shape and type."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(
            shift.to(input.dtype).reshape(1, -1, 1, 1), input, scale.to(input.dtype).reshape(1, -1, 1, 1)
        )

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"{self.num_features}, eps={self.eps}"


def _drop_counter(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    state_dict.pop(f"{prefix}num_batches_tracked", None)
