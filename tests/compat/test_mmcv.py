"""``dcn.compat.mmcv``: the fixed numbers of mmcv's own tests, its argument lists, its checkpoints' keys."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcn.compat import mmcv
from dcn.nn import rename_old_keys

EXPECTED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "foreign" / "mmcv_expected.json").read_text()
)

CONV = "in_channels out_channels kernel_size stride=1 padding=0 dilation=1 groups=1 deform_groups=1"
POOL = "output_size output_channels deform_fc_channels=1024 spatial_scale=1.0 sampling_ratio=0 gamma=0.1"
ARGUMENTS = {
    "DeformConv2d": f"{CONV} bias=False im2col_step=32",
    "ModulatedDeformConv2d": f"{CONV} bias=True",
    "DeformRoIPool": "output_size spatial_scale=1.0 sampling_ratio=0 gamma=0.1",
    "DeformRoIPoolPack": POOL,
    "ModulatedDeformRoIPoolPack": POOL,
    "RoIAlign": "output_size spatial_scale=1.0 sampling_ratio=0 pool_mode='avg' aligned=True use_torchvision=False",
    "RoIPool": "output_size spatial_scale=1.0",
    "deform_conv2d": "input offset weight stride=1 padding=0 dilation=1 groups=1 deform_groups=1 bias=False "
    "im2col_step=32",
    "modulated_deform_conv2d": "input offset mask weight bias=None stride=1 padding=0 dilation=1 groups=1 "
    "deform_groups=1",
    "deform_roi_pool": "input rois offset output_size spatial_scale=1.0 sampling_ratio=0 gamma=0.1",
    "roi_align": "input rois output_size spatial_scale=1.0 sampling_ratio=0 pool_mode='avg' aligned=True",
    "roi_pool": "input rois output_size spatial_scale=1.0",
    "nms": "boxes scores iou_threshold offset=0 score_threshold=0 max_num=-1",
    "soft_nms": "boxes scores iou_threshold=0.3 sigma=0.5 min_score=0.001 method='linear' offset=0",
    "batched_nms": "boxes scores idxs nms_cfg class_agnostic=False",
    "bbox_overlaps": "bboxes1 bboxes2 mode='iou' aligned=False offset=0",
    "bilinear_grid_sample": "im grid align_corners=False",
    "masked_conv2d": "features mask weight bias padding=0 stride=1",
    "sigmoid_focal_loss": "input target gamma=2.0 alpha=0.25 weight=None reduction='mean'",
    "point_sample": "input points align_corners=False kwargs",
    "rel_roi_point_to_rel_img_point": "rois rel_roi_points img spatial_scale=1.0",
    "SimpleRoIAlign": "output_size spatial_scale aligned=True",
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    parameters = inspect.signature(getattr(mmcv, name)).parameters.values()
    actual = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert actual == ARGUMENTS[name].split()


def _tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def test_numbers_of_deform_conv() -> None:
    case, batch = EXPECTED["test_deform_conv"], 10
    layer = mmcv.DeformConv2dPack(1, 1, 2, im2col_step=2)
    branch = layer.conv_offset
    assert branch.bias is not None
    with torch.no_grad():
        branch.weight.copy_(_tensor(case["offset_weight"]).reshape(8, 1, 2, 2))
        branch.bias.copy_(_tensor(case["offset_bias"]))
        layer.weight.copy_(_tensor(case["deform_weight"]).reshape(1, 1, 2, 2))
    x = _tensor(case["input"]).repeat(batch, 1, 1, 1).requires_grad_()
    output = layer(x)
    torch.testing.assert_close(output, _tensor(case["gt_out"]).expand_as(output), rtol=1e-5, atol=1e-5)
    output.mean().backward()
    actual = [x.grad, branch.weight.grad, branch.bias.grad, layer.weight.grad]
    keys = ["gt_x_grad", "gt_offset_weight_grad", "gt_offset_bias_grad", "gt_deform_weight_grad"]
    for grad, key, scale in zip(actual, keys, (4 * batch, 4, 4, 4), strict=True):
        assert grad is not None
        expected = _tensor(case[key]).squeeze(0) if key == "gt_offset_bias_grad" else _tensor(case[key])
        torch.testing.assert_close(grad * scale, expected.expand_as(grad), rtol=1e-3, atol=6e-3)


def test_refusals_of_deform_conv() -> None:
    with pytest.raises(AssertionError, match="im2col_step: expected a divisor of the batch size 10, got 3"):
        mmcv.DeformConv2dPack(1, 1, 2, im2col_step=3)(torch.zeros(10, 1, 3, 3))
    assert not hasattr(mmcv.DeformConv2dPack(1, 1, 2), "bias")
    with pytest.raises(AssertionError, match="bias: expected False"):
        mmcv.DeformConv2dPack(1, 1, 2, bias=True)
    with pytest.raises(AssertionError, match="in_channels: expected a multiple of groups=2"):
        mmcv.DeformConv2d(3, 4, 3, groups=2)
    with pytest.raises(AssertionError, match="out_channels: expected a multiple of groups=3"):
        mmcv.DeformConv2d(3, 4, 3, groups=3)
    with pytest.raises(ValueError, match="groups: expected input channels"):
        mmcv.deform_conv2d(torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 3, 3), torch.zeros(2, 4, 3, 3), groups=2)
    with pytest.raises(ValueError, match=r"offset: expected \[N, 2\*deform_groups\*kh\*kw = 36"):
        mmcv.deform_conv2d(torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 3, 3), torch.zeros(2, 4, 3, 3), deform_groups=2)


def test_any_batch_with_the_usual_step() -> None:
    assert mmcv.DeformConv2dPack(1, 1, 2)(torch.zeros(33, 1, 3, 3)).shape == (33, 1, 2, 2)


def test_numbers_of_modulated_deform_conv() -> None:
    case = EXPECTED["test_modulated_deform_conv"]
    layer = mmcv.ModulatedDeformConv2dPack(1, 1, kernel_size=(2, 2), stride=1, padding=1, deform_groups=1, bias=False)
    nn.init.ones_(layer.weight)
    x = _tensor(case["input_t"]).requires_grad_()
    output = layer(x)
    output.sum().backward()
    branch = layer.conv_offset
    assert branch.bias is not None
    actual = [output, x.grad, layer.weight.grad, branch.weight.grad, branch.bias.grad]
    keys = ["output_t", "input_grad", "dcn_w_grad", "dcn_offset_w_grad", "dcn_offset_b_grad"]
    for value, key in zip(actual, keys, strict=True):
        torch.testing.assert_close(value, _tensor(case[key]), rtol=1e-5, atol=1e-5)


def test_half_offsets_decide_the_type() -> None:
    layer = mmcv.ModulatedDeformConv2d(4, 2, 3, padding=1)
    x, offset, mask = torch.randn(1, 4, 5, 5), torch.randn(1, 18, 5, 5), torch.rand(1, 9, 5, 5)
    half = layer(x, offset.bfloat16(), mask)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x, offset.bfloat16().float(), mask), rtol=0.05, atol=0.05)


ROI_CASES = range(3)


@pytest.mark.parametrize("index", ROI_CASES)
def test_numbers_of_deform_roi_pool(index: int) -> None:
    (image, rois), (expected, gradient) = (
        EXPECTED["test_deform_roi_pool"][key][index] for key in ("inputs", "outputs")
    )
    x = _tensor(image).requires_grad_()
    output = mmcv.DeformRoIPoolPack((2, 2), x.shape[1], spatial_scale=1.0, sampling_ratio=2)(x, _tensor(rois))
    output.backward(torch.ones_like(output))
    torch.testing.assert_close(output, _tensor(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, _tensor(gradient), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", ROI_CASES)
def test_numbers_of_roi_align(index: int) -> None:
    (image, rois), (expected, gradient) = (EXPECTED["test_roi_align"][key][index] for key in ("inputs", "outputs"))
    x = _tensor(image).requires_grad_()
    output = mmcv.roi_align(x, _tensor(rois), 2, 1.0, 2, "avg", True)
    output.backward(torch.ones_like(output))
    torch.testing.assert_close(output, _tensor(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, _tensor(gradient), rtol=1e-5, atol=1e-5)


def _largest_samples(x: Tensor, roi: Tensor, size: int, scale: float, aligned: bool) -> Tensor:
    """RoIAlign's maximum for one RoI by loops over samples, from the definition."""
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (float(v) * scale - shift for v in roi[1:])
    height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
    rows, columns = int(np.ceil(height / size)), int(np.ceil(width / size))
    output = torch.zeros(x.shape[1], size, size)
    for p in range(size):
        for q in range(size):
            values = [
                _bilinear(
                    x[int(roi[0])],
                    y1 + (p + (i + 0.5) / rows) * height / size,
                    x1 + (q + (j + 0.5) / columns) * width / size,
                )
                for i in range(rows)
                for j in range(columns)
            ]
            output[:, p, q] = torch.stack(values).amax(0)
    return output


def _bilinear(x: Tensor, y: float, u: float) -> Tensor:
    height, width = x.shape[1:]
    if not (-1 <= y <= height and -1 <= u <= width):
        return torch.zeros(x.shape[0])
    y, u = min(max(y, 0.0), height - 1.0), min(max(u, 0.0), width - 1.0)
    i, j = int(y), int(u)
    k, m = min(i + 1, height - 1), min(j + 1, width - 1)
    top, bottom = x[:, i, j] * (1 - (u - j)) + x[:, i, m] * (u - j), x[:, k, j] * (1 - (u - j)) + x[:, k, m] * (u - j)
    return top * (1 - (y - i)) + bottom * (y - i)


@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
def test_roi_align_maximum(aligned: bool) -> None:
    x = torch.randn(2, 3, 9, 8)
    rois = torch.tensor([[0.0, 1, 2, 14, 9], [1, -3, 4, 7, 17], [1, 5, 5, 6, 6]])
    actual = mmcv.roi_align(x, rois, 2, 0.5, 0, "max", aligned)
    expected = torch.stack([_largest_samples(x, roi, 2, 0.5, aligned) for roi in rois])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    names: dict[str, Any] = {"out_size": 2, "sample_num": 0}
    layer = mmcv.RoIAlign(spatial_scale=0.5, pool_mode="max", aligned=aligned, **names)
    torch.testing.assert_close(layer(x, rois), actual)


ROI_POOL_CASES = [
    ([[[[1.0, 2], [3, 4]]]], [[0.0, 0, 0, 1, 1]], [[[[1.0, 2], [3, 4]]]]),
    ([[[[1.0, 2], [3, 4]], [[4, 3], [2, 1]]]], [[0.0, 0, 0, 1, 1]], [[[[1.0, 2], [3, 4]], [[4, 3], [2, 1]]]]),
    (
        [[[[1.0, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]]],
        [[0.0, 0, 0, 3, 3]],
        [[[[4.0, 8], [12, 16]]]],
    ),
]


@pytest.mark.parametrize(("image", "rois", "expected"), ROI_POOL_CASES, ids=["one map", "two maps", "4x4"])
def test_numbers_of_roi_pool(image: Any, rois: Any, expected: Any) -> None:
    torch.testing.assert_close(mmcv.RoIPool(2, 1.0)(_tensor(image), _tensor(rois)), _tensor(expected))


def test_roi_pool_does_not_round() -> None:
    x = torch.arange(48.0).reshape(1, 1, 6, 8)
    # Corners 0.5 and (4 + 1) * 0.5 = 2.5: one bin touches the cells 0, 1 and 2. Caffe's rule rounds to cells 1 and 2.
    assert mmcv.roi_pool(x, _tensor([[0, 1, 1, 4, 4]]), 1, 0.5).item() == 2 * 8 + 2
    pooled = mmcv.roi_pool(-x, _tensor([[0, 1, 1, 4, 4]]), 1, 0.5)
    assert pooled.item() == 0
    assert mmcv.roi_pool(x, _tensor([[0, 5, 5, 3, 3]]), 2, 1.0).tolist() == [[[[0.0, 0.0], [0.0, 0.0]]]]
    with pytest.raises(ValueError, match=r"image indices in 0\.\.0"):
        mmcv.roi_pool(x, _tensor([[1, 1, 1, 4, 4]]), 1)


def test_gradient_of_roi_pool() -> None:
    x = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0.0, 1, 1, 4, 5], [1, 2, 0, 6, 3]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: mmcv.roi_pool(t, rois, 2), (x,))


KEYS = {
    "DeformConv2dPack": (lambda: mmcv.DeformConv2dPack(4, 6, 3), "weight conv_offset.weight conv_offset.bias"),
    "ModulatedDeformConv2dPack": (
        lambda: mmcv.ModulatedDeformConv2dPack(4, 6, 3),
        "weight bias conv_offset.weight conv_offset.bias",
    ),
    "ModulatedDeformRoIPoolPack": (
        lambda: mmcv.ModulatedDeformRoIPoolPack(2, 4, 8),
        "offset_fc.0.weight offset_fc.0.bias offset_fc.2.weight offset_fc.2.bias offset_fc.4.weight offset_fc.4.bias "
        "mask_fc.0.weight mask_fc.0.bias mask_fc.2.weight mask_fc.2.bias",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys(name: str) -> None:
    make, keys = KEYS[name]
    assert list(make().state_dict()) == keys.split()


@pytest.mark.parametrize("make", [mmcv.DeformConv2dPack, mmcv.ModulatedDeformConv2dPack], ids=["v1", "v2"])
def test_keys_of_the_first_version_load(make: type[nn.Module]) -> None:
    model = nn.ModuleDict({"conv2": make(4, 6, 3)})
    old = {
        key.replace("conv2.conv_offset.", "conv2_offset."): torch.randn_like(v) for key, v in model.state_dict().items()
    }
    model.load_state_dict(rename_old_keys(model, old), strict=True)
    assert torch.equal(model.state_dict()["conv2.conv_offset.bias"], old["conv2_offset.bias"])


def test_packs_start_as_half_and_whole_convolution() -> None:
    x = torch.randn(2, 4, 7, 6)
    v1, v2 = mmcv.DeformConv2dPack(4, 6, 3, padding=1, groups=2), mmcv.ModulatedDeformConv2dPack(4, 6, 3, padding=1)
    torch.testing.assert_close(v1(x), nn.functional.conv2d(x, v1.weight, None, 1, 1, groups=2))
    torch.testing.assert_close(v2(x), nn.functional.conv2d(x, v2.weight, None, 1, 1) / 2)


def test_modulated_roi_pool_pack_starts_as_half_roi_align() -> None:
    x, rois = torch.randn(2, 4, 9, 9), _tensor([[0, 1, 1, 7, 6], [1, 0, 2, 4, 8]])
    layer = mmcv.ModulatedDeformRoIPoolPack(3, 4, 8, spatial_scale=0.5, sampling_ratio=2)
    torch.testing.assert_close(layer(x, rois), mmcv.RoIAlign(3, 0.5, 2)(x, rois) / 2)


NMS_BOXES = [
    [49.1, 32.4, 51.0, 35.9],
    [49.3, 32.9, 51.0, 35.3],
    [49.2, 31.8, 51.0, 35.4],
    [35.1, 11.5, 39.1, 15.7],
    [35.6, 11.8, 39.3, 14.2],
    [35.3, 11.5, 39.9, 14.5],
    [35.2, 11.7, 39.7, 15.7],
]
NMS_SCORES = [0.9, 0.9, 0.5, 0.5, 0.5, 0.4, 0.3]


@pytest.mark.parametrize("old_name", [False, True], ids=["iou_threshold", "iou_thr"])
def test_nms_example_with_arrays(old_name: bool) -> None:
    boxes, scores = np.array(NMS_BOXES, dtype=np.float32), np.array(NMS_SCORES, dtype=np.float32)
    options: dict[str, Any] = {"iou_thr" if old_name else "iou_threshold": 0.6}
    dets, inds = mmcv.nms(boxes, scores, **options)
    assert isinstance(dets, np.ndarray)
    assert isinstance(inds, np.ndarray)
    assert len(inds) == len(dets) == 3
    np.testing.assert_array_equal(dets, np.concatenate((boxes, scores[:, None]), 1)[inds])


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_written_give_no_warning() -> None:
    boxes = np.array([[0.0, 0, 4, 4], [0, 0, 4, 3.9], [9, 9, 12, 12]], np.float32)
    scores = np.array([0.3, 0.9, 0.5], np.float32)
    for array in (boxes, scores):
        array.flags.writeable = False
    assert mmcv.nms(boxes, scores, 0.5)[1].tolist() == [1, 2]


def test_nms_threshold_and_number() -> None:
    boxes, scores = _tensor(NMS_BOXES), _tensor(NMS_SCORES)
    everything, order = mmcv.nms(boxes, scores, 0.6)
    dets, inds = mmcv.nms(boxes, scores, 0.6, score_threshold=0.45)
    assert torch.equal(inds, order[scores[order] > 0.45])
    assert torch.equal(mmcv.nms(boxes, scores, 0.6, max_num=2)[0], everything[:2])
    assert dets.shape == (len(inds), 5)


SOFT_BOXES = [[4.0, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1]]


def test_soft_nms_example() -> None:
    boxes, scores = np.array(SOFT_BOXES, dtype=np.float32), np.array([0.9, 0.9, 0.5, 0.5, 0.4, 0.0], dtype=np.float32)
    dets, inds = mmcv.soft_nms(boxes, scores, 0.6, sigma=0.5)
    assert len(inds) == len(dets) == 5


def _soft(boxes: Tensor, scores: Tensor, threshold: float, sigma: float, least: float, method: str, offset: int) -> Any:
    """mmcv's loop from its description: the best box is taken, the others decay, those below ``least`` are dropped."""
    left, actual = {i: float(s) for i, s in enumerate(scores)}, []
    while left:
        best = max(left, key=lambda i: left[i])
        actual.append((best, left.pop(best)))
        for other in list(left):
            a, b = boxes[best].tolist(), boxes[other].tolist()
            w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
            h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
            areas = sum((t[2] - t[0] + offset) * (t[3] - t[1] + offset) for t in (a, b))
            overlap = w * h / (areas - w * h) if areas != w * h else float("nan")
            decay = {"naive": 0.0, "linear": 1 - overlap}
            factor = np.exp(-(overlap**2) / sigma) if method == "gaussian" else decay[method]
            left[other] *= factor if method == "gaussian" or overlap >= threshold else 1.0
            if left[other] < least:
                del left[other]
    return [i for i, _ in actual], [s for _, s in actual]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_methods(method: str, offset: int) -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(40, 2, 2, generator=generator) * 30
    boxes, scores = torch.cat((corners.amin(1), corners.amax(1)), 1), torch.rand(40, generator=generator)
    dets, inds = mmcv.soft_nms(boxes, scores, 0.2, 0.5, 0.05, method, offset)
    order, final = _soft(boxes, scores, 0.2, 0.5, 0.05, method, offset)
    assert inds.tolist() == order
    torch.testing.assert_close(dets[:, 4], _tensor(final), rtol=1e-5, atol=1e-6)


def test_soft_nms_acts_from_the_threshold_on() -> None:
    boxes = _tensor([[0, 0, 4, 4], [0, 0, 4, 2]])  # an overlap of exactly 0.5
    dets, _ = mmcv.soft_nms(boxes, _tensor([0.9, 0.8]), 0.5)
    torch.testing.assert_close(dets[:, 4], _tensor([0.9, 0.4]))


def test_the_best_box_stays_in_any_case() -> None:
    dets, inds = mmcv.soft_nms(_tensor([[0, 0, 1, 1], [5, 5, 6, 6]]), _tensor([0.0, 1e-4]))
    assert inds.tolist() == [1]
    torch.testing.assert_close(dets[0, 4], torch.tensor(1e-4))


@pytest.mark.parametrize("kind", ["nms", "soft_nms"])
def test_batched_nms_keeps_classes_apart(kind: str) -> None:
    boxes, scores = _tensor(NMS_BOXES), _tensor(NMS_SCORES)
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 1])
    config = {"type": kind, "iou_thr": 0.5, "split_thr": 3, "max_num": 4}
    dets, keep = mmcv.batched_nms(boxes, scores, labels, config)
    function = mmcv.nms if kind == "nms" else mmcv.soft_nms
    parts = [(label, function(boxes[labels == label], scores[labels == label], 0.5)) for label in (0, 1)]
    expected = torch.cat([part[0][:, 4] for _, part in parts]).sort(descending=True).values[:4]
    torch.testing.assert_close(dets[:, 4], expected)
    torch.testing.assert_close(dets[:, :4], boxes[keep])
    assert config == {"type": kind, "iou_thr": 0.5, "split_thr": 3, "max_num": 4}


def test_batched_nms_of_one_class_and_without_rule() -> None:
    boxes, scores, labels = _tensor(NMS_BOXES), _tensor(NMS_SCORES), torch.arange(7)
    config = {"type": "nms", "iou_threshold": 0.6, "class_agnostic": True}
    assert torch.equal(mmcv.batched_nms(boxes, scores, labels, config)[1], mmcv.nms(boxes, scores, 0.6)[1])
    dets, keep = mmcv.batched_nms(boxes, scores, labels, None)
    assert sorted(keep.tolist()) == list(range(7))
    assert torch.equal(dets[:, 4], scores.sort(descending=True).values)


REFUSALS: list[tuple[str, Any, str]] = [
    ("boxes", lambda: mmcv.nms([[0, 0, 1, 1]], _tensor([1]), 0.5), "boxes: expected a tensor or an array"),  # type: ignore[type-var]
    ("shape", lambda: mmcv.nms(torch.zeros(2, 5), torch.zeros(2), 0.5), r"expected \[N, 4\] and \[N\]"),
    ("offset", lambda: mmcv.nms(torch.zeros(2, 4), torch.zeros(2), 0.5, offset=2), "offset: expected 0 or 1"),
    ("method", lambda: mmcv.soft_nms(torch.zeros(2, 4), torch.zeros(2), method="hard"), "method: expected 'naive'"),
    (
        "twice",
        lambda: mmcv.nms(torch.zeros(2, 4), torch.zeros(2), **{"iou_threshold": 1.0, "iou_thr": 1.0}),  # type: ignore[arg-type]
        "got it also by",
    ),
    (
        "type",
        lambda: mmcv.batched_nms(torch.zeros(2, 4), torch.zeros(2), torch.zeros(2), {"type": "matrix_nms"}),
        "expected one of",
    ),
]


@pytest.mark.parametrize(("call", "message"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_refusals_of_nms(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


ALIKED = [f"aliked-{kind}_reference.npz" for kind in ("t16", "n16", "n16rot", "n32")]


@pytest.mark.parametrize("name", ALIKED)
def test_trained_layers(name: str, shared: Path) -> None:
    with np.load(shared / "golden" / "trained_layers" / name) as data:
        calls = [{k: data[f"call{i}_{k}"] for k in ("input", "offset", "weight", "output", "pad")} for i in range(4)]
    for call in calls:
        x, offset, weight, expected = (torch.from_numpy(call[k]) for k in ("input", "offset", "weight", "output"))
        layer = mmcv.DeformConv2d(
            x.shape[1], weight.shape[0], tuple(weight.shape[2:]), padding=tuple(call["pad"].tolist())
        )
        layer.load_state_dict({"weight": weight}, strict=True)
        torch.testing.assert_close(layer(x, offset), expected, rtol=1e-4, atol=1e-4)
