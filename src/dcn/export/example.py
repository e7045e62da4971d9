"""Run a model that `dcn export` wrote, with onnxruntime, NumPy and Pillow alone.

python model_example.py model.onnx photo.jpg
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[Any]]


def main(model: str, photo: str, min_score: float = 0.5) -> None:
    """Print the detections of a photo, or the share of each class of its pixels."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["dcn"])
    image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    pixels = resized(np.asarray(image), *about["test_size"])
    if about["size"]:  # a file of one size: the image must fit
        pixels = fitted(pixels, *about["size"])
    height, width = pixels.shape[:2]
    divisor = about["divisor"]
    tall, wide = about["size"] or (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
    batch = about["batch"] or 1  # a file of several images at once gets the same one
    canvas = np.zeros((batch, 3, tall, wide), np.uint8)
    canvas[:, :, :height, :width] = pixels.transpose(2, 0, 1)
    feeds = {"images": canvas, "sizes": np.array([[height, width]] * batch, np.float32)}
    if about["task"] == "segmentation":
        labels = session.run(None, feeds)[0][0, :height, :width]
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            print(f"{about['classes'][label]}: {count / labels.size:.1%} of the pixels")
        return
    feeds["output_sizes"] = np.array([image.size[::-1]] * batch, np.float32)
    feeds["min_score"] = np.array(min_score, np.float32)
    boxes, scores, labels, valid = (value[0] for value in session.run(None, feeds)[:4])
    for box, score, label in zip(boxes[valid], scores[valid], labels[valid], strict=True):
        print(f"{about['classes'][label]} {score:.3f} at {np.round(box, 1).tolist()}")


def resized(pixels: Pixels, short: int, long: int) -> Pixels:
    """The image [H, W, 3] with its shorter side at `short`, unless the longer one would pass `long`: bilinear."""
    height, width = pixels.shape[:2]
    factor = short / min(height, width)
    if round(factor * max(height, width)) > long:
        factor = long / max(height, width)
    top, bottom, down = between(max(round(height * factor), 1), height, factor)
    left, right, across = between(max(round(width * factor), 1), width, factor)
    rows = pixels[top] * (1 - down)[:, None, None] + pixels[bottom] * down[:, None, None]
    values = rows[:, left] * (1 - across)[:, None] + rows[:, right] * across[:, None]
    return np.rint(values).clip(0, 255).astype(np.uint8)


def between(count: int, size: int, factor: float) -> tuple[Numbers, Numbers, Numbers]:
    """The two lines of `size` that each of `count` new lines lies between, and how far from the first."""
    where = np.clip((np.arange(count) + 0.5) / factor - 0.5, 0, size - 1)
    low = where.astype(int)
    return low, np.minimum(low + 1, size - 1), (where - low).astype(np.float32)


def fitted(pixels: Pixels, tall: int, wide: int) -> Pixels:
    """The image, shrunk if it is larger than the file takes."""
    height, width = pixels.shape[:2]
    factor = min(tall / height, wide / width)
    if factor >= 1:
        return pixels
    size = (max(1, int(width * factor + 1e-6)), max(1, int(height * factor + 1e-6)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} model.onnx photo.jpg")
    main(sys.argv[1], sys.argv[2])
