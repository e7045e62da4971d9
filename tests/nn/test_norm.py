"""Frozen batch normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dcn.nn import FrozenBatchNorm2d


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_batch_norm_in_evaluation(dtype: torch.dtype) -> None:
    live = nn.BatchNorm2d(5).to(dtype)
    for tensor in (live.weight, live.bias, live.running_mean):
        nn.init.normal_(tensor)  # type: ignore[arg-type]
    nn.init.uniform_(live.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    frozen = FrozenBatchNorm2d(5, dtype=dtype)
    frozen.load_state_dict(live.state_dict())
    x = torch.randn(2, 5, 4, 3, dtype=dtype)
    torch.testing.assert_close(frozen.train()(x), live.eval()(x))
    assert not list(frozen.parameters())


def test_keeps_half_precision_and_memory_format() -> None:
    x = torch.randn(2, 8, 4, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    output = FrozenBatchNorm2d(8)(x)
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)
