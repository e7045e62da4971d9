"""Random detections and annotations, and the same in COCO's form for pycocotools."""

from __future__ import annotations

from typing import Any

import torch

from dcn.structures import Detections, Target

SIZE = (220, 260)


def _boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    start = torch.rand(count, 2, generator=generator) * torch.tensor([120.0, 90.0])
    extent = 8 + torch.rand(count, 2, generator=generator) * 110
    return torch.cat((start, start + extent), 1).double().round(decimals=1)


def _masks(boxes: torch.Tensor) -> torch.Tensor:
    """An ellipse in each box."""
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    center, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    dx = (x[None] - center[:, 0, None, None]) / radius[:, 0, None, None]
    dy = (y[None] - center[:, 1, None, None]) / radius[:, 1, None, None]
    return dx**2 + dy**2 <= 1


def image(seed: int, num_classes: int, *, masks: bool = False) -> tuple[Detections, Target]:
    """One image: some objects (crowd and difficult ones among them), detected with noise, twice, wrongly or not."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 7, (), generator=generator))
    boxes = _boxes(count, generator)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    crowd = torch.rand(count, generator=generator) < 0.15
    repeats = torch.randint(0, 3, (count,), generator=generator)
    shifted = boxes.repeat_interleave(repeats, 0)
    shifted = shifted + torch.randn(shifted.shape, generator=generator, dtype=torch.float64) * 4
    shifted[:, 2:] = torch.maximum(shifted[:, 2:], shifted[:, :2] + 2)
    predicted = torch.cat((shifted, _boxes(3, generator)))
    wrong = torch.randint(0, num_classes, (3,), generator=generator)
    scores = torch.rand(len(predicted), generator=generator, dtype=torch.float64).round(decimals=2)
    masked = (_masks(predicted), _masks(boxes)) if masks else (None, None)
    areas = None if masked[1] is None else masked[1].sum((1, 2)).double()
    detections = Detections(predicted, scores, torch.cat((labels.repeat_interleave(repeats), wrong)), masked[0])
    return detections, Target(boxes, labels, SIZE, masked[1], crowd=crowd, area=areas, image_id=seed)


def coco_form(
    pairs: list[tuple[Detections, Target]], classes: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotation file and result file of the pairs, as pycocotools takes them."""
    from pycocotools import mask

    def shape(of: Detections | Target, i: int) -> dict[str, Any]:
        x1, y1, x2, y2 = of.boxes[i].tolist()
        row: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": int(of.labels[i]) + 1}
        if of.masks is not None:
            rle = mask.encode(of.masks[i].numpy().astype("uint8").T.copy().T)
            row["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        return row

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for detections, target in pairs:
        assert target.area is not None
        key = {"image_id": target.image_id}
        for i in range(len(target)):
            row = {**key, **shape(target, i), "area": float(target.area[i]), "iscrowd": int(target.ignored[i])}
            annotations.append({**row, "id": len(annotations) + 1})
        results += [
            {**key, **shape(detections, i), "score": float(detections.scores[i])} for i in range(len(detections))
        ]
    images = [
        {"id": t.image_id, "height": SIZE[0], "width": SIZE[1], "file_name": f"{t.image_id}.jpg"} for _, t in pairs
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results
