"""The layer of multi-scale deformable attention: keys, start values, and what its arguments do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.nn import MultiScaleDeformableAttention
from dcn.nn.ms_deform_attn import locate, ring_bias

SHAPES = ((4, 6), (2, 3))
PIXELS = 30


def _layer() -> MultiScaleDeformableAttention:
    torch.manual_seed(0)
    layer = MultiScaleDeformableAttention(d_model=16, n_levels=2, n_heads=4, n_points=3)
    torch.nn.init.normal_(layer.attention_weights.weight)
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.3)
    return layer


def _inputs(numbers: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, reference points, maps."""
    random = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 5, 16, generator=random),
        torch.rand(2, 5, 2, numbers, generator=random),
        torch.randn(2, PIXELS, 16, generator=random),
    )


def test_keys_and_shapes_are_those_of_the_original() -> None:
    expected = {
        "sampling_offsets": (8 * 4 * 4 * 2, 256),
        "attention_weights": (8 * 4 * 4, 256),
        "value_proj": (256, 256),
        "output_proj": (256, 256),
    }
    state = MultiScaleDeformableAttention().state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in expected.items()
        for part in ("weight", "bias")
    }


def test_starts_as_a_ring_with_equal_weights() -> None:
    layer = MultiScaleDeformableAttention(d_model=16, n_levels=2, n_heads=8, n_points=3)
    ring = layer.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    assert torch.equal(ring[:, 0], ring[:, 1])
    # Head 1 of 8 looks along the diagonal; the unit square, not the circle.
    torch.testing.assert_close(ring[1, 0], torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    torch.testing.assert_close(ring[4, 0, 2], torch.tensor([-3.0, 0.0]), rtol=0, atol=1e-6)
    for name in ("sampling_offsets.weight", "attention_weights.weight", "attention_weights.bias", "output_proj.bias"):
        assert not layer.get_parameter(name).any()
    limit = (6 / 32) ** 0.5
    assert 0.9 * limit < layer.value_proj.weight.abs().max() <= limit
    assert ring_bias(8, 2, 3).dtype == torch.float32


def test_offsets_are_pixels_of_their_level_or_parts_of_a_box() -> None:
    offsets = torch.ones(1, 1, 1, 2, 2, 2)
    points = torch.tensor([0.5, 0.25]).expand(1, 1, 2, 2)
    actual = locate(points, offsets, torch.tensor(SHAPES))
    torch.testing.assert_close(actual[0, 0, 0, :, 0], torch.tensor([[0.5 + 1 / 6, 0.25 + 1 / 4], [0.5 + 1 / 3, 0.75]]))
    boxes = torch.tensor([0.5, 0.25, 0.2, 0.4]).expand(1, 1, 2, 4)
    actual = locate(boxes, offsets, torch.tensor(SHAPES))
    torch.testing.assert_close(actual[0, 0, 0, 0, 0], torch.tensor([0.5 + 0.1 / 2, 0.25 + 0.2 / 2]))


@pytest.mark.parametrize("numbers", [2, 4])
def test_padding_counts_as_zero_and_gets_no_gradient(numbers: int) -> None:
    layer, (query, points, maps) = _layer(), _inputs(numbers)
    mask = torch.zeros(2, PIXELS, dtype=torch.bool)
    mask[:, 20:] = True
    changed = maps.clone()
    changed[:, 20:] = 1e6
    leaf = changed.requires_grad_()
    actual = layer(query, points, leaf, SHAPES, None, mask)
    torch.testing.assert_close(actual, layer(query, points, maps, SHAPES, None, mask))
    assert not torch.equal(actual, layer(query, points, maps, SHAPES))
    actual.sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad[:, 20:].any()


def test_levels_as_pairs_or_tensors() -> None:
    layer, inputs = _layer(), _inputs()
    shapes, starts = torch.tensor(SHAPES), torch.tensor([0, 24])
    assert torch.equal(layer(*inputs, SHAPES), layer(*inputs, shapes, starts))


def test_reference_points_may_be_the_same_for_all() -> None:
    query, points, maps = _inputs()
    layer = _layer()
    for shared in (points[:1], points[:, :1], points[:, :, :1]):
        expected = layer(query, shared.expand_as(points), maps, SHAPES)
        torch.testing.assert_close(layer(query, shared, maps, SHAPES), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_near_float32(dtype: torch.dtype) -> None:
    layer, inputs = _layer(), _inputs()
    reference = layer(*inputs, SHAPES)
    with torch.autocast("cpu", dtype):
        actual = layer(*inputs, SHAPES)
    assert actual.dtype == dtype
    actual.sum().backward()
    # Two projections in half precision, and offsets of a few pixels moved by up to 2**-8 of them.
    torch.testing.assert_close(actual.float(), reference, rtol=0, atol=0.1 * reference.abs().max().item())


def test_a_layer_in_half_precision() -> None:
    layer, (query, points, maps) = _layer().bfloat16(), _inputs()
    actual = layer(query.bfloat16(), points, maps.bfloat16(), SHAPES)
    assert actual.dtype == torch.bfloat16
    assert actual.isfinite().all()


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "query": ("query", {"query": torch.zeros(2, 5, 15)}),
    "maps": ("input_flatten", {"input_flatten": torch.zeros(2, PIXELS, 1, 16)}),
    "points": ("reference_points", {"reference_points": torch.zeros(2, 5, 2, 3)}),
    "points-axes": ("reference_points", {"reference_points": torch.zeros(2, 5, 2)}),
    "mask": ("input_padding_mask", {"input_padding_mask": torch.zeros(2, 3, dtype=torch.bool)}),
    "points-batch": ("reference_points: expected shape", {"reference_points": torch.zeros(3, 5, 2, 2)}),
    "points-queries": ("reference_points: expected shape", {"reference_points": torch.zeros(2, 4, 2, 2)}),
    "points-levels": ("reference_points: expected shape", {"reference_points": torch.zeros(2, 5, 3, 2)}),
    "batch": ("input_flatten: expected the 1 images of query", {"query": torch.zeros(1, 5, 16)}),
    "mask-type": ("input_padding_mask: expected torch.bool", {"input_padding_mask": torch.zeros(2, PIXELS)}),
    "levels": ("input_spatial_shapes: expected shape", {"input_spatial_shapes": ((4, 6),)}),
    "pixels": ("input_flatten: expected the 25 pixels of input_spatial", {"input_spatial_shapes": ((4, 6), (1, 1))}),
    "shapes": ("spatial_shapes", {"input_spatial_shapes": ((40, 6), (2, 3))}),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str) -> None:
    name, changes = WRONG[case]
    query, points, maps = _inputs()
    call = {"query": query, "reference_points": points, "input_flatten": maps, "input_spatial_shapes": SHAPES}
    with pytest.raises(ValueError, match=name):
        _layer()(**(call | changes))


@pytest.mark.parametrize(
    ("name", "changes"), [("d_model", {"d_model": 18}), ("n_heads", {"n_heads": 0}), ("n_points", {"n_points": 1.5})]
)
def test_wrong_sizes(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=name):
        MultiScaleDeformableAttention(**({"d_model": 16, "n_heads": 4} | changes))
