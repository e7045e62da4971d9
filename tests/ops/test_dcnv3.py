"""DCNv3 and DCNv4: values, gradients, types, memory, degenerate positions, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.ops import dcnv3, dcnv4, deform_conv2d
from tests.ops.cases import BACKENDS, close
from tests.ops.dcnv3_cases import CASES, OPERATORS, Case, expected, gradients, in_batch, run_v3, run_v4

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_formula(name: str, operator: str, backend: str) -> None:
    case = CASES[name]
    tensors = case.tensors()
    close(OPERATORS[operator](case, tensors, backend), expected(case, tensors), torch.float64)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_gradients_on_the_cpu_are_those_of_the_reference(name: str, operator: str) -> None:
    pytest.importorskip("dcn.kernels.cpu._library")
    case, run = CASES[name], OPERATORS[operator]
    tensors = case.tensors()
    actual = gradients(lambda t: run(case, t, None), tensors)
    reference = gradients(lambda t: run(case, t, "reference"), tensors)
    for a, b in zip(actual, reference, strict=True):
        close(a, b, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["3x3", "awkward", "stride-dilation"])
def test_equals_a_deformable_convolution_with_one_channel_per_group(name: str, backend: str) -> None:
    case = CASES[name]
    (kh, kw), (dy, dx) = case.kernel, case.dilation
    rows, columns = case.out

    def as_convolution(tensors: list[Tensor]) -> Tensor:
        input, offset, mask = tensors
        channels = input.shape[3]
        # Columns outermost here, rows outermost there.
        offset = offset.reshape(-1, rows, columns, case.groups, kw, kh, 2).transpose(4, 5)
        mask = mask.reshape(-1, rows, columns, case.groups, kw, kh).transpose(4, 5)
        y = torch.arange(kh)[:, None] * dy - dy * (kh - 1) // 2
        x = torch.arange(kw)[None, :] * dx - dx * (kw - 1) // 2
        moved_y = case.scale * offset[..., 1] + (case.scale - 1) * y
        moved_x = case.scale * offset[..., 0] + (case.scale - 1) * x
        moved = torch.stack((moved_y, moved_x), -1).flatten(3).movedim(-1, 1)
        weight = torch.ones(channels, 1, kh, kw, dtype=input.dtype)
        output = deform_conv2d(
            *(input.movedim(-1, 1), moved, weight, None, case.stride, case.padding, case.dilation),
            mask.flatten(3).movedim(-1, 1),
            backend="reference",
        )
        return output.movedim(1, -1)

    tensors = case.tensors()
    actual = gradients(lambda t: run_v3(case, t, backend), tensors)
    for a, b in zip(actual, gradients(as_convolution, tensors), strict=True):
        close(a, b, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("name", ["3x3", "softmax", "wide-groups", "column"])
def test_other_types(name: str, dtype: torch.dtype, operator: str, backend: str) -> None:
    case, run = CASES[name], OPERATORS[operator]
    tensors = case.tensors(dtype)
    actual = gradients(lambda t: run(case, t, backend), tensors)
    assert all(t.dtype == dtype for t in actual)
    reference = gradients(lambda t: run(case, t, "reference"), [t.double() for t in tensors])
    for a, b in zip(actual, reference, strict=True):
        close(a, b, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_float32_coordinates_beside_half_data(dtype: torch.dtype, operator: str, backend: str) -> None:
    case, run = Case((3, 300), padding=(1, 1), batch=1), OPERATORS[operator]
    input, offset, mask = case.tensors(torch.float32)
    tensors = [input.to(dtype), offset, mask if operator == "dcnv4" else mask.to(dtype)]
    actual = gradients(lambda t: run(case, t, backend), tensors)
    assert [t.dtype for t in actual[:3]] == [dtype, dtype, torch.float32]
    reference = gradients(lambda t: run(case, t, "reference"), [t.double() for t in tensors])
    for a, b in zip(actual, reference, strict=True):
        close(a, b, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_any_memory_layout(operator: str, backend: str) -> None:
    case, run = CASES["3x3"], OPERATORS[operator]
    tensors = case.tensors()
    other = [t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) for t in tensors]
    assert not any(t.is_contiguous() for t in other)
    actual, reference = (gradients(lambda t: run(case, t, backend), t) for t in (other, tensors))
    for a, b in zip(actual, reference, strict=True):
        close(a, b, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("batch", [0, 1, 33])
def test_any_batch(batch: int, operator: str, backend: str) -> None:
    case, run = in_batch(CASES["3x3"], batch), OPERATORS[operator]
    tensors = case.tensors()
    actual = gradients(lambda t: run(case, t, backend), tensors)
    assert actual[0].shape == (batch, *case.out, 6)
    single = [gradients(lambda t: run(case, t, backend), [t[i : i + 1] for t in tensors])[0] for i in range(batch)]
    if single:
        close(actual[0], torch.cat(single), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30], ids=str)
def test_positions_that_are_none_contribute_nothing(value: float, operator: str, backend: str) -> None:
    case, run = CASES["3x3"], OPERATORS[operator]
    input, offset, mask = case.tensors(torch.float32)
    spoiled, without = offset.clone(), mask.clone()
    spoiled[:, 2, 3, 0], spoiled[:, 2, 3, 21] = value, value  # x of the first tap, y of another group's second
    without[:, 2, 3, 0], without[:, 2, 3, 10] = 0, 0
    actual = gradients(lambda t: run(case, t, backend), [input, spoiled, mask])
    reference = gradients(lambda t: run(case, t, backend), [input, offset, without])
    for position in (0, 1):
        close(actual[position], reference[position], torch.float32)
    assert not actual[2][:, 2, 3, [0, 1, 20, 21]].any()
    assert not actual[3][:, 2, 3, [0, 10]].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_nothing_beyond_the_corners_is_read(operator: str, backend: str) -> None:
    """A NaN pixel reaches the locations that touch it and no other; a NaN mask of a tap outside does not count."""
    case, run = Case((6, 6), batch=1), OPERATORS[operator]
    input, offset, mask = case.tensors()
    offset *= 0.0
    offset += 0.25
    clean = run(case, [input, offset, mask], backend)
    input[0, 0, 0], offset[0, 3, 3, :2], mask[0, 3, 3, 0] = math.nan, 100.0, math.nan
    actual = run(case, [input, offset, mask], backend)
    touched = torch.zeros(6, 6, dtype=torch.bool)
    touched[:2, :2] = True
    assert torch.equal(actual[0].isnan().all(-1), touched)
    untouched = ~touched
    untouched[3, 3] = False
    close(actual[0][untouched], clean[0][untouched], torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_slopes_at_exactly_minus_one_are_zero(operator: str, backend: str) -> None:
    """Where the padded layers of a new model start. At whole coordinates elsewhere the slope is right-sided."""
    case, run = Case((2, 3), (1, 1), padding=(1, 1), groups=1, depth=1, batch=1), OPERATORS[operator]
    input = torch.tensor([[1.0, 10.0, 100.0], [3.0, 30.0, 300.0]], dtype=torch.float64).reshape(1, 2, 3, 1)
    offset, mask = torch.zeros(1, 4, 5, 2, dtype=torch.float64), torch.ones(1, 4, 5, 1, dtype=torch.float64)
    _, by_input, by_offset, by_mask = gradients(
        lambda t: run(case, t, backend), [input, offset, mask], torch.ones(1, 4, 5, 1, dtype=torch.float64)
    )
    slopes = by_offset[0].reshape(4, 5, 2)
    assert not slopes[0].any()
    assert not slopes[:, 0].any()
    assert slopes[1:3, 1:4, 0].tolist() == [[9.0, 90.0, -100.0], [27.0, 270.0, -300.0]]
    assert slopes[1:3, 1:4, 1].tolist() == [[2.0, 20.0, 200.0], [-3.0, -30.0, -300.0]]
    assert by_mask[0, 1:3, 1:4, 0].tolist() == input[0, ..., 0].tolist()
    assert by_input.eq(1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_that_nobody_owns_have_no_gradient(backend: str) -> None:
    case = CASES["3x3"]
    input, offset, mask = case.tensors()
    fused = case.fused(offset, mask).requires_grad_()
    fused.data[..., -5:] = math.nan
    output = dcnv4(input, fused, 3, padding=1, groups=2, backend=backend)
    (gradient,) = torch.autograd.grad(output.sum(), fused)
    assert output.isfinite().all()
    assert not gradient[..., -5:].any()
    assert gradient[..., :-5].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", ["input", "offset", "mask"])
def test_gradients_of_single_tensors(which: str, backend: str) -> None:
    case, position = CASES["softmax"], ["input", "offset", "mask"].index(which)
    tensors = case.tensors()
    reference = gradients(lambda t: run_v3(case, t, backend), tensors)[1 + position]
    tensors[position].requires_grad_()
    output = run_v3(case, tensors, backend)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    (actual,) = torch.autograd.grad(output, tensors[position], grad)
    close(actual, reference, torch.float64)


@pytest.mark.parametrize("logit", [1e4, -1e4, -math.inf], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_softmax_of_extreme_logits(logit: float, backend: str) -> None:
    case = CASES["softmax"]
    input, offset, mask = case.tensors(torch.float32)
    mask[..., 4] = logit
    actual = gradients(lambda t: run_v4(case, t, backend), [input, offset, mask])
    reference = gradients(lambda t: run_v3(case, t, "reference"), [input, offset, mask])
    for a, b in zip(actual, reference, strict=True):
        assert a.isfinite().all()
        close(a, b, torch.float32)


def _refused(**changes: Any) -> str:
    case = CASES["3x3"]
    input, offset, mask = case.tensors()
    options: dict[str, Any] = {"input": input, "offset": offset, "mask": mask, **case.options(), **changes}
    with pytest.raises(ValueError, match=":") as error:
        dcnv3(**options)
    return str(error.value)


WRONG: dict[str, dict[str, Any]] = {
    "input": {"input": torch.zeros(2, 6, 5, 6)},
    "groups": {"groups": 4},
    "offset": {"offset": torch.zeros(2, 5, 6, 35, dtype=torch.float64)},
    "mask": {"mask": torch.zeros(2, 5, 6, 18)},
    "kernel_size": {"kernel_size": 0},
    "stride": {"stride": (1, 2, 3)},
    "padding": {"padding": -1},
    "dilation": {"dilation": 0.5},
    "offset_scale": {"offset_scale": math.nan},
    "remove_center": {"kernel_size": 1, "remove_center": True},
    "softmax": {"softmax": 1},
    "backend": {"backend": "cuda"},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_name_the_argument(name: str) -> None:
    message = _refused(**WRONG[name])
    assert message.startswith(("offset" if name == "input" else name) + ":")
    assert "expected" in message
    assert "got" in message


def test_channels_first_maps_are_refused_with_a_hint() -> None:
    assert "channels-last" in _refused(input=torch.zeros(2, 6, 5, 7, dtype=torch.float64))


def test_dcnv4_refuses_too_few_channels() -> None:
    input, offset_mask = torch.zeros(1, 4, 4, 6), torch.zeros(1, 4, 4, 53)
    with pytest.raises(ValueError, match=r"offset_mask: expected at least 54 channels \(3 \* 2 groups \* 9 taps\)"):
        dcnv4(input, offset_mask, 3, padding=1, groups=2)


def test_dcnv4_refuses_another_size() -> None:
    input, offset_mask = torch.zeros(1, 4, 4, 6), torch.zeros(1, 4, 3, 56)
    with pytest.raises(ValueError, match=r"offset_mask: expected shape \[1, 4, 4, 56\]"):
        dcnv4(input, offset_mask, 3, padding=1, groups=2)


def test_a_map_that_is_too_small_is_refused() -> None:
    assert "at least one output location" in _refused(padding=0, dilation=3)
