"""Two thousand random calls against onnxruntime, two thousand against ONNX's own evaluator (an hour: it is Python)."""

from __future__ import annotations

import pytest
import torch

from tests.ops.random_calls import random_call
from tests.ops.test_deform_conv_foreign import onnxruntime_output, reference_output


@pytest.mark.parametrize("block", range(20))
@pytest.mark.parametrize("backend", ["reference", None], ids=["reference", "fastest"])
def test_onnxruntime_agrees(block: int, backend: str | None) -> None:
    errors = []
    for seed in range(100 * block, 100 * block + 100):
        call = random_call(seed)
        errors.append((call.run(backend) - onnxruntime_output(call)).abs().max().item())
    assert max(errors) < 1e-4, f"seed {100 * block + errors.index(max(errors))}"


@pytest.mark.parametrize("seed", range(5000, 7000))
def test_onnx_reference_evaluator_agrees(seed: int) -> None:
    call = random_call(seed, largest=4, smallest=2)
    torch.testing.assert_close(call.run(None), reference_output(call).float(), rtol=1e-4, atol=1e-4)
