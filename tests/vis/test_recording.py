from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dcn.compat import dcn_v2, mmcv
from dcn.nn import DeformConv2d
from dcn.vis import Grid, record_offsets

from .networks import Photo, deformable, plain, whole_offsets

HEADS = {
    "one-pixel": lambda: nn.Conv2d(1, 1, 1, bias=False),
    "strided-3x3": lambda: nn.Conv2d(1, 1, 3, 2, 1, bias=False),
    "stem-and-pool": lambda: nn.Sequential(nn.Conv2d(1, 1, 7, 2, 3, bias=False), nn.AvgPool2d(3, 2, 1)),
    "caffe-pool": lambda: nn.Sequential(nn.Conv2d(1, 1, 7, 2, 3, bias=False), nn.AvgPool2d(3, 2, 0, ceil_mode=True)),
    "no-padding": lambda: nn.Conv2d(1, 1, (2, 5), (2, 3), bias=False),
    "dilated-same": lambda: nn.Sequential(
        nn.Conv2d(1, 1, 3, padding="same", dilation=3, bias=False), nn.Conv2d(1, 1, 4, 4, bias=False)
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_grid_equals_the_centre_of_what_a_unit_sees(name: str) -> None:
    """The oracle: where the gradient of one unit of the head's output lies in the image."""
    head = plain(HEADS[name]())
    image = torch.zeros(1, 1, 61, 83, requires_grad=True)
    output = head(image)
    row, column = output.shape[2] // 2, output.shape[3] // 2
    (gradient,) = torch.autograd.grad(output[0, 0, row, column], image)
    seen = gradient[0, 0].nonzero().double().mean(0)
    size = (output.shape[2], output.shape[3])
    (layer,) = record_offsets(nn.Sequential(head, deformable(torch.zeros(18, *size))), image.detach())
    assert layer.input_grid.to_image(torch.tensor([row, column]).double()).tolist() == pytest.approx(seen.tolist())
    assert layer.input_grid == layer.output_grid


def test_grid_goes_there_and_back() -> None:
    grid = Grid((4, 5), (8.0, 16.0), (2.0, -1.0))
    assert grid.to_image(torch.tensor([[1.0, 2]])).tolist() == [[10.0, 31.0]]
    assert grid.from_image(torch.tensor([[10.0, 31]])).tolist() == [[1.0, 2.0]]


def test_a_map_of_unknown_origin_is_placed_by_its_size() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.layer = nn.Conv2d(1, 1, 1), deformable(torch.zeros(18, 8, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.layer(nn.functional.max_pool2d(self.first(x), 4))
            return result

    (layer,) = record_offsets(Functional(), torch.zeros(1, 1, 32, 24))
    assert layer.input_grid == Grid((8, 6), (4.0, 4.0), (0.0, 0.0))


def test_a_strided_deformable_layer_has_a_coarser_output_grid() -> None:
    layer = DeformConv2d(1, 1, (3, 1), stride=(2, 1), padding=(1, 0), offset_groups=1)
    (record,) = record_offsets(layer, torch.zeros(1, 1, 9, 7))
    assert record.output_grid == Grid((5, 7), (2.0, 1.0), (0.0, 0.0))
    assert (record.kernel_size, record.stride, record.padding, record.dilation) == ((3, 1), (2, 1), (1, 0), (1, 1))
    assert record.offset.shape == (1, 3, 2, 5, 7)


def test_records_what_the_layer_used() -> None:
    offset, mask = whole_offsets((5, 6), 0), torch.rand(9, 5, 6) * 0.8 + 0.1
    layers = record_offsets(nn.Sequential(deformable(offset, mask=mask)), torch.zeros(1, 1, 5, 6))
    assert [layer.name for layer in layers] == ["0"]
    assert torch.equal(layers[0].offset[0].flatten(0, 1), offset)
    assert torch.allclose(layers[0].mask[0], mask, atol=1e-6)


def test_order_is_that_of_the_calls_and_repeated_calls_are_numbered() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early = deformable(torch.zeros(18, 5, 5)), deformable(torch.zeros(18, 5, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.late(self.late(self.early(x)))
            return result

    names = [layer.name for layer in record_offsets(Twice(), torch.zeros(1, 1, 5, 5))]
    assert names == ["early", "late", "late[2]"]


def test_detectors_get_a_list_and_padding_does_not_move_the_grid() -> None:
    model = Photo(nn.Sequential(plain(nn.Conv2d(1, 1, 3, 2, 1)), deformable(torch.zeros(18, 16, 18))), pad=5)
    model.train()
    (layer,) = record_offsets(model, torch.zeros(3, 27, 30, dtype=torch.uint8))
    assert layer.input_grid == Grid((16, 18), (2.0, 2.0), (0.0, 0.0))
    assert model.training


def test_no_hook_is_left_behind_even_after_an_error() -> None:
    model = nn.Sequential(deformable(torch.zeros(18, 5, 5)), nn.Conv2d(7, 1, 1))
    with pytest.raises(RuntimeError):
        record_offsets(model, torch.zeros(1, 1, 5, 5))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "image", "message"),
    [
        pytest.param(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 5, 5), "model: expected at least one", id="plain"),
        pytest.param(DeformConv2d(1, 1, 3), torch.zeros(1, 5, 5), "image: expected", id="image"),
    ],
)
def test_what_cannot_be_recorded_is_refused(model: nn.Module, image: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record_offsets(model, image)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mmcv.ModulatedDeformConv2dPack(3, 3, 3, padding=1, bias=False),
        lambda: mmcv.DeformConv2dPack(3, 3, 3, padding=1),
        lambda: dcn_v2.DCN(3, 3, 3, 1, 1),
    ],
    ids=["mmcv v2", "mmcv v1", "DCNv2"],
)
def test_drop_ins_are_recorded(make: Any) -> None:
    layer = make()
    nn.init.normal_(layer.offset_branch.weight)
    image = torch.rand(1, 3, 6, 8)
    (seen,) = record_offsets(nn.Sequential(layer), image)
    offset, mask = layer.offsets(image)
    assert torch.equal(seen.offset.flatten(0, 2), offset[0])
    assert torch.equal(seen.mask.flatten(0, 1), torch.ones(9, 6, 8) if mask is None else mask[0])
    assert (seen.name, seen.boundary, seen.padding) == ("0", "v2", (1, 1))
    assert seen.input_grid == Grid((6, 8), (1.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            torch.zeros(3, 8, 8, dtype=torch.uint8),
            r"image: expected \[1, C, H, W\] floating point, since Sequential takes no",
        ),
        (torch.zeros(3, 8, 8), r"image: expected \[3, H, W\] uint8 or"),
        ([[0]], "image: expected a tensor, got list"),
    ],
    ids=["photo", "no batch", "list"],
)
def test_what_a_module_does_not_take_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record_offsets(nn.Sequential(DeformConv2d(3, 3, 3)), image)
