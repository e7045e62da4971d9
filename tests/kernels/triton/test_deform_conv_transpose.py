"""Transposed deformable convolution on the Triton kernels of deformable convolution, interpreted or on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.cases import close
from tests.ops.transpose_cases import CASES, Case


def _results(case: Case, tensors: list[Tensor], backend: str) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in tensors]
    output = case.run(leaves, backend)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), leaves)]


@pytest.mark.parametrize("name", ["awkward", "mask-groups", "depthwise", "1d", "3d"])
def test_values_and_gradients_equal_the_reference(name: str, device: torch.device) -> None:
    tensors = [t.to(device) for t in CASES[name].tensors()]
    expected = _results(CASES[name], tensors, "reference")
    for got, want in zip(_results(CASES[name], tensors, "triton"), expected, strict=True):
        close(got, want, torch.float64)
