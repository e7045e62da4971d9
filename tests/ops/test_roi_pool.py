"""The RoI poolings without offsets against loops, golden vectors and onnxruntime; and what all RoI poolings share."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.ops import nms, ps_roi_align, ps_roi_pool, roi_align, roi_pool
from tests.ops import roi_oracle as oracle
from tests.ops.cases import BACKENDS, TOLERANCE
from tests.ops.roi_cases import ALL, AVERAGING, ROIS, SCALE, SIZE, make

GOLDEN = Path(__file__).parents[1] / "golden"
DTYPES = [pytest.param(d, id=str(d).removeprefix("torch.")) for d in TOLERANCE]


def close(actual: Tensor, expected: Tensor | np.ndarray[Any, Any], dtype: torch.dtype = torch.float32) -> None:
    reference = torch.as_tensor(expected).double()
    limit = TOLERANCE[dtype] * max(1.0, float(reference.abs().max()) if reference.numel() else 1.0)
    torch.testing.assert_close(actual.double(), reference, atol=limit, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_roi_align_against_loops(ratio: int, aligned: bool, backend: str) -> None:
    x, rois, *_ = make(channels=3)
    expected = oracle.align(x.numpy(), rois.numpy(), SIZE, SCALE, ratio, aligned)
    close(roi_align(x, rois, SIZE, SCALE, ratio, aligned, backend=backend), expected, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ratio", [0, 2])
def test_ps_roi_align_against_loops(ratio: int, backend: str) -> None:
    x, rois, *_ = make()
    expected = oracle.align(x.numpy(), rois.numpy(), SIZE, SCALE, ratio, True, group=SIZE)
    close(ps_roi_align(x, rois, SIZE, SCALE, ratio, backend=backend), expected, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rounding", ["before_scale", "after_scale"])
def test_ps_roi_pool_against_loops(rounding: Any, backend: str) -> None:
    x, rois, *_ = make()
    expected = oracle.cells(x.numpy(), rois.numpy(), SIZE, SCALE, 2, rounding)
    close(ps_roi_pool(x, rois, SIZE, SCALE, group_size=2, rounding=rounding, backend=backend), expected, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_roi_pool_against_loops(backend: str) -> None:
    x, rois, *_ = make(channels=3)
    expected = oracle.cells(x.numpy(), rois.numpy(), SIZE, SCALE, 1, "max")
    close(roi_pool(x, rois, SIZE, SCALE, backend=backend), expected, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, [[14.0, 16], [26, 28]]), (0.7, [[7.0, 9], [19, 21]])], ids=["whole", "0.7"]
)
def test_roi_pool_documented_example(scale: float, expected: list[list[float]], backend: str) -> None:
    x = torch.arange(48.0).view(1, 1, 8, 6)
    got = roi_pool(x, torch.tensor([[0.0, 0, 0, 4, 4]]), 2, scale, backend=backend)
    assert got[0, 0].tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["psroi_p7g7_od3", "roipool_p7"])
def test_original_implementation(name: str, backend: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as file:
        data = {key: torch.from_numpy(file[key]) for key in file.files}
    x = data["x"].requires_grad_()
    pool = ps_roi_pool if name.startswith("psroi") else roi_pool
    out = pool(x, data["rois"], 7, 1 / 16, backend=backend)
    out.backward(data["grad_out"])
    assert x.grad is not None
    close(out.detach(), data["out"])
    close(x.grad, data["grad_x"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["test_roi_align", "test_deform_roi_pool"])
@pytest.mark.parametrize("case", range(3))
def test_mmcv_vectors(case: int, name: str, backend: str) -> None:
    data = json.loads((GOLDEN / "foreign" / "mmcv_expected.json").read_text())[name]
    (x_values, rois), (expected, grad) = data["inputs"][case], data["outputs"][case]
    x = torch.tensor(x_values, requires_grad=True)
    out = roi_align(x, torch.tensor(rois), 2, 1.0, 2, True, backend=backend)
    out.sum().backward()
    assert x.grad is not None
    close(out.detach(), torch.tensor(expected))
    close(x.grad, torch.tensor(grad))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["aligned_false", "aligned_true"])
def test_onnx_vectors(name: str, backend: str) -> None:
    with np.load(GOLDEN / "foreign" / f"onnx_test_roialign_{name}.npz") as file:
        x, boxes, image, out = (torch.from_numpy(file[key]) for key in ("in_0", "in_1", "in_2", "out"))
        attributes = ast.literal_eval(str(file["attrs"]))
    rois = torch.cat((image[:, None].float(), boxes), 1)
    aligned = attributes["coordinate_transformation_mode"] == b"half_pixel"
    got = roi_align(x, rois, 5, 1.0, attributes["sampling_ratio"], aligned, backend=backend)
    torch.testing.assert_close(got, out, atol=1e-4, rtol=0)  # the file has four decimals


def onnx_roi_align(x: Tensor, rois: Tensor, ratio: int, aligned: bool) -> np.ndarray[Any, Any]:
    mode = "half_pixel" if aligned else "output_half_pixel"
    node = helper.make_node(
        "RoiAlign",
        ["x", "rois", "image"],
        ["y"],
        output_height=SIZE[0],
        output_width=SIZE[1],
        spatial_scale=SCALE,
        sampling_ratio=ratio,
        coordinate_transformation_mode=mode,
    )
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "rois")]
    inputs.append(helper.make_tensor_value_info("image", TensorProto.INT64, None))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {"x": x.numpy(), "rois": rois[:, 1:].numpy(), "image": rois[:, 0].long().numpy()}
    result: np.ndarray[Any, Any] = session.run(None, feed)[0]
    return result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_against_onnxruntime(ratio: int, aligned: bool, backend: str) -> None:
    generator = torch.Generator().manual_seed(ratio)
    x = torch.randn(2, 5, 13, 17, generator=generator)
    corners = torch.rand(40, 4, generator=generator) * 16
    corners[:, 2:] += corners[:, :2] - 3
    rois = torch.cat((torch.randint(0, 2, (40, 1), generator=generator).float(), corners), 1)
    rois = rois[(rois[:, 3:] > rois[:, 1:3]).all(1)]
    got = roi_align(x, rois, SIZE, SCALE, ratio, aligned, backend=backend)
    close(got, onnx_roi_align(x, rois, ratio, aligned))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ALL)
def test_gradients(name: str, backend: str) -> None:
    x, rois, offset, mask = make(channels=8)
    leaves = [t.requires_grad_() for t in (x, offset, mask)]

    def pool(x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return ALL[name](x, rois, offset, mask, backend)

    # Tenths of a pixel away from the kinks at whole coordinates, so finite differences of 1e-6 do not cross one.
    assert torch.autograd.gradcheck(pool, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(pool, leaves, fast_mode=True)


@pytest.mark.parametrize("name", AVERAGING)
def test_forward_mode_gradients(name: str) -> None:
    x, rois, offset, mask = make(channels=8)
    leaves = [t.requires_grad_() for t in (x, offset, mask)]
    assert torch.autograd.gradcheck(
        lambda *t: AVERAGING[name](t[0], rois, t[1], t[2], None),
        leaves,
        check_forward_ad=True,
        check_backward_ad=False,
        fast_mode=True,
    )


def run(name: str, backend: str | None, x: Tensor, rois: Tensor, offset: Tensor, mask: Tensor) -> list[Tensor]:
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, offset, mask)]
    out = ALL[name](leaves[0], rois, leaves[1], leaves[2], backend)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    (out * weights.to(out.dtype)).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_dtypes(name: str, dtype: torch.dtype, backend: str) -> None:
    x, rois, offset, mask = make(dtype)
    wide = (x.double(), rois.double(), offset.double(), mask.double())
    for got, expected in zip(run(name, backend, x, rois, offset, mask), run(name, "reference", *wide), strict=True):
        close(got, expected, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
@pytest.mark.parametrize("name", ALL)
def test_memory_layouts(name: str, layout: str, backend: str) -> None:
    x, rois, offset, mask = make()
    views = {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "sliced": torch.stack((x, x), -1).flatten(3)[..., ::2],
    }
    for got, expected in zip(
        run(name, backend, views[layout], rois, offset, mask), run(name, backend, x, rois, offset, mask), strict=True
    ):
        close(got, expected, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("images", "rois"), [(0, 0), (2, 0), (33, 37)], ids=["no-image", "no-roi", "many"])
@pytest.mark.parametrize("name", ALL)
def test_batch_sizes(name: str, images: int, rois: int, backend: str) -> None:
    boxes = ROIS.repeat(5, 1)[:rois].clone()
    boxes[:, 0] = torch.arange(rois) % max(images, 1)
    arguments = make(images=images, rois=boxes)
    got = run(name, backend, *arguments)
    assert got[0].shape[0] == rois
    assert got[1].shape == arguments[0].shape
    for one, expected in zip(got, run(name, "reference", *arguments), strict=True):
        close(one, expected, torch.float64)


WILD = torch.tensor(
    [
        [0, float("nan"), 0, 3, 3],
        [0, 0, 0, float("inf"), 3],
        [1, -float("inf"), 0, 3, 3],
        [0, -1e30, -1e30, 1e30, 1e30],
        [1, -3e38, -3e38, 3e38, 3e38],
        [1, 1e9, 1e9, -1e9, -1e9],
        [0, 1e20, 1e20, 1e20, 1e20],
        [0, -1e6, -1e6, 1e6, 1e6],
    ]
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ALL)
def test_boxes_that_are_no_boxes(name: str, backend: str) -> None:
    x, _, offset, mask = make(torch.float32)
    offset[3, :, 0, 0] = torch.tensor([float("nan"), float("inf")])
    got = run(name, backend, x, WILD, offset, mask)
    assert all(bool(torch.isfinite(value).all()) for value in got)
    assert not got[0][:3].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_huge_roi_equals_the_same_roi_with_all_its_samples(backend: str) -> None:
    """Adaptive sampling of a RoI far over the map skips samples outside, which count as 0."""
    x, *_ = make(channels=2)
    rois = torch.tensor([[0, -150.0, -90, 170, 130]], dtype=torch.float64)
    expected = oracle.align(x.numpy(), rois.numpy(), SIZE, SCALE, 0, True)
    close(roi_align(x, rois, SIZE, SCALE, 0, True, backend=backend), expected, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ALL)
def test_nan_stays_where_it_is(name: str, backend: str) -> None:
    x, _, offset, mask = make(torch.float32)
    x[0, :, 0, 0] = float("nan")
    rois = torch.tensor([[0, 6.0, 6, 8, 8], [0, 0, 0, 5, 5]])
    out = ALL[name](x, rois, offset[:2] * 0, mask[:2], backend)
    assert bool(torch.isfinite(out[0]).all())
    assert bool(out[1].isnan().any())


@pytest.mark.skipif(_library.reason() is not None, reason=str(_library.reason()))
@pytest.mark.parametrize("name", ALL)
def test_thread_count_does_not_change_a_bit(name: str) -> None:
    x, rois, offset, mask = make(torch.float32, channels=152)
    arguments = (x, rois.repeat(4, 1), offset.repeat(4, 1, 1, 1), mask.repeat(4, 1, 1, 1))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(name, "cpu", *arguments))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["deform-mask", "parts-group", "align-adaptive"])
def test_opcheck(name: str, backend: str) -> None:
    x, rois, offset, mask = make(torch.float32)
    x, offset, mask = (t.requires_grad_() for t in (x, offset, mask))
    options: dict[str, tuple[Any, ...]] = {
        "deform-mask": (offset, mask, "half_pixel", [4, 2], [1, 1], SCALE, 2, 0.3),
        "parts-group": (offset, mask, "parts", [4, 2], [2, 2], SCALE, 3, 0.3),
        "align-adaptive": (None, None, "align", [4, 2], [1, 1], SCALE, 0, 0.0),
    }
    torch.library.opcheck(torch.ops.dcn.roi_mean.default, (x, rois, *options[name], backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_max(backend: str) -> None:
    x, rois, *_ = make(torch.float32)
    torch.library.opcheck(torch.ops.dcn.roi_max.default, (x.requires_grad_(), rois, [4, 2], SCALE, backend))


class _Pool(torch.nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, rois: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return ALL[self.name](x, rois, offset, mask, None)


@pytest.mark.parametrize("name", ALL)
def test_export(name: str) -> None:
    arguments = make(torch.float32)
    program = torch.export.export(_Pool(name), arguments)
    close(program.module()(*arguments), ALL[name](*arguments, None))


@pytest.mark.parametrize("name", ["align-adaptive", "parts", "max"])
def test_compile(name: str) -> None:
    arguments = make(torch.float32)
    compiled = torch.compile(_Pool(name), fullgraph=True, backend="aot_eager")
    close(compiled(*arguments), ALL[name](*arguments, None))


def test_vmap_over_maps() -> None:
    x, rois, *_ = make(torch.float32)
    stacked = torch.stack((x, 2 * x))
    got = torch.func.vmap(lambda one: roi_align(one, rois, 3, SCALE))(stacked)
    close(got, torch.stack([roi_align(one, rois, 3, SCALE) for one in stacked]))


@pytest.mark.parametrize("name", ["align", "max", "parts-group", "deform-mask"])
@pytest.mark.parametrize("mapped", [(0,), (1,), (2, 3), (0, 1, 2, 3)], ids=str)
def test_vmap_of_gradients(mapped: tuple[int, ...], name: str) -> None:
    sets = [make(), make()]
    sets[1] = (2 * sets[1][0], sets[1][1] + torch.tensor([0, 0.3, 0.2, 0.1, 0.4]), -sets[1][2], 0.5 * sets[1][3])
    stacked = [torch.stack([s[i] for s in sets]) if i in mapped else sets[0][i] for i in range(4)]

    def gradients(x: Tensor, rois: Tensor, offset: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return torch.func.grad(
            lambda x, offset, mask: ALL[name](x, rois, offset, mask, None).square().sum(), argnums=(0, 1, 2)
        )(x, offset, mask)

    answer = torch.func.vmap(gradients, in_dims=tuple(0 if i in mapped else None for i in range(4)))(*stacked)
    for location in range(2):
        reference = gradients(*(s[location] if i in mapped else s for i, s in enumerate(stacked)))
        for a, b in zip(answer, reference, strict=True):
            close(a[location], b, torch.float64)


def test_vmap_does_not_turn_a_wrong_image_into_another_call_s() -> None:
    x, rois, *_ = make()
    stacked = torch.stack((rois, rois))
    stacked[0, 0, 0] = x.shape[0]
    with pytest.raises(ValueError, match=r"^boxes: expected image indices"):
        torch.func.vmap(lambda x, rois: roi_align(x, rois, 2))(torch.stack((x, x)), stacked)


@pytest.mark.parametrize("name", ["align", "max", "parts", "deform-mask"])
def test_hessian(name: str) -> None:
    x, rois, offset, mask = make(images=1)
    x, rois, offset, mask = x[:, :, :3, :3].clone(), rois[:1] * torch.tensor([0.0, 1, 1, 1, 1]), offset[:1], mask[:1]

    def loss(x: Tensor) -> Tensor:
        return ALL[name](x, rois, offset, mask, None).pow(3).sum()

    reference = torch.autograd.functional.hessian(loss, x)
    close(torch.func.hessian(loss)(x), reference, torch.float64)
    close(torch.func.jacrev(torch.func.jacrev(loss))(x), reference, torch.float64)


def test_a_list_of_boxes_is_the_same_as_one_tensor() -> None:
    x, rois, *_ = make()
    rois = rois[rois[:, 0].argsort(stable=True)]
    listed = [rois[rois[:, 0] == image, 1:] for image in (0, 1)]
    assert torch.equal(roi_align(x, listed, 3, SCALE), roi_align(x, rois, 3, SCALE))


X, BOXES = torch.zeros(2, 4, 5, 5), torch.zeros(1, 5)
WRONG: dict[str, tuple[str, Any]] = {
    "input-axes": ("input", lambda: roi_align(X[0], BOXES, 2)),
    "input-empty": ("input", lambda: roi_align(X[:, :, :0], BOXES, 2)),
    "input-type": ("input", lambda: roi_align(X.long(), BOXES, 2)),
    "boxes-columns": ("boxes", lambda: roi_align(X, BOXES[:, 1:], 2)),
    "boxes-count": ("boxes", lambda: roi_align(X, [BOXES[:, 1:]], 2)),
    "boxes-type": ("boxes", lambda: roi_align(X, BOXES.long(), 2)),
    "image-high": ("boxes", lambda: roi_align(X, BOXES + 2, 2)),
    "image-negative": ("boxes", lambda: roi_pool(X, BOXES - 1, 2)),
    "image-nan": ("boxes", lambda: roi_align(X, BOXES * float("nan"), 2)),
    "size": ("output_size", lambda: roi_align(X, BOXES, 0)),
    "scale": ("spatial_scale", lambda: roi_align(X, BOXES, 2, 0.0)),
    "samples": ("sampling_ratio", lambda: roi_align(X, BOXES, 2, 1.0, 10**6)),
    "samples-fraction": ("sampling_ratio", lambda: ps_roi_align(X, BOXES, 2, 1.0, 1.5)),  # type: ignore[arg-type]
    "scale-none": ("spatial_scale", lambda: roi_pool(X, BOXES, 2, None)),  # type: ignore[arg-type]
    "scale-nan": ("spatial_scale", lambda: ps_roi_pool(X, BOXES, 2, float("nan"))),
    "aligned": ("aligned", lambda: roi_align(X, BOXES, 2, aligned="no")),  # type: ignore[arg-type]
    "size-huge": ("output_size", lambda: roi_align(X, BOXES, 2**40)),
    "size-bool": ("output_size", lambda: roi_align(X, BOXES, True)),
    "input-sparse": ("input", lambda: roi_pool(X.to_sparse(), BOXES, 2)),
    "boxes-sparse": ("boxes", lambda: roi_align(X, BOXES.to_sparse(), 2)),
    "boxes-devices": (
        r"boxes\[1\]",
        lambda: roi_align(X, [torch.zeros(1, 4), torch.zeros(1, 4, device="meta")], 2),
    ),
    "channels": ("input", lambda: ps_roi_pool(X, BOXES, 3)),
    "rounding": ("rounding", lambda: ps_roi_pool(X, BOXES, 2, rounding="never")),  # type: ignore[arg-type]
    "backend": ("backend", lambda: roi_align(X, BOXES, 2, backend="fast")),
    "nms-scores": ("scores", lambda: nms(torch.zeros(3, 4), torch.zeros(2), 0.5)),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str) -> None:
    name, call = WRONG[case]
    with pytest.raises(ValueError, match=name):
        call()
