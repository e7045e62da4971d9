"""Deformable convolution inside torch: derivatives, compiler, export, transforms, autocast."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from dcn.kernels.reference import deform_conv as reference
from dcn.nn import DeformConv2d
from dcn.ops import deform_conv2d
from tests.ops.cases import AWKWARD, BACKENDS, BOUNDARIES, SHAPES, Shape, call, close, make

SMALL = Shape((4, 3), (3, 2), (2, 1), (1, 0), (1, 1), channels=4, outputs=2, groups=2, offset_groups=2, batch=1)
NAMES = ("input", "offset", "weight", "bias", "mask")
CHECKED = {"small": SMALL, "1d": SHAPES["1d"], "3d": SHAPES["3d"]}


def _leaves(shape: Shape) -> tuple[Tensor, ...]:
    return tuple(t.requires_grad_() for t in make(shape).tensors if t is not None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("shape", CHECKED.values(), ids=CHECKED.keys())
def test_gradcheck_and_gradgradcheck(shape: Shape, mask: bool, boundary: str, backend: str) -> None:
    def function(*args: Tensor) -> Tensor:
        return call(shape, args if mask else (*args, None), boundary, backend)

    leaves = _leaves(shape)[: 5 if mask else 4]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no-mask"])
def test_opcheck(mask: bool, batch: int, boundary: str, backend: str) -> None:
    args = make(AWKWARD, mask=mask, batch=batch, dtype=torch.float64)
    leaves = tuple(None if t is None else t.requires_grad_() for t in args.tensors)
    options = ([2, 1], [1, 0], [2, 1], boundary, backend)
    torch.library.opcheck(torch.ops.dcn.deform_conv.default, (*leaves, *options))


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_of_the_backward(backend: str) -> None:
    args = make(AWKWARD)
    grad = torch.randn(2, 2, *AWKWARD.out, dtype=torch.float64)
    options = ([2, 1], [1, 0], [2, 1], "v2", backend, [True, True, False, True, True])
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.dcn.deform_conv_backward.default, (grad, *args.tensors, *options), test_utils=tests)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_compile_fullgraph_with_gradients(memory: torch.memory_format) -> None:
    args = make(AWKWARD, dtype=torch.float32)

    def function(*tensors: Tensor | None) -> Tensor:
        return call(AWKWARD, tensors, "v2").relu()

    def gradients(of: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [t.detach().clone().requires_grad_() for t in args.tensors if t is not None]
        first = leaves[0].detach().to(memory_format=memory).requires_grad_()
        output = of(first, *leaves[1:])
        output.square().sum().backward()
        return [output, *(leaf.grad for leaf in (first, *leaves[1:]) if leaf.grad is not None)]

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    actual, expected = gradients(compiled), gradients(function)
    assert len(actual) == 6
    for a, b in zip(actual, expected, strict=True):
        close(a, b, torch.float32)


class _Net(torch.nn.Module):
    def forward(self, input: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return deform_conv2d(input, offset, weight, padding=1)


def test_export_with_dynamic_batch() -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    example = (torch.randn(3, 4, 6, 5), torch.randn(3, 18, 6, 5), torch.randn(2, 4, 3, 3))
    program = torch.export.export(_Net(), example, dynamic_shapes=({0: batch}, {0: batch}, None))
    assert "dcn.deform_conv" in str(program.graph)
    other = (torch.randn(5, 4, 6, 5), torch.randn(5, 18, 6, 5), example[2])
    close(program.module()(*other), _Net()(*other), torch.float32)


def test_meta_tensors_give_the_shape() -> None:
    args = [None if t is None else t.to("meta") for t in make(AWKWARD).tensors]
    output = call(AWKWARD, tuple(args))
    assert output.is_meta
    assert output.shape == call(AWKWARD, make(AWKWARD).tensors).shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mapped", [(0,), (1,), (0, 1, 4), (2,), (3,), (0, 1, 2, 3, 4)], ids=str)
def test_vmap(mapped: tuple[int, ...], backend: str) -> None:
    sets = [make(AWKWARD, seed=seed).tensors for seed in range(3)]
    stacked = [torch.stack([s[i] for s in sets]) if i in mapped else sets[0][i] for i in range(5)]  # type: ignore[misc]
    dims = tuple(0 if i in mapped else None for i in range(5))

    def function(*args: Tensor | None) -> Tensor:
        return call(AWKWARD, args, "v2", backend)

    actual = torch.func.vmap(function, in_dims=dims)(*stacked)
    calls = [tuple(s[i] if i in mapped else sets[0][i] for i in range(5)) for s in sets]
    close(actual, torch.stack([function(*c) for c in calls]), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_per_sample_gradients(backend: str) -> None:
    x, offset, weight, bias, mask = make(AWKWARD, batch=3).tensors
    assert mask is not None

    def loss(weight: Tensor, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return call(AWKWARD, (x[None], offset[None], weight, bias, mask[None]), "v2", backend).square().sum()

    actual = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(weight, x, offset, mask)
    single = [torch.func.grad(loss)(weight, x[i], offset[i], mask[i]) for i in range(3)]
    leaf = weight.clone().requires_grad_()
    loss(leaf, x[1], offset[1], mask[1]).backward()
    assert leaf.grad is not None
    close(actual, torch.stack(single), torch.float64)
    close(actual[1], leaf.grad, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("shape", CHECKED.values(), ids=CHECKED.keys())
def test_jvp_is_the_transpose_of_the_gradient(shape: Shape, boundary: str, backend: str) -> None:
    args = tuple(t for t in make(shape).tensors if t is not None)
    tangents = tuple(t for t in make(shape, seed=5).tensors if t is not None)

    def function(*tensors: Tensor) -> Tensor:
        return call(shape, tensors, boundary, backend)

    output, actual = torch.func.jvp(function, args, tangents)[:2]
    grad = torch.randn(output.shape, dtype=torch.float64)
    pull = torch.func.vjp(function, *args)[1]
    paired = sum((g * t).sum() for g, t in zip(pull(grad), tangents, strict=True))
    close((actual * grad).sum(), torch.as_tensor(paired), torch.float64)


def test_forward_mode_with_dual_numbers() -> None:
    args = make(AWKWARD).tensors
    tangent = torch.randn(args[1].shape, dtype=torch.float64) if args[1] is not None else torch.empty(0)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(args[1], tangent)
        actual = forward_ad.unpack_dual(call(AWKWARD, (args[0], dual, *args[2:]))).tangent
    step = 1e-6
    assert args[1] is not None
    sides = [call(AWKWARD, (args[0], args[1] + s * step * tangent, *args[2:])) for s in (1, -1)]
    torch.testing.assert_close(actual, (sides[0] - sides[1]) / (2 * step), rtol=0, atol=1e-7)


def test_hessian_vector_product_through_func() -> None:
    x, offset, weight, bias, mask = make(SMALL).tensors

    def loss(x: Tensor) -> Tensor:
        return call(SMALL, (x, offset, weight, bias, mask)).square().sum()

    assert x is not None
    vector = torch.randn_like(x)
    actual = torch.func.vjp(torch.func.grad(loss), x)[1]
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(first, leaf, vector)
    close(actual(vector)[0], expected, torch.float64)


TINY = Shape((3, 3), (2, 2), (1, 1), (0, 1), (1, 1), channels=2, outputs=2, groups=1, offset_groups=1, batch=1)


def _loss_by(location: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A loss as a function of one argument, and that argument."""
    args = make(TINY).tensors
    value = args[location]
    assert value is not None
    return lambda v: call(TINY, (*args[:location], v, *args[location + 1 :])).pow(3).sum(), value


@pytest.mark.parametrize("location", range(5), ids=NAMES)
@pytest.mark.parametrize(
    "hessian",
    [
        torch.func.hessian,
        lambda f: torch.func.jacrev(torch.func.jacrev(f)),
        lambda f: torch.func.jacfwd(torch.func.jacfwd(f)),
        lambda f: torch.func.jacrev(torch.func.jacfwd(f)),
    ],
    ids=["forward-reverse", "reverse-reverse", "forward-forward", "reverse-forward"],
)
def test_hessians(hessian: Callable[..., Callable[[Tensor], Tensor]], location: int) -> None:
    loss, value = _loss_by(location)
    expected = torch.autograd.functional.hessian(loss, value)
    close(hessian(loss)(value), expected, torch.float64)


@pytest.mark.parametrize("location", [0, 1, 2], ids=NAMES[:3])
def test_third_derivative(location: int) -> None:
    loss, value = _loss_by(location)

    def along(scale: Tensor) -> Tensor:
        return loss(value * scale)

    third = along
    for _ in range(3):
        third = torch.func.grad(third)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    expected = along(scale)
    for _ in range(3):
        (expected,) = torch.autograd.grad(expected, scale, create_graph=True)
    close(third(scale.detach()), expected.detach(), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_many_outputs_at_once(backend: str) -> None:
    leaves = tuple(t for t in _leaves(TINY))
    output = call(TINY, leaves, "v2", backend)
    directions = torch.randn(3, *output.shape, dtype=torch.float64)
    actual = torch.autograd.grad(output, leaves, directions, is_grads_batched=True, retain_graph=True)
    for location, direction in enumerate(directions):
        expected = torch.autograd.grad(output, leaves, direction, retain_graph=True)
        for a, b in zip(actual, expected, strict=True):
            close(a[location], b, torch.float64)


@pytest.mark.parametrize("mapped", [(0,), (2,), (0, 1, 4), (1, 2, 3), (0, 1, 2, 3, 4)], ids=str)
def test_vmap_is_one_call_of_the_kernel(mapped: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    spies = {name: Mock(wraps=getattr(reference, name)) for name in ("forward", "backward")}
    for name, spy in spies.items():
        monkeypatch.setattr(reference, name, spy)
    sets = [tuple(t for t in make(AWKWARD, seed=seed).tensors if t is not None) for seed in range(3)]
    stacked = [torch.stack([s[i] for s in sets]) if i in mapped else sets[0][i] for i in range(5)]
    dims = tuple(0 if i in mapped else None for i in range(5))

    def loss(*args: Tensor) -> Tensor:
        return call(AWKWARD, args, "v2", "reference").square().sum()

    gradients = torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))
    actual = torch.func.vmap(gradients, in_dims=dims)(*stacked)
    assert [spy.call_count for spy in spies.values()] == [1, 1]
    for location in range(3):
        expected = gradients(*(s[location] if i in mapped else s for i, s in enumerate(stacked)))
        for a, b in zip(actual, expected, strict=True):
            close(a[location], b, torch.float64)


def test_models_as_functions() -> None:
    layers = [DeformConv2d(2, 3, 3, padding=1, modulated=True).double() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    actual = torch.func.vmap(lambda p: torch.func.functional_call(layers[0], (p, buffers), (x,)))(parameters)
    close(actual, torch.stack([layer(x) for layer in layers]), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outputs", [1, 64])
def test_threads_do_not_change_a_bit(outputs: int, backend: str) -> None:
    """In deterministic mode, which tests of operators run in; the map is large enough to be shared out."""
    shape = Shape((40, 41), (3, 3), (1, 1), (1, 1), (1, 1), channels=64, outputs=outputs, groups=1, offset_groups=1)
    args = make(shape, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = [t.detach().clone().requires_grad_() for t in args.tensors if t is not None]
            output = call(shape, tuple(leaves), "v2", backend)
            results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("direct", [False, True], ids=["function", "registered"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_casts_data_and_keeps_coordinates(backend: str, direct: bool, dtype: torch.dtype) -> None:
    args = make(AWKWARD, dtype=torch.float32)
    data = [None if t is None else t.to(dtype) for t in args.tensors]
    expected = call(AWKWARD, (data[0], args.offset, *data[2:]), backend=backend)
    leaf = args.weight.clone().requires_grad_()
    tensors = (args.x, args.offset, leaf, args.bias, args.mask)
    with torch.autocast("cpu", dtype):
        if direct:
            actual = torch.ops.dcn.deform_conv(*tensors, [2, 1], [1, 0], [2, 1], "v2", backend)
        else:
            actual = call(AWKWARD, tensors, backend=backend)
    assert actual.dtype == dtype
    assert torch.equal(actual, expected)
    actual.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32


def test_flops_can_be_counted_through_a_dispatch_mode() -> None:
    seen: list[str] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Spy():
        call(AWKWARD, make(AWKWARD).tensors)
    assert "dcn.deform_conv.default" in seen
