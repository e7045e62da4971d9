"""A made data set in COCO's form, and detections of it that are better or worse."""

from __future__ import annotations

from typing import Any

import numpy as np

CLASSES = ("cat", "dog", "owl")
Row = dict[str, Any]


def truth(images: int = 30, objects: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for image in range(1, images + 1):
        for _ in range(objects):
            side = float(rng.uniform(20, 120))
            x, y = (float(v) for v in rng.uniform(0, 260 - side, 2))
            category = int(rng.integers(1, len(CLASSES) + 1))
            box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
            rows.append({"id": len(rows) + 1, "image_id": image, "category_id": category, **box})
    return {
        "images": [{"id": i, "width": 260, "height": 260, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
        "annotations": rows,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
    }


def detections(data: dict[str, Any], noise: float, seed: int = 1) -> list[Row]:
    """One detection per object, moved by ``noise`` of its side; some have another class, are doubled or missing."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for row in data["annotations"]:
        if rng.random() < 0.1:
            continue
        x, y, w, h = row["bbox"]
        dx, dy = rng.normal(0, noise, 2) * w
        category = row["category_id"] if rng.random() < 0.85 else row["category_id"] % len(CLASSES) + 1
        actual = {"image_id": row["image_id"], "category_id": category, "bbox": [x + dx, y + dy, w, h]}
        rows.append({**actual, "score": float(rng.uniform(0.3, 1))})
        if rng.random() < 0.1:
            rows.append({**actual, "score": float(rng.uniform(0.1, 0.3))})
    return rows
