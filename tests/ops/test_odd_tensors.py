"""Tensors that are not plain memory: pending signs, zeros without memory, expanded, sparse, nested, quantised."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dcn.ops import (
    box_voting,
    deform_conv2d,
    deform_ps_roi_pool,
    deform_roi_pool,
    nms,
    nms_keep,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_pool,
    soft_nms,
)

BACKENDS = ("cpu", "reference")
Operator = Callable[..., Tensor]


def _boxes() -> Tensor:
    return torch.tensor([[0, 0.5, 0, 4, 4], [1, 1, 1.5, 5, 5]])


# Name: the operator, and the tensors that it takes. The first is the map.
OPERATORS: dict[str, tuple[Operator, Callable[[], tuple[Tensor, ...]]]] = {
    "deform_conv2d": (
        lambda x, o, w, b, m, backend: deform_conv2d(x, o, w, b, mask=m, backend=backend),
        lambda: (_map(), torch.randn(2, 18, 4, 4), torch.randn(3, 4, 3, 3), torch.randn(3), torch.rand(2, 9, 4, 4)),
    ),
    "roi_align": (lambda x, r, backend: roi_align(x, r, 2, backend=backend), lambda: (_map(), _boxes())),
    "ps_roi_align": (lambda x, r, backend: ps_roi_align(x, r, 2, backend=backend), lambda: (_map(), _boxes())),
    "ps_roi_pool": (lambda x, r, backend: ps_roi_pool(x, r, 2, backend=backend), lambda: (_map(), _boxes())),
    "roi_pool": (lambda x, r, backend: roi_pool(x, r, 2, backend=backend), lambda: (_map(), _boxes())),
    "deform_roi_pool": (
        lambda x, r, o, m, backend: deform_roi_pool(x, r, o, 2, mask=m, backend=backend),
        lambda: (_map(), _boxes(), torch.randn(2, 2, 2, 2), torch.rand(2, 1, 2, 2)),
    ),
    "deform_ps_roi_pool": (
        lambda x, r, o, m, backend: deform_ps_roi_pool(x, r, o, 2, mask=m, backend=backend),
        lambda: (_map(), _boxes(), torch.randn(2, 2, 3, 3), torch.rand(2, 1, 2, 2)),
    ),
}


def _map() -> Tensor:
    return torch.randn(2, 4, 6, 6)


def _signed(tensor: Tensor) -> Tensor:
    """The same values, dense in memory, with their sign pending."""
    lazy = torch._neg_view(-tensor)
    assert lazy.is_neg()
    assert lazy.is_contiguous()
    return lazy


def _gradients(operator: Operator, tensors: tuple[Tensor, ...], backend: str, lazy: bool) -> list[Tensor]:
    """The output, and the gradients of all tensors but the boxes."""
    leaves = [t.clone().requires_grad_(index != 1 or t.shape[-1] != 5) for index, t in enumerate(tensors)]
    given = [_signed(leaf) for leaf in leaves] if lazy else leaves
    output = operator(*given, backend=backend)
    gain = torch.linspace(-1, 1, output.numel()).view(output.shape)
    output.backward(_signed(gain) if lazy else gain)
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_pending_signs_count(name: str, backend: str) -> None:
    operator, make = OPERATORS[name]
    torch.manual_seed(0)
    tensors = make()
    expected = _gradients(operator, tensors, backend, lazy=False)
    for got, want in zip(_gradients(operator, tensors, backend, lazy=True), expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_zeros_without_memory_are_zeros(name: str, backend: str) -> None:
    operator, make = OPERATORS[name]
    for index, tensor in enumerate(make()):
        zeros, lazy = list(make()), list(make())
        zeros[index], lazy[index] = torch.zeros_like(tensor), torch._efficientzerotensor(tensor.shape)
        for other, value in enumerate(zeros):
            if other != index:
                lazy[other] = value
        torch.testing.assert_close(operator(*lazy, backend=backend), operator(*zeros, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_gradient_of_zeros_without_memory(name: str, backend: str) -> None:
    operator, make = OPERATORS[name]
    x, *others = make()
    x.requires_grad_()
    output = operator(x, *others, backend=backend)
    output.backward(torch._efficientzerotensor(output.shape))
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_expanded_and_strided_maps(name: str, backend: str) -> None:
    operator, make = OPERATORS[name]
    _, *others = make()
    views = {
        "expanded": torch.randn(1, 1, 6, 6).expand(2, 4, 6, 6),
        "imaginary": torch.randn(2, 4, 6, 6, dtype=torch.complex64).conj().imag,
        "every other": torch.randn(4, 4, 12, 6)[::2, :, ::2],
    }
    for x in views.values():
        plain = x.resolve_neg().contiguous()
        torch.testing.assert_close(operator(x, *others, backend=backend), operator(plain, *others, backend=backend))


def _quantised(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)


def _nested(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([x, x])


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda x: x.to_sparse(),
    "nested": _nested,
    "jagged": lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged),
    "quantised": _quantised,
    "mkldnn": lambda x: x.to_mkldnn(),
    "complex": lambda x: x.to(torch.complex64),
    "conjugate": lambda x: x.to(torch.complex64).conj(),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "integer": lambda x: x.int(),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_no_dense_tensor_of_floats_is_refused(name: str, kind: str) -> None:
    operator, make = OPERATORS[name]
    for index in range(len(make())):
        tensors = list(make())
        tensors[index] = REFUSED[kind](tensors[index])
        with pytest.raises(ValueError, match="expected"):
            operator(*tensors, backend=None)


BOX_OPERATORS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "nms": lambda b, s: nms(b, s, 0.3),
    "nms_keep": lambda b, s: nms_keep(b, s, 0.3),
    "soft_nms": lambda b, s: soft_nms(b, s)[1],
    "box_voting": lambda b, s: box_voting(b, b, s, 0.3),
}


@pytest.mark.parametrize("name", BOX_OPERATORS)
def test_suppression_of_lazy_tensors(name: str) -> None:
    torch.manual_seed(0)
    corners, scores = torch.rand(20, 2) * 4, torch.rand(20)
    boxes = torch.cat((corners, corners + 2), 1)
    operator = BOX_OPERATORS[name]
    torch.testing.assert_close(operator(_signed(boxes), _signed(scores)), operator(boxes, scores))
    zeros = torch._efficientzerotensor((20,))
    torch.testing.assert_close(operator(boxes, zeros), operator(boxes, torch.zeros(20)))


@pytest.mark.parametrize("kind", ["sparse", "quantised", "complex", "integer"])
@pytest.mark.parametrize("name", BOX_OPERATORS)
def test_suppression_refuses_what_is_no_dense_tensor_of_floats(name: str, kind: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        BOX_OPERATORS[name](REFUSED[kind](torch.rand(3, 4)), torch.rand(3))


POOLINGS = [name for name in OPERATORS if name != "deform_conv2d"]


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_where_no_roi_is_finite(name: str) -> None:
    operator, make = OPERATORS[name]
    x, boxes, *others = make()
    boxes[:, 1:] = torch.tensor([torch.nan, torch.inf, 1, 1])
    leaves = [t.requires_grad_() for t in (x, *others)]
    operator(leaves[0], boxes, *leaves[1:], backend="reference").sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert not leaf.grad.any()


@pytest.mark.parametrize("name", POOLINGS)
def test_boxes_that_require_a_gradient_under_compile(name: str) -> None:
    operator, make = OPERATORS[name]
    x, boxes, *others = make()
    results = []
    for call in (operator, torch.compile(operator, fullgraph=True, backend="aot_eager")):
        leaves = [t.clone().requires_grad_() for t in (x, boxes, *others)]
        output = call(*leaves, backend="cpu")
        output.square().sum().backward()
        assert leaves[1].grad is None or not leaves[1].grad.any()
        results.append([output.detach(), *(leaf.grad for leaf in (leaves[0], *leaves[2:]))])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("name", POOLINGS)
def test_boxes_have_no_second_derivative_either(name: str) -> None:
    operator, make = OPERATORS[name]
    leaves = [t.double().requires_grad_() for t in make()]
    (first,) = torch.autograd.grad(operator(*leaves, backend="cpu").square().sum(), leaves[0], create_graph=True)
    by_map, by_boxes = torch.autograd.grad(first.square().sum(), leaves[:2], allow_unused=True)
    assert by_map.any()
    assert by_boxes is None or not by_boxes.any()


def test_a_tensor_that_outlived_its_transform_counts() -> None:
    """torch.func wraps its arguments; a wrapper that is kept is a tensor without memory of its own."""
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x.sum()

    torch.func.grad(keep)(_map())
    offset = torch.randn(2, 18, 4, 4, requires_grad=True)
    weight = torch.randn(3, 4, 3, 3)
    results = []
    for x in (kept[0], kept[0].clone().detach()):
        output = deform_conv2d(x, offset, weight, backend="cpu")
        results.append((output, *torch.autograd.grad(output.sum(), offset)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
