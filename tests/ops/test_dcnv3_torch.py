"""DCNv3 and DCNv4 inside torch: derivatives, compiler, export, transforms, autocast, deterministic mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcn.ops import dcnv3, dcnv4
from tests.ops.cases import BACKENDS, close
from tests.ops.dcnv3_cases import CASES, OPERATORS, SMALL, Case, gradients, in_batch, run_v3

CHECKED = {"small": SMALL, "softmax": Case((3, 3), (2, 2), softmax=True, remove_center=True, depth=2, batch=1)}
OPTIONS = ([3, 3], [1, 1], [1, 1], [1, 1], 2, 1.0, False, True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CHECKED)
def test_gradcheck_and_gradgradcheck(name: str, operator: str, backend: str) -> None:
    case, run = CHECKED[name], OPERATORS[operator]

    def function(*tensors: Tensor) -> Tensor:
        return run(case, list(tensors), backend)

    leaves = tuple(t.requires_grad_() for t in case.tensors())
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True, check_fwd_over_rev=True)


def _registered(operator: str, batch: int) -> tuple[object, list[Tensor]]:
    case = in_batch(CASES["softmax"], batch)
    input, offset, mask = case.tensors()
    tensors = [input, offset, mask] if operator == "dcnv3" else [input, case.fused(offset, mask)]
    return getattr(torch.ops.dcn, operator).default, [t.requires_grad_() for t in tensors]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_opcheck(batch: int, operator: str, backend: str) -> None:
    registered, tensors = _registered(operator, batch)
    torch.library.opcheck(registered, (*tensors, *OPTIONS, backend))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_opcheck_of_the_backward(operator: str, backend: str) -> None:
    _, tensors = _registered(operator, 2)
    backward = getattr(torch.ops.dcn, f"{operator}_backward").default
    args = (torch.randn_like(tensors[0]), *(t.detach() for t in tensors), *OPTIONS, backend, [True] * len(tensors))
    torch.library.opcheck(backward, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("operator", OPERATORS)
def test_compile_fullgraph_with_gradients(operator: str) -> None:
    case, run = CASES["softmax"], OPERATORS[operator]
    tensors = case.tensors(torch.float32)

    def function(tensors: list[Tensor]) -> Tensor:
        return run(case, tensors, None).relu()

    torch._dynamo.reset()
    actual = gradients(torch.compile(function, fullgraph=True, backend="aot_eager"), tensors)
    for a, b in zip(actual, gradients(function, tensors), strict=True):
        close(a, b, torch.float32)


class _Net(torch.nn.Module):
    def forward(self, input: Tensor, offset: Tensor, mask: Tensor, fused: Tensor) -> Tensor:
        return dcnv4(dcnv3(input, offset, mask, 3, padding=1, groups=2), fused, 3, padding=1, groups=2)


def test_export_with_dynamic_batch() -> None:
    def example(batch: int) -> tuple[Tensor, ...]:
        case = in_batch(CASES["3x3"], batch)
        input, offset, mask = case.tensors(torch.float32)
        return input, offset, mask, case.fused(offset, mask)

    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(_Net(), example(3), dynamic_shapes=({0: batch},) * 4)
    assert "dcn.dcnv3" in str(program.graph)
    assert "dcn.dcnv4" in str(program.graph)
    close(program.module()(*example(5)), _Net()(*example(5)), torch.float32)


@pytest.mark.parametrize("operator", OPERATORS)
def test_meta_tensors_give_the_shape(operator: str) -> None:
    case, run = CASES["awkward"], OPERATORS[operator]
    output = run(case, [t.to("meta") for t in case.tensors()], None)
    assert output.is_meta
    assert output.shape == run(case, case.tensors(), None).shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mapped", [(0,), (1,), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_vmap(operator: str, mapped: tuple[int, ...], backend: str) -> None:
    case, run = CASES["softmax"], OPERATORS[operator]
    sets = [case.tensors(seed=seed) for seed in range(3)]
    stacked = [torch.stack([s[i] for s in sets]) if i in mapped else sets[0][i] for i in range(3)]
    dims = tuple(0 if i in mapped else None for i in range(3))
    actual = torch.func.vmap(lambda *t: run(case, list(t), backend), in_dims=dims)(*stacked)
    calls = [[s[i] if i in mapped else sets[0][i] for i in range(3)] for s in sets]
    close(actual, torch.stack([run(case, c, backend) for c in calls]), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_per_sample_gradients(operator: str, backend: str) -> None:
    case, run = CASES["softmax"], OPERATORS[operator]
    input, offset, mask = case.tensors()

    def loss(offset: Tensor, input: Tensor) -> Tensor:
        return run(case, [input[None], offset[None], mask[:1]], backend).square().sum()

    actual = torch.func.vmap(torch.func.grad(loss), in_dims=(0, 0))(offset, input)
    expected = [torch.func.grad(loss)(offset[i], input[i]) for i in range(2)]
    close(actual, torch.stack(expected), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_jvp_is_the_transpose_of_the_gradient(operator: str, backend: str) -> None:
    case, run = CASES["softmax"], OPERATORS[operator]
    args, tangents = tuple(case.tensors()), tuple(case.tensors(seed=5))

    def function(*tensors: Tensor) -> Tensor:
        return run(case, list(tensors), backend)

    output, actual = torch.func.jvp(function, args, tangents)[:2]
    grad = torch.randn(output.shape, dtype=torch.float64)
    pull = torch.func.vjp(function, *args)[1]
    paired = sum((g * t).sum() for g, t in zip(pull(grad), tangents, strict=True))
    close((actual * grad).sum(), torch.as_tensor(paired), torch.float64)


@pytest.mark.parametrize("operator", OPERATORS)
def test_hessians_of_all_modes_agree(operator: str) -> None:
    case, run = SMALL, OPERATORS[operator]
    input, offset, mask = case.tensors()

    def loss(offset: Tensor) -> Tensor:
        return run(case, [input, offset, mask], None).pow(3).sum()

    expected = torch.autograd.functional.hessian(loss, offset)
    for hessian in (torch.func.hessian(loss), torch.func.jacrev(torch.func.jacrev(loss))):
        close(hessian(offset), expected, torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_autocast_keeps_coordinates(operator: str, dtype: torch.dtype) -> None:
    case, run = CASES["3x3"], OPERATORS[operator]
    tensors = case.tensors(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        actual = gradients(lambda t: run(case, t, None), tensors)
    assert [t.dtype for t in actual] == [dtype, torch.float32, torch.float32, torch.float32]
    rounded = [tensors[0].to(dtype), tensors[1], tensors[2].to(dtype) if operator == "dcnv3" else tensors[2]]
    close(actual[0], run_v3(case, rounded, "reference"), dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_same_bits_for_any_number_of_threads(operator: str, backend: str) -> None:
    case, run = Case((23, 19), groups=1, depth=5, batch=1, softmax=True), OPERATORS[operator]
    tensors, before = case.tensors(torch.float32), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            results.append(gradients(lambda t: run(case, t, backend), tensors))
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
