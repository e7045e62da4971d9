"""Values and gradients of deformable convolution against the oracle, on every backend."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from tests.ops import oracle
from tests.ops.cases import AWKWARD, BACKENDS, BOUNDARIES, SHAPES, Arguments, Shape, call, close, make

NAMES = ("x", "offset", "weight", "bias", "mask")


def _described(shape: Shape, args: Arguments, boundary: str) -> oracle.Call:
    x, offset, weight, bias, mask = (None if t is None else t.double().numpy() for t in args.tensors)
    assert x is not None
    assert offset is not None
    assert weight is not None
    return oracle.Call(x, offset, weight, bias, mask, shape.stride, shape.padding, shape.dilation, boundary)


def _gradients(
    shape: Shape, args: tuple[Tensor | None, ...], boundary: str, backend: str, grad: Tensor
) -> dict[str, Tensor]:
    leaves = [None if t is None else t.detach().requires_grad_() for t in args]
    call(shape, tuple(leaves), boundary, backend).backward(grad)
    return {
        name: leaf.grad for name, leaf in zip(NAMES, leaves, strict=True) if leaf is not None and leaf.grad is not None
    }


@functools.cache
def _expected(
    shape: Shape, dtype: torch.dtype, boundary: str
) -> tuple[Arguments, Tensor, Tensor, dict[str, oracle.Array]]:
    """Arguments, output, gradient of the output, gradients; one run of the slow oracle serves all backends."""
    args = make(shape, dtype=dtype)
    described = _described(shape, args, boundary)
    output = torch.from_numpy(oracle.forward(described))
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return args, output, grad, oracle.backward(described, grad.double().numpy())


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_and_gradients_equal_the_oracle(shape: Shape, dtype: torch.dtype, boundary: str, backend: str) -> None:
    args, output, grad, gradients = _expected(shape, dtype, boundary)
    close(call(shape, args.tensors, boundary, backend), output, dtype)
    actual = _gradients(shape, args.tensors, boundary, backend, grad)
    for name, value in gradients.items():
        assert actual[name].dtype == dtype
        close(actual[name], torch.from_numpy(value), dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_optional_arguments(mask: bool, bias: bool, boundary: str, backend: str) -> None:
    args = make(AWKWARD, mask=mask, bias=bias)
    expected = oracle.forward(_described(AWKWARD, args, boundary))
    close(call(AWKWARD, args.tensors, boundary, backend), torch.from_numpy(expected), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("batch", [0, 1, 33, 37])
def test_any_batch(batch: int, boundary: str, backend: str) -> None:
    args = make(AWKWARD, batch=batch)
    output = call(AWKWARD, args.tensors, boundary, backend)
    assert output.shape == (batch, AWKWARD.outputs, *AWKWARD.out)
    grad = torch.randn(output.shape, dtype=torch.float64)
    actual = _gradients(AWKWARD, args.tensors, boundary, backend, grad)
    described = _described(AWKWARD, args, boundary)
    close(output, torch.from_numpy(oracle.forward(described)), torch.float64)
    for name, value in oracle.backward(described, grad.numpy()).items():
        close(actual[name], torch.from_numpy(value), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 2.0, 3.0, 3.5, 4.0, 4.5], ids=str)
def test_edges_of_the_map(value: float, boundary: str, backend: str) -> None:
    """All samples on one line: value and offset gradient exactly at -1, 0, size - 1 and size."""
    shape = Shape((4, 4), (1, 1), (1, 1), (0, 0), (1, 1), channels=2, outputs=1, groups=1, offset_groups=1, batch=1)
    args = make(shape)
    offset = torch.zeros_like(args.offset)
    offset[:, 0] = value - torch.arange(4.0, dtype=torch.float64)[:, None]
    args = Arguments(args.x, offset, args.weight, args.bias, args.mask)
    grad = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    expected = oracle.backward(_described(shape, args, boundary), grad.numpy())
    actual = _gradients(shape, args.tensors, boundary, backend, grad)
    close(actual["offset"], torch.from_numpy(expected["offset"]), torch.float64)
    close(actual["x"], torch.from_numpy(expected["x"]), torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_broken_offsets_count_as_outside(bad: float, dtype: torch.dtype, boundary: str, backend: str) -> None:
    args = make(AWKWARD, dtype=dtype)
    broken = torch.rand(args.offset.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    offset = args.offset.masked_fill(broken, bad)
    far = Arguments(args.x, args.offset.masked_fill(broken, -100.0), args.weight, args.bias, args.mask)
    expected = call(AWKWARD, far.tensors, boundary, "reference")
    grad = torch.ones_like(expected)
    reference = _gradients(AWKWARD, far.tensors, boundary, "reference", grad)
    args = Arguments(args.x, offset, args.weight, args.bias, args.mask)
    close(call(AWKWARD, args.tensors, boundary, backend), expected, dtype)
    actual = _gradients(AWKWARD, args.tensors, boundary, backend, grad)
    for name in NAMES:
        close(actual[name], reference[name], dtype)
    assert actual["offset"][broken].abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_input_stays_where_it_is(backend: str) -> None:
    """A tap outside the map reads nothing, so a bad pixel reaches only the taps that touch it."""
    args = make(AWKWARD)
    x = args.x.clone()
    x[:, :, 0, 0] = float("nan")
    offset = torch.full_like(args.offset, 50.0)
    output = call(AWKWARD, (x, offset, args.weight, args.bias, args.mask), "v2", backend)
    assert args.bias is not None
    close(output, args.bias.reshape(1, -1, 1, 1).expand_as(output), torch.float64)


def _permuted(tensor: Tensor, how: str) -> Tensor:
    if how == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if how == "expanded":
        return tensor[:1].expand_as(tensor)
    return tensor.repeat_interleave(2, dim=-1)[..., ::2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", ["channels_last", "transposed", "expanded", "strided"])
def test_memory_layout_does_not_matter(how: str, backend: str) -> None:
    args = make(AWKWARD)
    permuted = tuple(None if t is None or t.ndim < 4 else _permuted(t, how) for t in args.tensors)
    permuted = (*permuted[:3], args.bias, permuted[4])
    plain = tuple(None if t is None else t.contiguous() for t in permuted)
    expected = call(AWKWARD, plain, "v2", "reference")
    grad = torch.randn(expected.shape, dtype=torch.float64)
    close(call(AWKWARD, permuted, "v2", backend), expected, torch.float64)
    reference = _gradients(AWKWARD, plain, "v2", "reference", grad)
    actual = _gradients(AWKWARD, permuted, "v2", backend, _permuted(grad, "strided"))
    for name in NAMES:
        close(actual[name], reference[name], torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_output_keeps_the_memory_format(backend: str) -> None:
    args = make(AWKWARD, dtype=torch.float32)
    x = _permuted(args.x, "channels_last")
    output = call(AWKWARD, (x, *args.tensors[1:]), "v2", backend)
    assert output.is_contiguous(memory_format=torch.channels_last)
    close(output, call(AWKWARD, args.tensors, "v2", backend), torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_float32_offsets_beside_half_data_are_not_rounded(dtype: torch.dtype, backend: str) -> None:
    args = make(AWKWARD, dtype=dtype)
    offset = args.offset.float() + 0.001
    exact = Arguments(args.x, offset, args.weight, args.bias, args.mask)
    expected = torch.from_numpy(oracle.forward(_described(AWKWARD, exact, "v2")))
    leaf = offset.clone().requires_grad_()
    output = call(AWKWARD, (args.x, leaf, *args.tensors[2:]), "v2", backend)
    output.sum().backward()
    assert output.dtype == dtype
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32
    close(output, expected, dtype)
    reference = oracle.backward(_described(AWKWARD, exact, "v2"), torch.ones_like(expected).numpy())
    close(leaf.grad, torch.from_numpy(reference["offset"]), torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_offsets_are_a_convolution(backend: str) -> None:
    shape = SHAPES["dilated"]
    args = make(shape, dtype=torch.float32, mask=False, spread=0.0)
    geometry = (shape.stride, shape.padding, shape.dilation, shape.groups)
    expected = torch.nn.functional.conv2d(args.x, args.weight, args.bias, *geometry)
    close(call(shape, args.tensors, "v2", backend), expected, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_same_bits_from_any_number_of_threads(boundary: str, backend: str) -> None:
    shape = Shape((19, 23), (3, 3), (1, 1), (1, 1), (1, 1), channels=16, outputs=24, groups=2, offset_groups=2, batch=3)
    args = make(shape, dtype=torch.float32)
    grad = torch.randn(3, 24, 19, 23)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            output = call(shape, args.tensors, boundary, backend)
            results.append([output, *_gradients(shape, args.tensors, boundary, backend, grad).values()])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("needed", range(5), ids=NAMES)
def test_one_gradient_alone(needed: int, backend: str) -> None:
    args = make(AWKWARD)
    reference = _gradients(
        AWKWARD, args.tensors, "v2", "reference", torch.ones(2, 2, *AWKWARD.out, dtype=torch.float64)
    )
    leaves = [t.detach().clone() for t in args.tensors if t is not None]
    leaves[needed].requires_grad_()
    call(AWKWARD, tuple(leaves), "v2", backend).sum().backward()
    actual = leaves[needed].grad
    assert actual is not None
    close(actual, reference[NAMES[needed]], torch.float64)
    assert all(leaf.grad is None for location, leaf in enumerate(leaves) if location != needed)
