"""Inference of the later detectors written down a second time, as functions of a state dict under mmdetection's names.

Nothing of ``dcn.models`` is used; operators are the reference ones. Loops stand where the networks have tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dcn import ops

State = Mapping[str, Tensor]
Predicted = tuple[Tensor, Tensor, Tensor, Tensor | None]

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STRIDES = (4, 8, 16, 32, 64)
BOX_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def normalised(image: Tensor) -> Tensor:
    """``[1, 3, H, W]``: RGB, ImageNet's statistics, zeros on the right and below up to multiples of 32."""
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    x = (image.float() - mean[:, None, None]) / std[:, None, None]
    return F.pad(x, (0, -x.shape[2] % 32, 0, -x.shape[1] % 32))[None]


def _norm(s: State, name: str, x: Tensor) -> Tensor:
    mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    scale = s[f"{name}.weight"] / torch.sqrt(var + 1e-5)
    return x * scale[:, None, None] + (s[f"{name}.bias"] - mean * scale)[:, None, None]


def _conv3x3(s: State, name: str, x: Tensor, stride: int) -> Tensor:
    weight = s[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    if f"{name}.conv_offset.weight" not in s:
        return F.conv2d(x, weight, None, stride, 1, 1, groups)
    out = F.conv2d(x, s[f"{name}.conv_offset.weight"], s[f"{name}.conv_offset.bias"], stride, 1)
    if out.shape[1] % 27:
        return ops.deform_conv2d(x, out, weight, None, stride, 1, 1, backend="reference")
    first, second, mask = out.chunk(3, 1)
    offset = torch.cat((first, second), 1)
    return ops.deform_conv2d(x, offset, weight, None, stride, 1, 1, mask.sigmoid(), backend="reference")


def backbone(s: State, x: Tensor, depth: int) -> list[Tensor]:
    x = F.relu(_norm(s, "backbone.bn1", F.conv2d(x, s["backbone.conv1.weight"], None, 2, 3)))
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for stage, count in enumerate(BLOCKS[depth], start=1):
        for index in range(count):
            name, stride = f"backbone.layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            out = F.relu(_norm(s, f"{name}.bn1", F.conv2d(x, s[f"{name}.conv1.weight"])))
            out = F.relu(_norm(s, f"{name}.bn2", _conv3x3(s, f"{name}.conv2", out, stride)))
            out = _norm(s, f"{name}.bn3", F.conv2d(out, s[f"{name}.conv3.weight"]))
            if index == 0:
                x = _norm(s, f"{name}.downsample.1", F.conv2d(x, s[f"{name}.downsample.0.weight"], None, stride))
            x = F.relu(out + x)
        maps.append(x)
    return maps


def _layer(s: State, name: str, x: Tensor, padding: int = 0) -> Tensor:
    return F.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], 1, padding)


def pyramid(s: State, maps: list[Tensor]) -> list[Tensor]:
    rows = [_layer(s, f"neck.lateral_convs.{i}.conv", x) for i, x in enumerate(maps)]
    for i in (3, 2, 1):
        rows[i - 1] = rows[i - 1] + F.interpolate(rows[i], size=rows[i - 1].shape[2:], mode="nearest")
    rows = [_layer(s, f"neck.fpn_convs.{i}.conv", x, 1) for i, x in enumerate(rows)]
    return [*rows, rows[3][:, :, ::2, ::2]]


def decoded(reference: Tensor, delta: Tensor, stds: tuple[float, ...], size: tuple[int, int]) -> Tensor:
    dx, dy, dw, dh = (delta * torch.tensor(stds)).unbind(-1)
    limit = abs(math.log(16 / 1000))
    x1, y1, x2, y2 = reference.unbind(-1)
    w, h = x2 - x1, y2 - y1
    cx, cy = (x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h
    w, h = w * dw.clamp(-limit, limit).exp(), h * dh.clamp(-limit, limit).exp()
    height, width = size
    xs, ys = (cx - w / 2, cx + w / 2), (cy - h / 2, cy + h / 2)
    return torch.stack(
        (xs[0].clamp(0, width), ys[0].clamp(0, height), xs[1].clamp(0, width), ys[1].clamp(0, height)), -1
    )


def suppressed(boxes: Tensor, scores: Tensor, limit: float) -> list[int]:
    """Greedy suppression of one group; indices, best first."""
    kept: list[int] = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for index in scores.argsort(descending=True, stable=True).tolist():
        if kept:
            low = torch.maximum(boxes[kept, :2], boxes[index, :2])
            high = torch.minimum(boxes[kept, 2:], boxes[index, 2:])
            common = (high - low).clamp(min=0).prod(1)
            if bool((common / (area[kept] + area[index] - common) > limit).any()):
                continue
        kept.append(index)
    return kept


def _anchors(stride: int, rows: int, columns: int) -> Tensor:
    shapes = [(stride * 8 / math.sqrt(r), stride * 8 * math.sqrt(r)) for r in (0.5, 1.0, 2.0)]
    result = [
        (x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2)
        for y in range(rows)
        for x in range(columns)
        for w, h in shapes
    ]
    return torch.tensor(result)


def proposals(s: State, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    boxes, scores = [], []
    for stride, x in zip(STRIDES, maps, strict=True):
        hidden = F.relu(_layer(s, "rpn_head.rpn_conv", x, 1))
        score = _layer(s, "rpn_head.rpn_cls", hidden)[0].permute(1, 2, 0).flatten().sigmoid()
        delta = _layer(s, "rpn_head.rpn_reg", hidden)[0].permute(1, 2, 0).reshape(-1, 4)
        best = score.argsort(descending=True, stable=True)[:1000]
        box = decoded(_anchors(stride, *x.shape[2:])[best], delta[best], (1.0,) * 4, size)
        fine = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        box, value = box[fine], score[best][fine]
        kept = suppressed(box, value, 0.7)
        boxes.append(box[kept])
        scores.append(value[kept])
    order = torch.cat(scores).argsort(descending=True, stable=True)[:1000]
    return torch.cat(boxes)[order]


def _pooled(s: State, name: str, maps: list[Tensor], boxes: Tensor, bins: int) -> Tensor:
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = (side / 56 + 1e-6).log2().floor().clamp(0, 3).long()
    out = torch.zeros(len(boxes), maps[0].shape[1], bins, bins)
    for index in range(4):
        own = (level == index).nonzero()[:, 0]
        if own.numel() == 0:
            continue
        rois = torch.cat((torch.zeros(len(own), 1), boxes[own]), 1)
        scale, x = 1 / STRIDES[index], maps[index]
        plain = ops.roi_align(x, rois, bins, scale, sampling_ratio=0, aligned=True, backend="reference")
        prefix = f"{name}.roi_layers.{index}"
        if f"{prefix}.offset_fc.0.weight" not in s:
            out[own] = plain
            continue
        offset = _linears(s, f"{prefix}.offset_fc", (0, 2, 4), plain.flatten(1)).view(-1, 2, bins, bins)
        moved = ops.deform_roi_pool(x, rois, offset, bins, scale, gamma=0.1, backend="reference")
        if f"{prefix}.mask_fc.0.weight" in s:
            mask = _linears(s, f"{prefix}.mask_fc", (0, 2), plain.flatten(1)).sigmoid()
            moved = moved * mask.view(-1, 1, bins, bins)
        out[own] = moved
    return out


def _linears(s: State, name: str, slots: tuple[int, ...], x: Tensor) -> Tensor:
    for slot in slots:
        x = F.linear(x, s[f"{name}.{slot}.weight"], s[f"{name}.{slot}.bias"])
        x = F.relu(x) if slot != slots[-1] else x
    return x


def _box_head(s: State, name: str, pooled: Tensor) -> tuple[Tensor, Tensor]:
    x = pooled.flatten(1)
    for index in (0, 1):
        x = F.relu(F.linear(x, s[f"{name}.shared_fcs.{index}.weight"], s[f"{name}.shared_fcs.{index}.bias"]))
    return (
        F.linear(x, s[f"{name}.fc_cls.weight"], s[f"{name}.fc_cls.bias"]),
        F.linear(x, s[f"{name}.fc_reg.weight"], s[f"{name}.fc_reg.bias"]).view(len(x), -1, 4),
    )


def _second_stage(s: State, maps: list[Tensor], rois: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes ``[R, K, 4]`` and probabilities ``[R, C]``."""
    if "roi_head.bbox_head.fc_cls.weight" in s:
        logits, delta = _box_head(s, "roi_head.bbox_head", _pooled(s, "roi_head.bbox_roi_extractor", maps, rois, 7))
        return decoded(rois[:, None], delta, BOX_STDS[0], size), logits.softmax(1)[:, :-1]
    total = torch.zeros(())
    for stage in range(3):
        pooled = _pooled(s, f"roi_head.bbox_roi_extractor.{stage}", maps, rois, 7)
        logits, delta = _box_head(s, f"roi_head.bbox_head.{stage}", pooled)
        total = total + logits / 3
        rois = decoded(rois, delta[:, 0], BOX_STDS[stage], size)
    return rois[:, None], total.softmax(1)[:, :-1]


def _masks(s: State, maps: list[Tensor], boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor | None:
    heads = [
        n for n in ("roi_head.mask_head", *(f"roi_head.mask_head.{i}" for i in range(3))) if f"{n}.upsample.bias" in s
    ]
    if not heads:
        return None
    pooled = _pooled(s, "", maps, boxes, 14)
    total = torch.zeros(len(boxes), 28, 28)
    for name in heads:
        x = pooled
        for index in range(4):
            x = F.relu(_layer(s, f"{name}.convs.{index}.conv", x, 1))
        x = F.relu(F.conv_transpose2d(x, s[f"{name}.upsample.weight"], s[f"{name}.upsample.bias"], 2))
        total += _layer(s, f"{name}.conv_logits", x)[torch.arange(len(boxes)), labels].sigmoid() / len(heads)
    pasted = []
    for mask, (x1, y1, x2, y2) in zip(total, boxes.tolist(), strict=True):
        x = ((torch.arange(size[1]) + 0.5 - x1) / (x2 - x1) * 2 - 1).expand(size[0], -1)
        y = ((torch.arange(size[0]) + 0.5 - y1) / (y2 - y1) * 2 - 1)[:, None].expand(-1, size[1])
        grid = torch.stack((x, y), -1)[None]
        pasted.append(F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0])
    return torch.stack(pasted) if pasted else torch.zeros(0, *size)


def predicted(s: State, image: Tensor, depth: int, score_threshold: float) -> Predicted:
    """Boxes ``[D, 4]``, scores, labels and probabilities of masks ``[D, H, W]`` or ``None``, best first."""
    size = image.shape[1], image.shape[2]
    maps = pyramid(s, backbone(s, normalised(image), depth))
    boxes, scores = _second_stage(s, maps, proposals(s, maps, size), size)
    rows: list[tuple[Tensor, Tensor, int]] = []
    for label in range(scores.shape[1]):
        own = scores[:, label] > score_threshold
        box, score = boxes[own][:, label if boxes.shape[1] > 1 else 0], scores[own, label]
        rows += [(box[i], score[i], label) for i in suppressed(box, score, 0.5)]
    rows = sorted(rows, key=lambda row: -float(row[1]))[:100]
    if not rows:
        return torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), None
    result = torch.stack([row[0] for row in rows])
    labels = torch.tensor([row[2] for row in rows])
    return result, torch.stack([row[1] for row in rows]), labels, _masks(s, maps, result, labels, size)
