"""Multi-scale deformable attention inside torch: derivatives, compiler, export, transforms, autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dcn.ops import ms_deform_attn
from tests.ops.attn_cases import CASES, Attn, make, output_gradient
from tests.ops.cases import BACKENDS, close

EACH = pytest.mark.parametrize("backend", BACKENDS)
SMALL = Attn(((2, 3), (2, 1)), batch=2, queries=2, heads=2, channels=2, points=1)
SHAPES, STARTS = make(SMALL).shapes, make(SMALL).starts


def _function(backend: str | None) -> Callable[..., Tensor]:
    return lambda value, locations, weights: ms_deform_attn(value, SHAPES, STARTS, locations, weights, backend=backend)


def _leaves(seed: int = 0) -> tuple[Tensor, ...]:
    return tuple(make(SMALL, seed=seed).leaves())


def _tensors(seed: int = 0) -> tuple[Tensor, ...]:
    return tuple(t.detach() for t in _leaves(seed))


@EACH
def test_gradcheck_and_gradgradcheck(backend: str) -> None:
    assert torch.autograd.gradcheck(
        _function(backend), _leaves(), fast_mode=True, check_batched_grad=True, check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(_function(backend), _leaves(), fast_mode=True, check_fwd_over_rev=True)


@EACH
@pytest.mark.parametrize("name", ["awkward", "no-images", "no-queries"])
def test_opcheck(name: str, backend: str) -> None:
    args = make(CASES[name])
    leaves = args.leaves()
    call = (leaves[0], args.shapes, args.starts, *leaves[1:], backend)
    torch.library.opcheck(torch.ops.dcn.ms_deform_attn.default, call)


@EACH
def test_opcheck_of_the_backward(backend: str) -> None:
    call = (output_gradient(CASES["awkward"]), *make(CASES["awkward"]), backend, [True, False, False, True, True])
    torch.library.opcheck(
        torch.ops.dcn.ms_deform_attn_backward.default, call, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("listed", [True, False], ids=["pairs", "tensor"])
def test_compile_fullgraph_with_gradients(listed: bool) -> None:
    args = make(CASES["awkward"], dtype=torch.float32)
    shapes = [tuple(pair) for pair in args.shapes.tolist()] if listed else args.shapes

    def function(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, shapes, None if listed else args.starts, locations, weights).relu()

    def gradients(of: Callable[..., Tensor]) -> list[Tensor]:
        leaves = args.leaves()
        output = of(*leaves)
        return [output, *torch.autograd.grad(output.square().sum(), leaves)]

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(gradients(compiled), gradients(function), strict=True):
        close(actual, expected, torch.float32)


class _Net(torch.nn.Module):
    def forward(self, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, shapes, starts, locations, weights)


def test_export_with_dynamic_sizes() -> None:
    sizes = {name: torch.export.Dim(name, min=2, max=1000) for name in ("n", "s", "q")}
    n, s, q = sizes["n"], sizes["s"], sizes["q"]
    dynamic = ({0: n, 1: s}, None, None, {0: n, 1: q}, {0: n, 1: q})
    program = torch.export.export(_Net(), tuple(make(CASES["awkward"])), dynamic_shapes=dynamic)
    assert "dcn.ms_deform_attn" in str(program.graph)
    other = make(Attn(((5, 5), (3, 4), (2, 2)), batch=3, queries=9))
    close(program.module()(*other), _Net()(*other), torch.float64)


def test_meta_tensors_give_the_shape() -> None:
    args = [t.to("meta") for t in make(CASES["awkward"])]
    output = ms_deform_attn(*args)
    assert output.is_meta
    assert output.shape == (2, 5, 18)


@EACH
@pytest.mark.parametrize("mapped", [(0,), (1,), (1, 2), (0, 1, 2)], ids=str)
def test_vmap_of_values_and_gradients(mapped: tuple[int, ...], backend: str) -> None:
    sets = [_tensors(seed) for seed in range(3)]
    stacked = [torch.stack([s[i] for s in sets]) if i in mapped else sets[0][i] for i in range(3)]
    dims = tuple(0 if i in mapped else None for i in range(3))

    def loss(*tensors: Tensor) -> Tensor:
        return _function(backend)(*tensors).square().sum()

    gradients = torch.func.grad(loss, argnums=(0, 1, 2))
    actual = torch.func.vmap(gradients, in_dims=dims)(*stacked)
    values = torch.func.vmap(_function(backend), in_dims=dims)(*stacked)
    for index in range(3):
        own = [s[index] if i in mapped else s for i, s in enumerate(stacked)]
        close(values[index], _function(backend)(*own), torch.float64)
        for a, b in zip(actual, gradients(*own), strict=True):
            close(a[index], b, torch.float64)


def test_levels_of_each_call_are_refused() -> None:
    args = make(SMALL)
    many = args.shapes.expand(3, -1, -1)
    with pytest.raises(ValueError, match="spatial_shapes"):
        torch.func.vmap(lambda shapes: ms_deform_attn(args[0], shapes, args.starts, *args[3:]))(many)


@EACH
def test_jvp_is_the_transpose_of_the_gradient(backend: str) -> None:
    args, tangents = _tensors(), _tensors(5)
    output, actual = torch.func.jvp(_function(backend), args, tangents)[:2]
    grad = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pull = torch.func.vjp(_function(backend), *args)[1]
    paired = sum((g * t).sum() for g, t in zip(pull(grad), tangents, strict=True))
    close((actual * grad).sum(), torch.as_tensor(paired), torch.float64)


@pytest.mark.parametrize("index", range(3), ids=["value", "locations", "weights"])
def test_hessians(index: int) -> None:
    args = _tensors()

    def loss(tensor: Tensor) -> Tensor:
        return _function(None)(*args[:index], tensor, *args[index + 1 :]).pow(3).sum()

    expected = torch.autograd.functional.hessian(loss, args[index])
    close(torch.func.hessian(loss)(args[index]), expected, torch.float64)


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("direct", [False, True], ids=["function", "registered"])
def test_autocast_casts_data_and_keeps_coordinates(direct: bool, dtype: torch.dtype, backend: str) -> None:
    args = make(CASES["awkward"], dtype=torch.float32)
    expected = ms_deform_attn(*args.to(dtype, torch.float32), backend=backend)
    leaf = args.value.clone().requires_grad_()
    with torch.autocast("cpu", dtype):
        if direct:
            actual = torch.ops.dcn.ms_deform_attn(leaf, *args[1:], backend)
        else:
            actual = ms_deform_attn(leaf, *args[1:], backend=backend)
    assert torch.equal(actual, expected)
    actual.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32
