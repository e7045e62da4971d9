"""Deformable RoI pooling layers: key names, what they compute at the start, and that their branches learn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dcn.nn import DeformPSRoIPool, DeformRoIPool, ModulatedDeformRoIPool
from dcn.nn.deform_roi_pool import PoolForm
from dcn.ops import deform_ps_roi_pool, deform_roi_pool, roi_align

ROIS = torch.tensor([[0, 1.0, 2, 30, 25], [1, 4, 0, 50, 40], [0, 8, 8, 20, 30]])


def features(channels: int = 4) -> torch.Tensor:
    return torch.randn(2, channels, 12, 14, generator=torch.Generator().manual_seed(0))


def test_key_names() -> None:
    layer = ModulatedDeformRoIPool(3, 4, 8)
    expected = [f"offset_fc.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    expected += [f"mask_fc.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    assert sorted(layer.state_dict()) == sorted(expected)
    assert sorted(DeformRoIPool(3, 4, 8).state_dict()) == sorted(expected[:6])
    assert layer.offset_fc[4].weight.shape == (18, 8)
    assert layer.mask_fc[2].weight.shape == (9, 8)


@pytest.mark.parametrize("form", ["align", "parts"])
def test_starts_as_plain_pooling(form: PoolForm) -> None:
    x = features()
    plain = (
        roi_align(x, ROIS, 3, 0.25, 0, True)
        if form == "align"
        else deform_ps_roi_pool(x, ROIS, None, 3, 0.25, sample_per_part=4)
    )
    torch.testing.assert_close(DeformRoIPool(3, 4, 8, 0.25, form=form)(x, ROIS), plain)
    torch.testing.assert_close(ModulatedDeformRoIPool(3, 4, 8, 0.25, form=form)(x, ROIS), plain / 2)


def test_offsets_are_applied_x_first() -> None:
    x = features()
    layer = DeformRoIPool(3, 4, 8, 0.25, 2, gamma=0.2)
    layer.load_state_dict({**layer.state_dict(), "offset_fc.4.bias": torch.tensor([0.5] * 9 + [0.0] * 9)})
    offset = torch.zeros(3, 2, 3, 3)
    offset[:, 0] = 0.5
    expected = deform_roi_pool(x, ROIS, offset, 3, 0.25, sampling_ratio=2, gamma=0.2)
    torch.testing.assert_close(layer(x, ROIS), expected)


@pytest.mark.parametrize("form", ["align", "parts"])
def test_branches_get_gradients(form: PoolForm) -> None:
    layer = ModulatedDeformRoIPool(3, 4, 8, 0.25, form=form)
    layer(features(), ROIS).square().sum().backward()
    parameters = dict(layer.named_parameters())
    for name in ("offset_fc.4.weight", "mask_fc.2.weight"):
        grad = parameters[name].grad
        assert grad is not None
        assert bool(grad.any())


def test_position_sensitive_layer() -> None:
    x, maps = features(5), features(3 * 9)
    layer = DeformPSRoIPool(5, 3, 3, 0.25)
    torch.testing.assert_close(layer(x, maps, ROIS), deform_ps_roi_pool(maps, ROIS, None, 3, 0.25, group_size=3))
    torch.nn.init.normal_(layer.conv_offset.weight, generator=torch.Generator().manual_seed(1))
    fields = layer.conv_offset(x)
    offset = deform_ps_roi_pool(fields, ROIS, None, 3, 0.25, group_size=3)
    assert offset.shape == (3, 6, 3, 3)
    expected = deform_ps_roi_pool(maps, ROIS, offset, 3, 0.25, group_size=3)
    torch.testing.assert_close(layer(x, maps, ROIS), expected)
    layer(x, maps, ROIS).sum().backward()
    assert layer.conv_offset.weight.grad is not None
    assert bool(layer.conv_offset.weight.grad.any())


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="form"):
        DeformRoIPool(3, 4, form="both")  # type: ignore[arg-type]


WRONG: dict[str, tuple[str, Any]] = {
    "scale": ("spatial_scale", lambda: DeformRoIPool(3, 4, spatial_scale=0.0)),
    "samples": ("sampling_ratio", lambda: ModulatedDeformRoIPool(3, 4, sampling_ratio=1.5)),  # type: ignore[arg-type]
    "gamma": ("gamma", lambda: DeformRoIPool(3, 4, gamma=float("nan"))),
    "channels": ("output_channels", lambda: DeformRoIPool(3, 0)),
    "backend": ("backend", lambda: DeformPSRoIPool(4, 2, backend="gpu")),
    "classes": ("classes", lambda: DeformPSRoIPool(4, 0)),
    "bins": ("output_size", lambda: DeformPSRoIPool(4, 1, (3, 2))),  # type: ignore[arg-type]
    "map": ("input", lambda: DeformRoIPool(3, 5)(features(), ROIS)),
    "map-type": ("input", lambda: DeformRoIPool(3, 4)(features().double(), ROIS)),
    "features": ("features", lambda: DeformPSRoIPool(5, 1, 3)(features(), features(9), ROIS)),
    "maps": ("maps", lambda: DeformPSRoIPool(4, 2, 3)(features(), features(9), ROIS)),
    "boxes": ("boxes", lambda: DeformRoIPool(3, 4)(features(), ROIS[:, 1:])),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str) -> None:
    name, call = WRONG[case]
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["align", "parts"])
def test_autocast_keeps_the_type_of_the_map(form: PoolForm, dtype: torch.dtype) -> None:
    layer = ModulatedDeformRoIPool(3, 4, 8, 0.25, form=form)
    torch.nn.init.normal_(layer.offset_fc[4].weight, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    with torch.autocast("cpu", dtype):
        actual = layer(features().to(dtype), ROIS)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), layer(features(), ROIS), rtol=0, atol=0.05)
    actual.sum().backward()
    assert {p.grad.dtype for p in layer.parameters() if p.grad is not None} == {torch.float32}


def test_repr_and_copies() -> None:
    layer = DeformPSRoIPool(5, 3, 3, 0.25)
    assert "5, classes=3, output_size=3, spatial_scale=0.25, sample_per_part=4, trans_std=0.1" in repr(layer)
    assert "(3, 3), 4, spatial_scale=1, gamma=0.2, sampling_ratio=0, form='parts'" in repr(
        DeformRoIPool(3, 4, gamma=0.2, form="parts")
    )
    twin = copy.deepcopy(layer)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(features(5), features(27), ROIS), layer(features(5), features(27), ROIS))
