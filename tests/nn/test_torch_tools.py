"""What ``nn.Conv2d`` can do every layer can do: symbolic tracing, single images, empty batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcn.compat import dcn_v2, mmcv, torchvision
from dcn.nn import (
    DCNv3,
    DCNv4,
    DeformConv1d,
    DeformConv2d,
    DeformConv3d,
    DeformConvTranspose2d,
    DeformDepthwiseConv2d,
    DeformPSRoIPool,
    DeformRoIPool,
    ModulatedDeformRoIPool,
    MultiScaleDeformableAttention,
)

Made = tuple[nn.Module, tuple[Any, ...]]
BOXES = torch.tensor([[0.0, 0, 0, 6, 6], [1, 1, 1, 7, 8]])


def _attention() -> Made:
    shapes = torch.tensor([[3, 4], [2, 2]])
    places = torch.rand(2, 5, 2, 2), torch.rand(2, 16, 8), shapes, torch.tensor([0, 12])
    return MultiScaleDeformableAttention(8, 2, 2, 2), (torch.rand(2, 5, 8), *places)


def _map(*size: int) -> Tensor:
    return torch.rand(2, 4, *size)


LAYERS: dict[str, Callable[[], Made]] = {
    "conv 1d": lambda: (DeformConv1d(4, 6, 3, padding=1), (_map(9),)),
    "conv 2d": lambda: (DeformConv2d(4, 6, 3, padding="same", modulated=True), (_map(7, 8),)),
    "conv 3d": lambda: (DeformConv3d(4, 6, 3), (_map(4, 5, 3),)),
    "transposed": lambda: (DeformConvTranspose2d(4, 6, 3, stride=2, modulated=True), (_map(7, 8),)),
    "depthwise": lambda: (DeformDepthwiseConv2d(4, 3, padding=1), (_map(7, 8),)),
    "DCNv3": lambda: (DCNv3(8, group=2), (torch.rand(2, 7, 8, 8),)),
    "DCNv4": lambda: (DCNv4(8, group=1), (torch.rand(2, 16, 8), (4, 4))),
    "attention": _attention,
    "RoI": lambda: (DeformRoIPool(3, 4, 16), (_map(9, 9), BOXES)),
    "modulated RoI": lambda: (ModulatedDeformRoIPool(3, 4, 16), (_map(9, 9), BOXES)),
    "parts of a RoI": lambda: (DeformPSRoIPool(4, 2, 3), (_map(9, 9), torch.rand(2, 36, 9, 9), BOXES)),
}
CONVOLUTIONS = ("conv 1d", "conv 2d", "conv 3d", "transposed", "depthwise")


def _made(name: str) -> Made:
    torch.manual_seed(0)
    layer, inputs = LAYERS[name]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return layer, inputs


class _Around(nn.Module):
    """A network with a layer in it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, a: Any, b: Any, c: Any, d: Any) -> Tensor:
        others = [value for value in (a, b, c, d) if value is not None]
        output: Tensor = self.layer(x * 2, *others)
        return output.relu()


@pytest.mark.parametrize("name", LAYERS)
def test_symbolic_tracing_keeps_the_layer(name: str) -> None:
    layer, inputs = _made(name)
    names = ("a", "b", "c", "d")
    fixed = dict.fromkeys(names[len(inputs) - 1 :])
    traced = torch.fx.symbolic_trace(_Around(layer), concrete_args=fixed)
    assert [node.op for node in traced.graph.nodes if node.target == "layer"] == ["call_module"]
    padded = (*inputs, *[None] * (5 - len(inputs)))
    assert torch.equal(traced(*padded), _Around(layer)(*padded))
    inner = getattr(traced, "layer")  # noqa: B009  # of a generated class
    assert inner.state_dict().keys() == layer.state_dict().keys()


def test_symbolic_tracing_of_a_layer_alone_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"input: expected a torch.Tensor, got Proxy; trace a module around the layer"):
        torch.fx.symbolic_trace(DeformConv2d(4, 4, 3))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_one_image_without_a_batch(name: str) -> None:
    layer, (batch,) = _made(name)
    torch.testing.assert_close(layer(batch[1]), layer(batch)[1])
    layer(batch[1]).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    with pytest.raises(ValueError, match=rf"input: expected {batch.ndim} axes \[N, C"):
        layer(batch[1][0])


def _is_batch(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_in_a_batch(name: str) -> None:
    layer, inputs = _made(name)
    pooled = name.endswith("RoI")
    less = [value[:0] if _is_batch(value) and (value is BOXES or not pooled) else value for value in inputs]
    output = layer(*less)
    assert output.shape == (0, *layer(*inputs).shape[1:])
    output.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in layer.parameters())


OPERATORS = {
    "conv 2d": "deform_conv",
    "transposed": "deform_conv_transpose",
    "attention": "ms_deform_attn",
    "RoI": "roi_mean",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_profile_names_the_operator(name: str) -> None:
    layer, (first, *others) = _made(name)
    first = first.requires_grad_()
    expected = torch.autograd.grad(layer(first, *others).sum(), first)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        seen = torch.autograd.grad(layer(first, *others).sum(), first)
    names = {event.key for event in profile.key_averages()}
    assert names >= {f"dcn::{OPERATORS[name]}", f"dcn::{OPERATORS[name]}_backward"}
    assert torch.equal(seen[0], expected[0])


BY_NUMPY: dict[str, Callable[[Any], nn.Module]] = {
    "DeformConv2d": lambda i: DeformConv2d(i(4), i(6), i(3), padding=(i(1), i(1)), groups=i(2), offset_groups=i(2)),
    "transposed": lambda i: DeformConvTranspose2d(i(4), i(6), i(3), stride=i(2)),
    "mmcv": lambda i: mmcv.ModulatedDeformConv2dPack(4, 6, i(3), padding=i(1)),
    "DCNv2": lambda i: dcn_v2.DCN(4, 6, (i(3), i(3)), i(1), i(1)),
    "torchvision": lambda i: torchvision.DeformConv2d(4, 6, i(3), padding=i(1)),
}


@pytest.mark.parametrize("name", BY_NUMPY)
def test_integers_of_numpy_build_the_same_layer(name: str) -> None:
    made, expected = BY_NUMPY[name](np.int64), BY_NUMPY[name](int)
    assert repr(made) == repr(expected)
    assert {key: value.shape for key, value in made.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }
