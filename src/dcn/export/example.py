"""Run a model that `dcn export` wrote, with onnxruntime, NumPy and Pillow alone.

python model_example.py model.onnx photo.jpg 0.5
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
    """Print the detections of a photo whose scores are above `min_score`, or the share of each class of its pixels."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["dcn"])
    image = in_rgb(ImageOps.exif_transpose(Image.open(photo)))
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
        rows, columns = (np.arange(n) * m // n for n, m in zip(image.size[::-1], labels.shape, strict=True))
        labels = labels[rows][:, columns]  # in pixels of the photo
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            print(f"{about['classes'][label]}: {count / labels.size:.1%} of the pixels")
        return
    feeds["output_sizes"] = np.array([image.size[::-1]] * batch, np.float32)
    feeds["min_score"] = np.array(min_score, np.float32)
    boxes, scores, labels, valid, *masks = (value[0] for value in session.run(None, feeds))
    for slot in np.flatnonzero(valid):
        box = [round(float(side), 1) for side in boxes[slot]]
        inside = [in_photo(mask[slot], boxes[slot], *image.size) for mask in masks]
        print(f"{about['classes'][labels[slot]]} {scores[slot]:.3f} at {box}", *(f"{m.sum()} pixels" for m in inside))


def in_rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB; grey of 16 bits is divided by 257, which Pillow would clip to 255."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    return image.convert("RGB")


def in_photo(mask: Numbers, box: Numbers, width: int, height: int) -> Numbers:
    """The pixels of the photo [height, width] that belong to an object, from its mask [m, m] in its box."""
    x1, y1, x2, y2 = (float(side) for side in box)
    top, bottom, down = cells(height, y1, y2, len(mask))
    left, right, across = cells(width, x1, x2, len(mask))
    framed = np.pad(mask, 1)  # zeros around it
    rows = framed[top] * (1 - down)[:, None] + framed[bottom] * down[:, None]
    return rows[:, left] * (1 - across) + rows[:, right] * across >= 0.5


def cells(count: int, low: float, high: float, m: int) -> tuple[Numbers, Numbers, Numbers]:
    """The two cells of a framed mask that the centre of each pixel lies between, and how far from the first."""
    where = np.clip((np.arange(count) + 0.5 - low) / max(high - low, 1e-6) * m + 0.5, 0, m + 1)
    first = np.minimum(where.astype(int), m)
    return first, first + 1, where - first


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
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: python {sys.argv[0]} model.onnx photo.jpg [min_score]")
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
