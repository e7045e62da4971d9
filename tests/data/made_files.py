"""Small folders of data in the VOC and the COCO layout, sound ones, for tests to damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """A picture whose pixels tell where they are; ``size`` is (width, height)."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(width), np.arange(height)[:, None], 128
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def voc_object(name: str = "dog", box: tuple[object, ...] = (11, 6, 30, 25), extra: str = "") -> str:
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def voc_xml(*objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{shape}{''.join(objects)}</annotation>"


def make_voc(root: Path, annotations: dict[str, str] | None = None, split: str = "train") -> Path:
    """A folder with one image for each annotation, ``a`` and ``b`` where none are given."""
    if annotations is None:
        annotations = {
            "a": voc_xml(voc_object(), voc_object("cat", (1, 1, 60, 40), "<difficult>1</difficult>")),
            "b": voc_xml(voc_object("person", (20, 10, 40, 20), "<truncated>1</truncated>")),
        }
    for stem, text in annotations.items():
        picture(root / "JPEGImages" / f"{stem}.png")
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(annotations) + "\n")
    return root


def coco_data() -> dict[str, Any]:
    """Two images with objects and one without; category ids with gaps, in no order; a crowd; all kinds of masks."""
    square = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * 20, HEIGHT * 40]}
    rows = [
        (1, 5, 7, [10, 5, 20, 20], 0, [square]),
        (2, 5, 3, [0, 0, 20, 40], 1, runs),
        (4, 9, 90, [40.5, 10.25, 10, 20], 0, [[40.5, 10.25, 50.5, 10.25, 50.5, 30.25, 40.5, 30.25]]),
    ]
    keys = ("id", "image_id", "category_id", "bbox", "iscrowd", "segmentation")
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (5, 9, 2)],
        "categories": [{"id": 90, "name": "pear"}, {"id": 3, "name": "fig"}, {"id": 7, "name": "nut"}],
        "annotations": [dict(zip(keys, row, strict=True)) for row in rows],
    }


def make_coco(root: Path, data: object = None, split: str = "train") -> Path:
    """A folder with that JSON and the images that the sound one names."""
    for number in (5, 9, 2):
        picture(root / split / f"{number}.png")
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco_data() if data is None else data))
    return root
