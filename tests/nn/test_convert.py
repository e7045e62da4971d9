"""Turning convolutions of any network deformable and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from dcn.compat import dcn_v2, mmcv
from dcn.nn import (
    DCNv3,
    DCNv4,
    DeformConv2d,
    DeformPSRoIPool,
    ModulatedDeformRoIPool,
    MultiScaleDeformableAttention,
    deformify,
    offset_parameters,
    undeformify,
)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.branches = nn.ModuleList([nn.Conv2d(8, 8, 3, padding="same", groups=2), nn.Conv2d(8, 8, 1)])
        self.tail = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 4, (3, 5), (2, 1), (1, 2)))
        self.again = self.conv1

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.conv1(x)[:, :4])
        return self.tail(sum(branch(y) for branch in self.branches))


class _Doubling(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


PADDINGS: dict[str, dict[str, Any]] = {
    "reflect": {"padding": (1, 2), "padding_mode": "reflect"},
    "replicate": {"padding": 1, "padding_mode": "replicate", "stride": 2},
    "circular": {"padding": 2, "padding_mode": "circular", "dilation": 2},
    "same": {"padding": "same", "dilation": (1, 2)},
    "uneven": {"padding": "same", "kernel_size": (2, 4)},
    "uneven-reflect": {"padding": "same", "kernel_size": 4, "padding_mode": "reflect"},
    "valid": {"padding": "valid", "groups": 2, "bias": False},
}


@pytest.mark.parametrize("modulated", [False, True], ids=["plain", "modulated"])
@pytest.mark.parametrize("options", PADDINGS.values(), ids=PADDINGS.keys())
def test_any_padding(options: dict[str, Any], modulated: bool) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, **{"kernel_size": 3, **options}, dtype=torch.float64))
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    before = model(x)
    deformify(model, "0", modulated=modulated)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in offset_parameters(model))
    undeformify(model)
    assert torch.equal(model(x), before)


def test_wrapped_and_shared_models() -> None:
    inner = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1))
    inner[1].weight = inner[0].weight
    model = nn.DataParallel(inner)
    x = torch.randn(1, 2, 5, 5)
    before = model(x)
    assert deformify(model, "module.*") == ["module.0", "module.1"]
    assert inner[0].weight is inner[1].weight
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("modulated", [False, True], ids=["plain", "modulated"])
@pytest.mark.parametrize("boundary", ["v1", "v2"])
def test_same_function_there_and_back(modulated: bool, boundary: str) -> None:
    model = _Block().double().eval()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    before, parameters = model(x), {id(p) for p in model.parameters()}
    names = deformify(model, "*", modulated=modulated, offset_groups=2, boundary=boundary)
    assert names == ["conv1", "branches.0", "branches.1", "tail.1", "again"]
    assert model.conv1 is model.again
    assert not any(type(m) is nn.Conv2d for n, m in model.named_modules() if not n.endswith("conv_offset"))
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    assert parameters <= {id(p) for p in model.parameters()}
    assert not any(m.training for m in model.modules() if isinstance(m, DeformConv2d))
    assert undeformify(model) == names
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert parameters == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("conv1", ["conv1", "again"]),
        (["branches.*"], ["branches.0", "branches.1"]),
        (lambda name, conv: conv.kernel_size == (3, 5), ["tail.1"]),
    ],
    ids=["name", "pattern", "predicate"],
)
def test_choosing_layers(layers: object, expected: list[str]) -> None:
    model = _Block()
    changed = deformify(model, layers)  # type: ignore[arg-type]
    assert set(changed) <= set(expected)
    assert [n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, DeformConv2d)] == expected


def test_keeps_hooks_flags_and_types() -> None:
    conv = nn.Conv2d(2, 2, 3).to(torch.bfloat16)
    model = nn.Sequential(conv)
    conv.weight.requires_grad_(False)
    seen: list[torch.Size] = []
    handle = conv.register_forward_hook(lambda *args: seen.append(args[2].shape))
    gradients: list[int] = []
    conv.register_full_backward_hook(lambda *args: gradients.append(len(args[1])))
    deformify(model, "0")
    layer = model[0]
    assert isinstance(layer, DeformConv2d)
    assert layer.weight is conv.weight
    assert not layer.weight.requires_grad
    assert layer.conv_offset.weight.dtype == torch.bfloat16
    model(torch.randn(1, 2, 5, 5, dtype=torch.bfloat16))
    assert seen == [torch.Size([1, 2, 3, 3])]
    handle.remove()
    model(torch.randn(1, 2, 5, 5, dtype=torch.bfloat16, requires_grad=True)).sum().backward()
    assert len(seen) == 1
    assert gradients == [1]


def test_new_weights_when_asked() -> None:
    conv = nn.Conv2d(2, 2, 3)
    model = nn.Sequential(conv)
    deformify(model, "0", keep_weights=False)
    layer = model[0]
    assert isinstance(layer, DeformConv2d)
    assert not torch.equal(layer.weight, conv.weight)


def test_offset_parameters_are_those_of_the_branches() -> None:
    model = _Block()
    deformify(model, ["conv1", "branches.0"])
    expected = {id(p) for n, p in model.named_parameters() if "conv_offset" in n}
    assert {id(p) for p in offset_parameters(model)} == expected
    assert len(list(offset_parameters(model))) == 4


def test_offset_branches_of_drop_ins_are_no_candidates() -> None:
    model = nn.Sequential(mmcv.DeformConv2dPack(4, 4, 3, padding=1), dcn_v2.DCN(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3))
    assert deformify(model, lambda name, conv: True) == ["2"]


BRANCHED: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "DCNv3": (lambda: DCNv3(8, group=2), {"offset.weight", "offset.bias", "mask.weight", "mask.bias"}),
    "DCNv4": (lambda: DCNv4(32, group=2), {"offset_mask.weight", "offset_mask.bias"}),
    "attention": (
        lambda: MultiScaleDeformableAttention(8, 1, 2, 2),
        {"sampling_offsets.weight", "sampling_offsets.bias"},
    ),
    "DCNv2": (lambda: dcn_v2.DCN(4, 4, 3, 1, 1), {"conv_offset_mask.weight", "conv_offset_mask.bias"}),
    "others of these names": (lambda: nn.ModuleDict({"offset": nn.Linear(1, 1), "mask": nn.Linear(1, 1)}), set()),
}


@pytest.mark.parametrize("name", BRANCHED)
def test_offset_parameters_of_other_operators(name: str) -> None:
    make, expected = BRANCHED[name]
    layer = make()
    found = {id(p) for p in offset_parameters(nn.Sequential(layer))}
    assert {key for key, p in layer.named_parameters() if id(p) in found} == expected


def test_offset_parameters_of_roi_layers() -> None:
    model = nn.ModuleDict(
        {"a": ModulatedDeformRoIPool(3, 4, 8), "b": DeformPSRoIPool(4, 2, 3), "c": nn.Conv2d(1, 1, 1)}
    )
    reference = {id(p) for name, p in model.named_parameters() if not name.startswith("c")}
    assert {id(p) for p in offset_parameters(model)} == reference
    assert len(reference) == 12


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv2d(3, 2, 3), "not divisible by offset_groups=2"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)), "weight is parametrized"),
        (nn.utils.spectral_norm(nn.Conv2d(2, 2, 3)), "weight is computed by a hook"),
        (prune.random_unstructured(nn.Conv2d(2, 2, 3), "weight", 0.5), "weight is computed by a hook"),
        (_Doubling(2, 2, 3), "it is a _Doubling, a subclass"),
        (nn.Conv2d(2, 2, 3, dtype=torch.complex64), "type torch.complex64"),
    ],
    ids=["groups", "parametrized", "spectral-norm", "pruned", "subclass", "complex"],
)
def test_layers_that_cannot_be_replaced(conv: nn.Conv2d, reason: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), conv)
    with pytest.raises(
        ValueError, match=f"^layers: expected convolutions that can become deformable, got '1': .*{reason}"
    ):
        deformify(model, "*", offset_groups=2)
    assert type(model[0]) is nn.Conv2d


def test_nothing_chosen_and_bare_layers() -> None:
    with pytest.raises(
        ValueError, match=r"^layers: expected some of the 5 nn.Conv2d .* got 'body.*', which chooses none"
    ):
        deformify(_Block(), "body.*")
    with pytest.raises(
        ValueError, match=r"^layers: expected some of .* got 'up', which chooses only up \(ConvTranspose2d\)"
    ):
        deformify(nn.ModuleDict({"conv": nn.Conv2d(1, 1, 1), "up": nn.ConvTranspose2d(1, 1, 2)}), ["conv", "up"])
    with pytest.raises(ValueError, match=r"^layers: expected some of the 5 nn.Conv2d .*, which chooses none"):
        deformify(_Block(), lambda name, conv: False)
    with pytest.raises(ValueError, match=r"^layers: expected a name, several names or a function"):
        deformify(_Block(), [1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^model: expected a torch.nn.Module, got NoneType"):
        deformify(None, "*")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^model: expected a module that contains"):
        deformify(nn.Conv2d(1, 1, 1), "*")
    with pytest.raises(ValueError, match=r"^model: expected a module that contains"):
        undeformify(DeformConv2d(1, 1, 1))
