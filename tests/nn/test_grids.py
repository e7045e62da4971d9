"""Where maps lie is tested in tests/vis/test_recording.py, against the gradient of single units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dcn.compat.basicsr import ModulatedDeformConvPack
from dcn.nn import DeformConv2d
from dcn.nn.grids import Call, Grid, pair, watch_deformable
from dcn.ops import deform_conv2d


class Twice(nn.Module):
    """A stem, then one layer for two maps, and another one for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(1, 2, 2, 2), nn.MaxPool2d(3, 2, 1)
        self.other, self.layer = DeformConv2d(2, 2, 1), DeformConv2d(2, 2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.stem(images)
        result: Tensor = self.other(fine)
        self.layer(fine)
        self.layer(self.down(fine))
        return result


def test_every_call_is_told_with_its_whole_batch() -> None:
    calls: list[Call] = []
    model, images = Twice(), torch.randn(3, 1, 12, 16)
    with watch_deformable(model, calls.append):
        model(images)
    fine, coarse = Grid((6, 8), (2.0, 2.0), (0.5, 0.5)), Grid((3, 4), (4.0, 4.0), (0.5, 0.5))
    assert [(call.name, call.input_grid, call.output_grid) for call in calls] == [
        ("other", fine, fine),
        ("layer", fine, fine),
        ("layer[2]", coarse, coarse),
    ]
    assert calls[1].layer is model.layer
    assert torch.equal(calls[1].features, model.stem(images))


def test_outside_nothing_is_told() -> None:
    calls: list[Call] = []
    model = Twice()
    with pytest.raises(ZeroDivisionError), watch_deformable(model, calls.append):
        raise ZeroDivisionError
    model(torch.zeros(1, 1, 12, 16))
    assert calls == []


def test_a_network_without_deformable_layers_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="model: expected at least one"),
        watch_deformable(nn.Conv2d(1, 1, 1), print),
    ):
        pass


@pytest.mark.parametrize(
    ("value", "expected"), [(3, (3, 3)), ((1, 2), (1, 2)), ([4, 5], (4, 5)), ("valid", (0, 0))], ids=str
)
def test_a_number_stands_for_both_axes(value: object, expected: tuple[int, int]) -> None:
    assert pair(value) == expected


class Aligned(ModulatedDeformConvPack):
    """Its offsets come from a second map."""

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:  # type: ignore[override]
        offset, mask = self.split(self.conv_offset(guide))
        result: Tensor = self._convolve(x, offset, mask if mask is not None else x)
        return result


class Guided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Aligned(2, 2, 3, padding=1)
        nn.init.normal_(self.layer.conv_offset.weight)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layer(images, images.flip(3))
        return result


def test_offsets_are_those_of_the_call_whatever_the_branch_sees() -> None:
    calls: list[Call] = []
    model, images = Guided(), torch.randn(2, 2, 5, 6)
    with watch_deformable(model, calls.append):
        output = model(images)
    (call,) = calls
    offset, mask = call.layer.split(call.predicted)
    expected = deform_conv2d(images, offset, model.layer.weight, model.layer.bias, padding=1, mask=mask)
    torch.testing.assert_close(output, expected)
    assert not torch.equal(offset, model.layer.offsets(images)[0])
    assert not model.layer.conv_offset._forward_hooks
