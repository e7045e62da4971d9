"""Run a model that `dcn export` wrote, with onnxruntime, NumPy and Pillow alone.

python example.py model.onnx photo.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def main(model: str, photo: str, min_score: float = 0.5) -> None:
    """Print the detections of a photo, or the share of each class of its pixels."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["dcn"])
    image = Image.open(photo).convert("RGB")
    short, long = about["test_size"]
    factor = min(short / min(image.size), long / max(image.size))
    if about["size"]:  # a file of one size: the image must fit
        factor = min(factor, about["size"][0] / image.height, about["size"][1] / image.width)
    width, height = (max(1, round(side * factor)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    divisor = about["divisor"]
    tall, wide = about["size"] or (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
    batch = about["batch"] or 1  # a file of several images at once gets the same one
    canvas = np.zeros((batch, 3, tall, wide), np.uint8)
    canvas[:, :, :height, :width] = pixels
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


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} model.onnx photo.jpg")
    main(sys.argv[1], sys.argv[2])
