"""The comparison with recorded networks, against losses written down once more in the original's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models import MODELS
from dcn.models.checkpoints.mxnet import mxnet_names
from dcn.models.detection.original.region_classifier import deform_psroi_demo
from dcn.models.options import make_model
from tests.golden.check_network import Array, build_network, check, compare, make_parameter, read_shapes

SIZE = (96, 128)


def _small(name: str) -> Any:
    options: dict[str, Any] = {"depth": 50, "width": 0.125}
    if not name.startswith("deeplab"):
        options["rpn_channels"] = 8
    if name.startswith("fpn"):
        options |= {"fpn_channels": 8, "fc_channels": 8, "deform_layers": 2 if "dcn" in name else 0}
    if name.startswith("rcnn"):
        options |= {"head_channels": 8, "fc_channels": 8}
    if name.startswith("rfcn"):
        options |= {"head_channels": 8, "hardest": 3}
    return make_model(MODELS[name], 3, **options)


def _randomise(model: nn.Module) -> None:
    """Parameters by the rule of the recorded networks: offsets and scores that are neither zero nor saturated."""
    state = model.state_dict()
    with torch.no_grad():
        for key, name in mxnet_names(model).items():
            state[key].copy_(torch.from_numpy(make_parameter(name[4:], tuple(state[key].shape))))


def _gradients(model: nn.Module) -> dict[str, Any]:
    parameters = dict(model.named_parameters())
    names = {name[4:]: parameters[key] for key, name in mxnet_names(model).items() if key in parameters}
    flat = {name: parameter.grad.double().flatten().numpy() for name, parameter in names.items()}  # type: ignore[union-attr]
    first = [np.pad(gradient[:8], (0, max(0, 8 - gradient.size))) for gradient in flat.values()]
    return {
        "grad_names": np.array(list(flat)),
        "grad_l2": np.array([np.linalg.norm(gradient) for gradient in flat.values()]),
        "grad_sum": np.array([gradient.sum() for gradient in flat.values()]),
        "grad_first8": np.array(first, np.float32),
    }


def _softmax_output(scores: Tensor, label: Tensor) -> Tensor:
    """The loss whose gradient is that of the original's softmax layer: mean over the labels that are not -1."""
    counted = label >= 0
    picked = scores.log_softmax(1).gather(1, label.clamp(min=0)[:, None])[:, 0]
    return -(picked * counted).sum() / counted.sum()


def _smooth_l1(difference: Tensor, sigma: float) -> Tensor:
    inner = difference.abs() < 1 / sigma**2
    return torch.where(inner, 0.5 * (sigma * difference) ** 2, difference.abs() - 0.5 / sigma**2)


def _train_file(model: Any, hardest: int | None) -> dict[str, Array]:
    """A recorded training step of a detector, made with the losses in the original's layout."""
    random = np.random.default_rng(0)
    data = random.normal(0, 50, (1, 3, *SIZE)).astype(np.float32)
    model.requires_grad_(True).train()
    rpn_maps, roi_maps = model.features(torch.from_numpy(data))
    raw = []
    for feature in rpn_maps:
        hidden = F.relu(model.rpn_head.rpn_conv(feature))
        raw.append((model.rpn_head.rpn_cls(hidden), model.rpn_head.rpn_reg(hidden)))
    if len(raw) == 1:
        scores, moves = raw[0][0].reshape(1, 2, -1, raw[0][0].shape[3]), raw[0][1]
    else:
        scores = torch.cat([score.reshape(1, 2, -1) for score, _ in raw], 2)
        moves = torch.cat([move.flatten(2) for _, move in raw], 2)
    label = random.choice([-1, 0, 1], size=scores[0, 0].numel(), p=[0.6, 0.3, 0.1])
    weight = _weights_of(label, [feature.shape[2:] for feature in rpn_maps], moves.shape[1] // 4)
    weight = weight.reshape(moves.shape).astype(np.float32)
    target = random.normal(0, 0.3, moves.shape).astype(np.float32) * weight
    rois, objects = _rois(random), _rois(random)[:3]
    objects = np.concatenate((objects[:, 1:], [[3], [1], [2]]), 1).astype(np.float32)
    logits, deltas = model.roi_head(roi_maps, torch.from_numpy(rois))
    owner = objects[_best(rois[:, 1:], objects)]
    classes = np.where(random.random(len(rois)) < 0.6, owner[:, 4], 0).astype(np.int64)
    spread, spread_weight = _spread(rois[:, 1:], owner, classes, deltas.shape[1])
    kept = _mined(logits, deltas, classes, spread, spread_weight, hardest)
    rpn_loss = torch.from_numpy(weight) * _smooth_l1(moves - torch.from_numpy(target), 3)
    kept_weight = torch.from_numpy(spread_weight) * (kept >= 0)[:, None]
    loss = kept_weight * _smooth_l1(deltas.flatten(1) - torch.from_numpy(spread), 1)
    (
        _softmax_output(scores.reshape(1, 2, -1), torch.from_numpy(label)[None])
        + rpn_loss.sum() / 256
        + _softmax_output(logits, kept)
        + loss.sum() / (hardest or model.rois_per_image)
    ).backward()
    outputs = {"rpn_cls_prob_output": scores.softmax(1), "rpn_bbox_loss_output": rpn_loss}
    outputs |= {"cls_prob_reshape_output": logits.softmax(1)[None], "bbox_loss_reshape_output": loss[None]}
    return (
        {
            "in_data": data,
            "in_label": label[None].astype(np.float32),
            "in_bbox_target": target,
            "in_bbox_weight": weight,
            "in_gt_boxes": objects[None],
            "custom0_rois_output": rois,
            "custom0_label": classes.astype(np.float32),
            "custom0_bbox_target": spread,
            "custom0_bbox_weight": spread_weight,
            "blockgrad0_output": kept[None].numpy().astype(np.float32),
        }
        | {name: value.detach().numpy() for name, value in outputs.items()}
        | _gradients(model)
    )


def _weights_of(label: Any, sizes: list[Any], shapes: int) -> Any:
    """``[4 * shapes, H * W of all levels]``: 1 where the anchor's label (level, shape, cell) is 1."""
    parts, start = [], 0
    for height, width in sizes:
        count = shapes * height * width
        part = label[start : start + count].reshape(shapes, 1, height * width) == 1
        parts.append(np.broadcast_to(part, (shapes, 4, height * width)).reshape(4 * shapes, -1))
        start += count
    return np.concatenate(parts, 1)


def _rois(random: np.random.Generator) -> Array:
    corners = random.uniform(0, 90, (12, 2))
    return np.concatenate((np.zeros((12, 1)), corners, corners + random.uniform(5, 300, (12, 2))), 1).astype(np.float32)


def _best(rois: Array, objects: Array) -> Any:
    """Index of the object that each region overlaps most."""
    overlaps = []
    for x1, y1, x2, y2 in rois:
        width = np.minimum(x2, objects[:, 2]) - np.maximum(x1, objects[:, 0]) + 1
        height = np.minimum(y2, objects[:, 3]) - np.maximum(y1, objects[:, 1]) + 1
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        area = (objects[:, 2] - objects[:, 0] + 1) * (objects[:, 3] - objects[:, 1] + 1)
        overlaps.append(overlap / ((x2 - x1 + 1) * (y2 - y1 + 1) + area - overlap))
    return np.argmax(overlaps, 1)


def _spread(rois: Array, owner: Array, classes: Any, slots: int) -> tuple[Array, Array]:
    """Targets and weights ``[R, 4 * slots]`` with four values in the slot of each object's class."""
    target, weight = np.zeros((2, len(classes), slots, 4), np.float32)
    for row, (label, roi, box) in enumerate(zip(classes, rois, owner, strict=True)):
        if label:
            slot = 1 if slots == 2 else label
            old, new = roi[2:] - roi[:2] + 1, box[2:4] - box[:2] + 1
            shift = ((box[:2] + (new - 1) / 2) - (roi[:2] + (old - 1) / 2)) / old
            target[row, slot] = np.concatenate((shift / 0.1, np.log(new / old) / 0.2))
            weight[row, slot] = 1
    return target.reshape(len(classes), -1), weight.reshape(len(classes), -1)


def _mined(logits: Tensor, deltas: Tensor, classes: Any, spread: Array, weight: Array, hardest: int | None) -> Tensor:
    labels = torch.from_numpy(classes)
    if hardest is None or hardest >= len(labels):
        return labels
    cross = -logits.detach().softmax(1)[torch.arange(len(labels)), labels].log()
    box = torch.from_numpy(weight) * _smooth_l1(deltas.detach().flatten(1) - torch.from_numpy(spread), 1)
    order = (-(cross + box.sum(1))).argsort()
    return labels.index_fill(0, order[hardest:], -1)


DETECTORS = {"rfcn_r101": 3, "rfcn_r101_dcn": 3, "rcnn_r101": None, "rcnn_r101_dcn": None}
DETECTORS |= {"fpn_r101": 512, "fpn_r101_dcn": 512}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_training_step_in_the_layout_of_the_original(name: str) -> None:
    model = _small(name)
    _randomise(model)
    file = _train_file(model, DETECTORS[name])
    model.zero_grad()
    lines: list[str] = []
    assert compare(model, file, lines.append), "\n".join(lines)
    assert len(lines) == 10


def test_targets_of_which_only_some_rows_are_recorded() -> None:
    model = _small("fpn_r101_dcn")
    _randomise(model)
    file = _train_file(model, 512)
    for name in ("custom0_bbox_target", "custom0_bbox_weight"):
        file[f"every2_{name}"] = file.pop(name)[::2]
    model.zero_grad()
    lines: list[str] = []
    assert compare(model, file, lines.append), "\n".join(lines)
    assert [line for line in lines if line.startswith("every2_custom0_bbox_target")]


@pytest.mark.parametrize(
    ("array", "index"),
    [("grad_l2", -1), ("grad_sum", 3), ("grad_first8", 5), ("rpn_cls_prob_output", 0), ("in_label", 7)],
)
def test_a_difference_is_found(array: str, index: int) -> None:
    model = _small("rfcn_r101_dcn")
    _randomise(model)
    file = _train_file(model, 3)
    model.zero_grad()
    if array == "in_label":
        file["in_label"][0, (file["in_label"] == 0).nonzero()[1][:index]] = -1
    else:
        file[array][index] = file[array][index] * 1.1 + 0.1
    assert not compare(model, file, lambda line: None)


def test_a_gradient_of_no_parameter_is_one_line() -> None:
    model = _small("rfcn_r101_dcn")
    _randomise(model)
    file = _train_file(model, 3)
    model.zero_grad()
    file["grad_names"] = np.append(file["grad_names"][:-1], "other_weight")
    lines: list[str] = []
    assert not compare(model, file, lines.append)
    assert "gradients of parameters that the network does not have: other_weight" in lines[-1]


def test_a_segmentation_step() -> None:
    model = _small("deeplab_r101_dcn")
    _randomise(model)
    random = np.random.default_rng(0)
    data = random.normal(0, 50, (1, 3, *SIZE)).astype(np.float32)
    label = random.choice([0, 1, 2, 255], size=SIZE)
    model.requires_grad_(True).train()
    hidden = F.relu(model.head.fc6(model.backbone(torch.from_numpy(data))[-1]))
    up = F.conv_transpose2d(model.head.score(hidden), model.head.upsampling.weight, stride=16, groups=3)
    scores = up[:, :, 8 : 8 + SIZE[0], 8 : 8 + SIZE[1]]
    reference = torch.from_numpy(np.where(label == 255, -1, label))[None]
    _softmax_output(scores, reference).backward()
    file = {"in_data": data, "in_label": label[None, None].astype(np.float32)} | _gradients(model)
    file |= {"upsampling_output": up.detach().numpy(), "softmax_output": scores.detach().softmax(1).numpy()}
    model.zero_grad()
    lines: list[str] = []
    assert compare(model, file, lines.append), "\n".join(lines)
    assert len(lines) == 5


def test_given_regions() -> None:
    model = deform_psroi_demo(3, depth=50, width=0.125)
    _randomise(model)
    rois = torch.tensor([[0.0, 10, 5, 90, 80]])
    data = torch.randn(1, 3, *SIZE) * 50
    with torch.no_grad():
        reduced = model.roi_head.reduced([model.eval().backbone(data)[-1]])
        scores = model.roi_head.cls(reduced, rois).mean((2, 3)).softmax(1)
        offsets = model.roi_head.cls.offsets(reduced, rois)
    assert offsets is not None
    file = {"in_data": data.numpy(), "in_rois": rois[None].numpy(), "rfcn_cls_offset_output": offsets.numpy()}
    file |= {"cls_prob_reshape_output": scores[None].numpy()}
    assert compare(model, file, lambda line: None)
    file["rfcn_cls_offset_output"] = file["rfcn_cls_offset_output"] + 0.01
    assert not compare(model, file, lambda line: None)


@pytest.mark.parametrize("mined", [False, True], ids=["all", "one left out"])
def test_a_training_step_of_given_regions(mined: bool) -> None:
    model = deform_psroi_demo(3, depth=50, width=0.125)
    _randomise(model)
    random = np.random.default_rng(0)
    data, rois = torch.randn(1, 3, *SIZE) * 50, torch.from_numpy(_rois(random))
    label = torch.from_numpy(random.integers(0, 4, len(rois)))
    weight = torch.zeros(len(rois), 2, 4)
    weight[label > 0, 1] = 1
    target = torch.randn(len(rois), 8) * weight.flatten(1)
    kept = label.index_fill(0, torch.tensor([2]), -1) if mined else label
    model.requires_grad_(True).train()
    logits, deltas = model.roi_head([model.backbone(data)[-1]], rois)
    loss = weight.flatten(1) * (kept >= 0)[:, None] * _smooth_l1(deltas.flatten(1) - target, 1)
    (_softmax_output(logits, kept) + loss.sum() / 128).backward()
    file = {"in_data": data.numpy(), "in_rois": rois[None].numpy(), "in_label": label[None].float().numpy()}
    file |= {"in_bbox_target": target[None].numpy(), "in_bbox_weight": weight.flatten(1)[None].numpy()}
    file |= {"cls_prob_reshape_output": logits.detach().softmax(1)[None].numpy()}
    file |= {"bbox_loss_reshape_output": loss.detach()[None].numpy()} | _gradients(model)
    if mined:
        file["custom0_labels_ohem"] = kept.float().numpy()
    model.zero_grad()
    lines: list[str] = []
    assert compare(model, file, lines.append), "\n".join(lines)
    assert len(lines) == 5


def test_an_array_of_unknown_name_is_an_error() -> None:
    model = _small("deeplab_r101")
    file = {"in_data": np.zeros((1, 3, *SIZE), np.float32), "every3_other_output": np.zeros(1, np.float32)}
    lines: list[str] = []
    assert not compare(model, file, lines.append)
    assert "nothing of this name is known here" in lines[0]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("bn2a_branch2c_gamma", 0.125, 0.375), ("bn2a_branch1_gamma", 0.5, 1.5), ("offset_p2_bias", -0.5, 0.5)],
)
def test_made_parameters(name: str, low: float, high: float) -> None:
    value = make_parameter(name, (1000,))
    assert low <= value.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < value.max() <= high


@pytest.mark.parametrize(
    ("name", "factor"),
    [("fc6_weight", 1.0), ("rfcn_cls_weight", 0.2), ("rfcn_cls_offset_t_weight", 0.05), ("rpn_bbox_pred_weight", 0.02)],
)
def test_made_weights(name: str, factor: float) -> None:
    value = make_parameter(name, (200, 50, 1, 1))
    assert value.std() == pytest.approx(factor * 0.2, rel=0.03)


@pytest.mark.parametrize("name", ["rfcn_r101", "fpn_dcn_city"])
def test_an_unknown_network(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name such as 'rfcn_dcn_coco'"):
        build_network(name)


def test_the_recorded_segmentation_network(shared: Path) -> None:
    """About 8 s on one core; the other networks are in ``tests/slow``."""
    name = "deeplab_dcn_cityscapes"
    shapes = read_shapes(shared / "params" / f"{name}.txt")
    assert check(shared / "golden" / f"net_{name}_test.npz", shapes, lambda line: None)
