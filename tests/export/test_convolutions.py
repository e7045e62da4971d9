"""A user's network with this package's layers through ``torch.onnx.export`` and onnxruntime."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcn import ops
from dcn.nn import DeformConv1d, DeformConv2d, DeformConv3d
from tests.export.onnx_runs import Function, check

FOREIGN = Path(__file__).parents[1] / "golden" / "foreign"
LAYERS: dict[int, Any] = {1: DeformConv1d, 2: DeformConv2d, 3: DeformConv3d}
SIZES: dict[int, list[tuple[int, ...]]] = {1: [(9,), (14,)], 2: [(9, 8), (12, 7)], 3: [(5, 6, 7), (4, 8, 5)]}


def _layer(dimensions: int, **options: Any) -> nn.Module:
    """A layer whose offsets reach far beyond the map."""
    torch.manual_seed(0)
    layer: nn.Module = LAYERS[dimensions](4, 6, 3, padding=1, groups=2, offset_groups=2, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    nn.init.normal_(layer.conv_offset.bias, std=2.0)  # type: ignore[union-attr, arg-type]
    return layer


def _inputs(dimensions: int) -> list[tuple[Tensor]]:
    return [(torch.randn(n, 4, *size),) for n, size in zip((2, 3), SIZES[dimensions], strict=True)]


LAYER_CASES: list[tuple[int, dict[str, Any]]] = [
    (2, {"boundary": "v2"}),
    (2, {"boundary": "v2", "modulated": True, "stride": (2, 1)}),
    (2, {"boundary": "v1", "stride": (1, 2), "dilation": (1, 1)}),
    (2, {"boundary": "v1", "modulated": True, "bias": False}),
    (1, {"boundary": "v2"}),
    (1, {"boundary": "v1", "modulated": True, "stride": 2}),
    (3, {"boundary": "v2", "modulated": True}),
    (3, {"boundary": "v1", "stride": (1, 2, 1), "bias": False}),
]


@pytest.mark.parametrize(
    ("dimensions", "options"), LAYER_CASES, ids=[f"{d}d {' '.join(map(str, o.values()))}" for d, o in LAYER_CASES]
)
def test_layers_of_dynamic_batch_and_size(tmp_path: Path, dimensions: int, options: dict[str, Any]) -> None:
    axes = {0: "n"} | {2 + axis: "dhw"[3 - dimensions + axis] for axis in range(dimensions)}
    first, *others = _inputs(dimensions)
    proto = check(_layer(dimensions, **options), tmp_path / "m.onnx", first, [axes], others)
    kinds = {node.op_type for node in proto.graph.node}
    assert ("GridSample" if dimensions == 3 else "DeformConv") in kinds


def test_a_network(tmp_path: Path) -> None:
    """Layers among ordinary ones, with a fixed size."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), _layer(2, modulated=True), nn.BatchNorm2d(6), _flat())
    proto = check(model, tmp_path / "m.onnx", (torch.randn(1, 3, 11, 10),))
    assert [node.op_type for node in proto.graph.node].count("DeformConv") == 1


def _flat() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


@pytest.mark.parametrize("boundary", ["v1", "v2"])
def test_at_the_edge_of_the_map(tmp_path: Path, boundary: str) -> None:
    """Every position on a lattice of quarters around a 4x5 map, whole numbers and -1 included."""
    lattice = torch.cartesian_prod(torch.arange(-1.5, 4.75, 0.25), torch.arange(-1.5, 5.75, 0.25))
    offset = lattice.T.reshape(1, 2, 1, -1)
    offset = offset - torch.stack((torch.zeros(lattice.shape[0]), torch.arange(float(lattice.shape[0])))).reshape(
        1, 2, 1, -1
    )
    x = torch.randn(1, 1, 4, 5)
    wide = torch.nn.functional.pad(x, (0, lattice.shape[0] - 5))

    def sample(x: Tensor, offset: Tensor) -> Tensor:
        return ops.deform_conv2d(x, offset, torch.ones(1, 1, 1, 1), boundary=boundary)

    # One output location per position: the map is as wide as there are positions, its other columns are 0.
    tall = torch.cat((wide, torch.zeros(1, 1, 0, wide.shape[3])), 2)
    rows = offset.expand(1, 2, 4, -1)
    check(Function(sample), tmp_path / "m.onnx", (tall, rows.contiguous()))


@pytest.mark.parametrize("path", sorted(FOREIGN.glob("onnx_test_*deform_conv*.npz")), ids=lambda p: p.stem)
def test_cases_of_the_standard(tmp_path: Path, path: Path) -> None:
    with np.load(path) as data:
        given = [torch.from_numpy(data[f"in_{i}"]) if f"in_{i}" in data else None for i in range(5)]
        padding = ast.literal_eval(str(data["attrs"]))["pads"][:2]
        expected = torch.from_numpy(data["out"])
    x, weight, offset, bias, mask = given
    inputs = [t for t in (x, weight, offset, bias, mask) if t is not None]

    def call(*tensors: Tensor) -> Tensor:
        rest = list(tensors[3:])
        own_bias = rest.pop(0) if bias is not None else None
        own_mask = rest.pop(0) if mask is not None else None
        return ops.deform_conv2d(tensors[0], tensors[2], tensors[1], own_bias, padding=padding, mask=own_mask)

    model = Function(call)
    check(model, tmp_path / "m.onnx", inputs)
    torch.testing.assert_close(model(*inputs), expected, rtol=0, atol=1e-6)


TRANSPOSED: dict[str, tuple[int, dict[str, Any]]] = {
    "1d v2": (1, {"stride": 2, "output_padding": 1}),
    "2d v1": (2, {"boundary": "v1", "stride": (2, 1), "padding": 1}),
    "3d v2": (3, {"padding": 1}),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed(tmp_path: Path, name: str) -> None:
    n, options = TRANSPOSED[name]
    torch.manual_seed(0)
    operator = (ops.deform_conv_transpose1d, ops.deform_conv_transpose2d, ops.deform_conv_transpose3d)[n - 1]
    weight, bias = torch.randn(4, 3, *[3] * n), torch.randn(6)

    def call(x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return operator(x, offset, weight, bias, groups=2, mask=mask, **options)

    def draw(images: int, *size: int) -> tuple[Tensor, ...]:
        taps = 2 * 3**n
        return torch.randn(images, 4, *size), torch.randn(images, n * taps, *size), torch.rand(images, taps, *size)

    axes = {0: "n"} | {2 + axis: "dhw"[3 - n + axis] for axis in range(n)}
    drawn: dict[int, list[tuple[int, ...]]] = {1: [(7,), (10,)], 2: [(5, 6), (7, 4)], 3: [(3, 4, 3), (4, 3, 5)]}
    check(Function(call), tmp_path / "m.onnx", draw(2, *drawn[n][0]), [axes] * 3, [draw(1, *drawn[n][1])])


def _dcnv3(n: int, h: int, w: int, taps: int) -> tuple[Tensor, ...]:
    return torch.randn(n, h, w, 8), torch.randn(n, h, w, 4 * taps) * 2, torch.rand(n, h, w, 2 * taps)


@pytest.mark.parametrize(
    "options", [{"softmax": True, "offset_scale": 1.5}, {"remove_center": True}], ids=["softmax", "without centre"]
)
def test_dcnv3(tmp_path: Path, options: dict[str, Any]) -> None:
    taps, axes = (8 if "remove_center" in options else 9), {0: "n", 1: "h", 2: "w"}
    model = Function(lambda x, offset, mask: ops.dcnv3(x, offset, mask, 3, padding=1, groups=2, **options))
    check(model, tmp_path / "m.onnx", _dcnv3(2, 6, 7, taps), [axes] * 3, [_dcnv3(1, 9, 5, taps)])


def test_dcnv4(tmp_path: Path) -> None:
    axes = {0: "n", 1: "h", 2: "w"}
    model = Function(lambda x, offset_mask: ops.dcnv4(x, offset_mask, 3, padding=1, groups=2))
    cases = [(torch.randn(*size, 8), torch.randn(*size, 56)) for size in ((2, 6, 7), (1, 9, 5))]
    check(model, tmp_path / "m.onnx", cases[0], [axes] * 2, cases[1:])


def _attention(n: int, queries: int, shapes: tuple[tuple[int, int], ...]) -> tuple[Tensor, ...]:
    areas = [height * width for height, width in shapes]
    starts = torch.tensor([0, areas[0]])
    locations = torch.rand(n, queries, 2, 2, 3, 2) * 1.4 - 0.2
    return torch.randn(n, sum(areas), 2, 4), torch.tensor(shapes), starts, locations, torch.rand(n, queries, 2, 2, 3)


def test_ms_deform_attn_of_levels_that_are_data(tmp_path: Path) -> None:
    model = Function(ops.ms_deform_attn)
    axes = [{0: "n", 1: "s"}, {}, {}, {0: "n", 1: "q"}, {0: "n", 1: "q"}]
    first, other = _attention(2, 7, ((5, 6), (3, 3))), _attention(1, 4, ((7, 3), (2, 5)))
    check(model, tmp_path / "m.onnx", first, axes, [other])
