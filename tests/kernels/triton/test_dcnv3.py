"""DCNv3 and DCNv4 in Triton against the plain PyTorch one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dcn.kernels.dcnv3_geometry import Geometry
from dcn.kernels.triton import dcnv3 as triton
from tests.ops.cases import close
from tests.ops.dcnv3_cases import CASES, OPERATORS, Case, gradients, in_batch, run_v3

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NAMES = ["3x3", "awkward", "remove-center", "softmax", "1x1", "one-pixel"]


def _by(case: Case, backend: str) -> Callable[[list[Tensor]], Tensor]:
    return lambda tensors: run_v3(case, tensors, backend)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_reference(name: str, operator: str, device: torch.device) -> None:
    case, run = CASES[name], OPERATORS[operator]
    tensors = [t.to(device) for t in case.tensors()]
    actual = gradients(lambda t: run(case, t, "triton"), tensors)
    for a, b in zip(actual, gradients(lambda t: run(case, t, "reference"), tensors), strict=True):
        close(a, b, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_other_types(operator: str, dtype: torch.dtype, device: torch.device) -> None:
    case, run = CASES["softmax"], OPERATORS[operator]
    tensors = [t.to(device) for t in case.tensors(dtype)]
    actual = gradients(lambda t: run(case, t, "triton"), tensors)
    expected = gradients(lambda t: run(case, t, "reference"), [t.double() for t in tensors])
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        close(a, b, dtype)


@pytest.mark.parametrize("depth", [1, 5, 16, 130])
def test_any_number_of_channels(depth: int, device: torch.device) -> None:
    case = Case((2, 3), (2, 2), groups=2, depth=depth, batch=1)
    tensors = [t.to(device) for t in case.tensors()]
    actual = gradients(lambda t: OPERATORS["dcnv4"](case, t, "triton"), tensors)
    expected = gradients(lambda t: OPERATORS["dcnv4"](case, t, "reference"), tensors)
    for a, b in zip(actual, expected, strict=True):
        close(a, b, torch.float64)


@pytest.mark.parametrize("softmax", [False, True], ids=["plain", "softmax"])
def test_the_same_bits_in_deterministic_mode(softmax: bool, device: torch.device) -> None:
    case = Case((4, 4), groups=1, depth=2, batch=1, softmax=softmax)
    tensors = [t.to(device) for t in case.tensors(torch.float32)]
    run = OPERATORS["dcnv4"]
    torch.use_deterministic_algorithms(True)
    try:
        first, again = (gradients(lambda t: run(case, t, "triton"), tensors) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for a, b in zip(first, gradients(lambda t: run(case, t, "reference"), tensors), strict=True):
        close(a, b, torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30], ids=str)
def test_positions_that_are_none_contribute_nothing(value: float, device: torch.device) -> None:
    case = CASES["3x3"]
    tensors = [t.to(device) for t in case.tensors(torch.float32)]
    tensors[1][:, 2, 3, 0] = value
    actual, expected = (gradients(_by(case, b), tensors) for b in ("triton", "reference"))
    for a, b in zip(actual, expected, strict=True):
        close(a, b, torch.float32)


def test_no_images(device: torch.device) -> None:
    case, run = in_batch(CASES["3x3"], 0), OPERATORS["dcnv3"]
    actual = gradients(lambda t: run(case, t, "triton"), [t.to(device) for t in case.tensors(torch.float32)])
    assert actual[0].shape == (0, 5, 6, 6)


def test_too_large_a_map_is_refused_with_a_reason() -> None:
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1, 1.0, False, False)
    huge = torch.empty(1).expand(1, 2**16, 2**15, 1)
    assert "2**31 pixels" in str(triton.unsupported(huge, huge, huge, geometry))
