"""Transposed deformable convolution: values, gradients, torch's transforms, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv_transpose1d, conv_transpose2d, conv_transpose3d

from dcn.ops import deform_conv2d, deform_conv_transpose2d
from tests.ops.cases import BACKENDS, close
from tests.ops.transpose_cases import AWKWARD, CASES, SQUARE, Case, expected

PLAIN = {1: conv_transpose1d, 2: conv_transpose2d, 3: conv_transpose3d}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_loop(name: str, backend: str) -> None:
    tensors = CASES[name].tensors()
    close(CASES[name].run(tensors, backend), torch.from_numpy(expected(CASES[name], tensors)), torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_type(backend: str, dtype: torch.dtype) -> None:
    tensors = AWKWARD.tensors(dtype)
    output = AWKWARD.run(tensors, backend)
    assert output.dtype == dtype
    close(output, torch.from_numpy(expected(AWKWARD, tensors)), dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_zero_offsets_are_an_ordinary_transposed_convolution(name: str, backend: str) -> None:
    case = CASES[name]
    x, offset, weight, bias, _ = case.tensors()
    geometry = (case.stride, case.padding, case.output_padding, case.groups, case.dilation)
    plain = PLAIN[case.n](x, weight, bias, *geometry)
    close(case.run([x, torch.zeros_like(offset), weight, bias, None], backend), plain, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_adjoint_of_deformable_convolution(backend: str) -> None:
    x, offset, weight, _, mask = SQUARE.tensors()
    y = torch.randn(SQUARE.batch, SQUARE.outputs, *SQUARE.out, dtype=torch.float64)
    forth = deform_conv2d(y, offset, weight, None, 1, 1, 1, mask, backend=backend)
    back = SQUARE.run([x, offset, weight, None, mask], backend)
    torch.testing.assert_close((forth * x).sum(), (back * y).sum())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["square", "awkward", "mask-groups", "1d", "3d"])
def test_gradcheck_and_gradgradcheck(name: str, backend: str) -> None:
    case = CASES[name]
    leaves = tuple(t.requires_grad_() for t in case.tensors())

    def function(*tensors: Tensor) -> Tensor:
        return case.run(tensors, backend)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def _gradients(case: Case, tensors: list[Tensor], backend: str | None) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in tensors]
    output = case.run(leaves, backend)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), leaves)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_last_in_and_out(backend: str) -> None:
    tensors = AWKWARD.tensors()
    last = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
    for got, want in zip(_gradients(AWKWARD, last, backend), _gradients(AWKWARD, tensors, backend), strict=True):
        close(got, want, torch.float64)
    assert AWKWARD.run(last, backend).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("backend", BACKENDS)
def test_offsets_that_lead_nowhere_add_nothing(backend: str, bad: float) -> None:
    tensors = SQUARE.tensors()
    tensors[1].fill_(bad)
    output, *gradients = _gradients(SQUARE, tensors, backend)
    close(output, tensors[3].view(1, -1, 1, 1).expand_as(output), torch.float64)
    assert not any(gradient.any() for gradient in (gradients[0], gradients[1], gradients[2], gradients[4]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_opcheck(batch: int, backend: str) -> None:
    case = Case((3, 4), (2, 2), (2, 2), (0, 0), (1, 0), (1, 1), batch=batch)
    x, offset, weight, bias, mask = (t.requires_grad_() for t in case.tensors())
    registered = torch.ops.dcn.deform_conv_transpose.default
    options = ([2, 2], [0, 0], [1, 0], [1, 1], "v2", backend)
    grouped = weight.detach().unflatten(0, (case.groups, -1)).requires_grad_()
    torch.library.opcheck(registered, (x, offset, grouped, bias, mask, *options))


def test_compile_fullgraph_with_gradients() -> None:
    tensors = AWKWARD.tensors(torch.float32)
    torch._dynamo.reset()
    leaves = [t.clone().requires_grad_() for t in tensors]
    compiled = torch.compile(lambda *t: AWKWARD.run(t), fullgraph=True, backend="aot_eager")
    output = compiled(*leaves)
    actual = [output.detach(), *torch.autograd.grad(output.square().sum(), leaves)]
    for got, want in zip(actual, _gradients(AWKWARD, tensors, None), strict=True):
        close(got, want, torch.float32)


class _Net(torch.nn.Module):
    def forward(self, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return deform_conv_transpose2d(x, offset, weight, None, 2, 1)


def test_export_with_dynamic_batch() -> None:
    def example(batch: int) -> tuple[Tensor, ...]:
        return torch.randn(batch, 2, 4, 5), torch.randn(batch, 18, 4, 5), torch.randn(2, 3, 3, 3)

    size = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(_Net(), example(3), dynamic_shapes=({0: size}, {0: size}, None))
    assert "dcn.deform_conv_transpose" in str(program.graph)
    inputs = example(5)
    close(program.module()(*inputs), _Net()(*inputs), torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mapped", [(0,), (1, 4), (2, 3), (0, 1, 2, 3, 4)], ids=str)
def test_vmap(mapped: tuple[int, ...], backend: str) -> None:
    case = Case((3, 3), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1))
    sets = [case.tensors(seed=seed) for seed in range(3)]
    stacked = [torch.stack([s[i] for s in sets]) if i in mapped else sets[0][i] for i in range(5)]
    dims = tuple(0 if i in mapped else None for i in range(5))
    output = torch.func.vmap(lambda *t: case.run(t, backend), in_dims=dims)(*stacked)
    calls = [[s[i] if i in mapped else sets[0][i] for i in range(5)] for s in sets]
    close(output, torch.stack([case.run(c, backend) for c in calls]), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_offsets(backend: str) -> None:
    x, offset, weight, bias, mask = AWKWARD.tensors(torch.float32)
    offset.add_(1000.3).sub_(1000)
    with torch.autocast("cpu", torch.bfloat16):
        output = AWKWARD.run([x, offset, weight, bias, mask], backend)
    assert output.dtype == torch.bfloat16
    halves = [x.bfloat16(), offset, weight.bfloat16(), bias.bfloat16(), mask.bfloat16()]
    close(output, AWKWARD.run(halves, backend), torch.bfloat16)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    case = Case((20, 22), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), channels=24, outputs=18)
    tensors = case.tensors(torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = _gradients(case, tensors, None)
        torch.set_num_threads(threads)
        several = _gradients(case, tensors, None)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, several, strict=True))


X, OFFSET, WEIGHT = torch.randn(2, 4, 5, 6), torch.randn(2, 18, 5, 6), torch.randn(4, 3, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": X[0]}, "input: expected 4 axes"),
        ({"input": X.long()}, "input: expected float16"),
        ({"input": X.to_sparse()}, "input: expected a dense tensor"),
        ({"offset": OFFSET[:, :17]}, "offset: expected 2"),
        ({"offset": OFFSET[:, :, :4]}, "offset: expected shape"),
        ({"offset": OFFSET.double()}, "offset: expected torch.float32"),
        ({"weight": WEIGHT[0]}, "weight: expected 4 axes"),
        ({"weight": WEIGHT[:3]}, "weight: expected"),
        ({"weight": WEIGHT[..., :0]}, "weight: expected at least 1"),
        ({"bias": torch.randn(4)}, "bias: expected shape"),
        ({"mask": torch.rand(2, 8, 5, 6)}, "mask: expected M"),
        ({"mask": torch.rand(2, 18, 5, 6)}, "mask: expected M"),
        ({"mask": torch.rand(2, 9, 5, 5)}, "mask: expected shape"),
        ({"groups": 3}, "groups: expected a divisor"),
        ({"stride": 0}, "stride: expected"),
        ({"output_padding": 1}, "output_padding: expected less than"),
        ({"padding": 4}, "at least one output pixel"),
        ({"dilation": (1, 2, 3)}, "dilation: expected"),
        ({"boundary": "v3"}, "boundary: expected"),
        ({"backend": "cuda"}, "backend: expected"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refusals(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"input": X, "offset": OFFSET, "weight": WEIGHT} | change
    with pytest.raises(ValueError, match=message):
        deform_conv_transpose2d(**arguments)  # type: ignore[arg-type]
