"""Proof of the ONNX export, family by family: one checkpoint each, one file, images of three sizes.

    python -m benchmarks.export_table                          # generated images
    python -m benchmarks.export_table photos/*.jpg --csv benchmarks/results/export.csv

Makes a checkpoint of every family, plain and deformable, at a quarter of its width, with a backbone of 18 layers where
the family allows, and a test size of 320 x 533. The weights are random and scaled layer by layer on the first image, so
that maps neither fade nor overflow, sampling points are two pixels away from the grid and depend on the image by a
tenth of a pixel (random layers in a row that depend on it by more amplify the last digits of a float without end), and
most regions are background, as in a trained model. Each checkpoint goes through ``dcn.export`` (dynamic size) and is
loaded again with ``dcn.load``; file and checkpoint predict on the images with the same score threshold. A row passes
where boxes differ by 0.1 px, scores by 0.001, and pixels of masks or of segmentation maps by 0.1 % at most, where no
more than 1 % of the detections lack a counterpart, and where every node of the file is of the ONNX standard
(`ai.onnx`). Where rows differ by more, the checkpoint is compared with itself with batch norm not folded. Times are
medians of the whole model on the largest image, onnxruntime and this package's CPU path in turns.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dcn
from benchmarks.record import interleaved, machine
from dcn.data import open_dataset
from dcn.data.geometry import resize_image
from dcn.engine import save_weights
from dcn.export.parity import Parity, Tolerance, differences, summary
from dcn.models import build
from dcn.nn import DeformConv2d
from dcn.runs.images import open_image

SCORE = 0.05
PAIRS = 60
"""Pairs of region and class above the score threshold, before suppression: a trained model is sure of background."""
CLASSES = ("one", "two", "three", "four")
_SMALL: dict[str, Any] = {"width": 0.25, "test_size": (320, 533)}
_PYRAMID = _SMALL | {"depth": 18, "fpn_channels": 64, "fc_channels": 128}
_SINGLE = _SMALL | {"rpn_channels": 64, "head_channels": 64}
_FPN = _SMALL | {"fpn_channels": 64, "rpn_channels": 64, "fc_channels": 128}
_SEGMENTATION = _SMALL | {"head_channels": 64}
_KINDS = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn")
_FORMS = ("dconv_c3-c5", "mdconv_c3-c5", "mdconv_c3-c5_group4", "dpool", "mdpool")

FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("rfcn_r50", "rfcn_r50_dcn"), _SINGLE | {"depth": 18}),
    **dict.fromkeys(("rcnn_r50", "rcnn_r50_dcn"), _SINGLE | {"depth": 18, "fc_channels": 128}),
    **dict.fromkeys(("fpn_r50", "fpn_r50_dcn"), _FPN),
    **dict.fromkeys(("rpn_r50", "rpn_r50_dcn"), _SINGLE | {"depth": 18}),
    **{f"{kind}_r50_fpn": _PYRAMID for kind in _KINDS},
    **{f"{kind}_r50_fpn_{form}": _PYRAMID for kind in _KINDS for form in _FORMS},
    **dict.fromkeys(("deeplab_r18", "deeplab_r18_dcn"), _SEGMENTATION),
    "deeplabv3_r50": _SEGMENTATION | {"depth": 18},
    **{
        f"deeplabv3_r50_{form}": _SEGMENTATION | {"depth": 18} for form in ("dconv_c3-c5", "mdconv_c3-c5", "dconv_head")
    },
}
"""Options of every row by the name of its model."""

COLUMNS = ("model", "detections", "boxes", "scores", "equal", "unmatched", "domains", "onnxruntime_ms", "dcn_ms")
FIELDS = (*COLUMNS, "verdict", "images", "date", "machine", "cores", "threads", "versions")


def _target(name: str, layer: nn.Module, offsets: set[int]) -> float:
    """The standard deviation that a layer's output gets: that of trained models, roughly."""
    if id(layer) in offsets:
        return 0.1  # pixels, beside what is the same everywhere
    last = name.rpartition(".")[2]
    if "offset" in last:
        return 1.0  # a tenth of the region
    if "reg" in name:
        return 0.1  # shares of the anchor
    if last in ("rpn_cls", "fc_cls", "score", "conv_logits"):
        return 1.5
    return 3.0 if name.endswith("cls.maps") else 1.0  # the mean of 49 bins comes after


@torch.no_grad()
def scale_weights(model: Any, image: Tensor) -> None:
    """Scale every layer so that its output on an image has the deviation of :func:`_target`; norms take its statistics.

    One pass: each layer is scaled when its turn comes, and what follows sees the scaled output.
    """
    offsets = {id(module.conv_offset) for module in model.modules() if isinstance(module, DeformConv2d)}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks, done = [], set()

    def hook(name: str) -> Callable[..., Tensor | None]:
        def scale(layer: Any, inputs: Any, output: Tensor) -> Tensor | None:
            if id(layer) in done or (output.ndim == 2 and len(output) < 8):
                return None  # shared between the levels of a pyramid, or of a level without regions
            done.add(id(layer))
            mean = output.mean([0, *range(2, output.ndim)], keepdim=True)
            factor = _target(name, layer, offsets) / (output - mean).std().clamp_min(1e-6)
            layer.weight.mul_(factor)
            if id(layer) in offsets:
                nn.init.normal_(layer.bias, std=2.0)  # pixels
            elif layer.bias is not None:
                layer.bias.sub_(mean.flatten()).mul_(factor)
            result: Tensor = layer.forward(inputs[0])
            return result

        return scale

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if float(module.weight.std()) == 0:  # offsets begin with zeros
                nn.init.normal_(module.weight, std=0.01)
            hooks.append(module.register_forward_hook(hook(name)))
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model([image])
    for handle in hooks:
        handle.remove()
    for norm in norms:
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()


def _background(model: Any) -> list[Tensor]:
    """The biases of the background's score: the first in the original's form, the last in mmdetection's."""
    biases = []
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if name.endswith("cls.maps"):
            biases.append(module.bias[: module.bias.numel() // (len(CLASSES) + 1)])
        elif last == "fc_cls":
            biases.append(module.bias[:1] if model.inclusive_boxes else module.bias[-1:])
        elif last == "rpn_cls" and not hasattr(model, "roi_head"):
            biases.append(module.bias[: module.bias.numel() // (len(CLASSES) + 1)])
    return biases


@torch.no_grad()
def raise_background(model: Any, images: Sequence[Tensor]) -> None:
    """Shift the background's score until about :data:`PAIRS` pairs of region and class of an image are above it."""
    biases, low, high = _background(model), -10.0, 20.0
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    for _ in range(6):
        middle = (low + high) / 2
        for bias in biases:
            bias.add_(middle)
        pairs = sum(len(one) for one in model.pre_nms(images, sizes, SCORE)) / len(images)
        for bias in biases:
            bias.sub_(middle)
        low, high = (middle, high) if pairs > PAIRS else (low, middle)
    for bias in biases:
        bias.add_(high)


def make_checkpoint(name: str, options: dict[str, Any], images: Sequence[Tensor], path: Path) -> None:
    """A weights file of a model with scaled random weights."""
    torch.manual_seed(0)
    model: Any = build(name, CLASSES, **options)
    if model.task == "detection":
        model.score_threshold = 0.0
    resized = [resize_image(image, *model.test_size)[0] for image in images]
    scale_weights(model, resized[0])
    if model.task == "detection":
        raise_background(model, resized)
    save_weights(path, model, name, options)


def _generated() -> list[Tensor]:
    """Three images of generated objects, of three sizes."""
    sizes = ([480, 640], [640, 480], [427, 600])
    return [open_dataset("synthetic", None, "test", length=1, size=size)[0].image for size in sizes]


def _domains(path: Path) -> str:
    import onnx

    proto = onnx.load(path)
    return "+".join(sorted({node.domain or "ai.onnx" for node in proto.graph.node}))


def _parity(first: Any, second: Any, images: Sequence[Tensor], score: float, tolerance: Tolerance) -> Parity:
    """What `dcn predict` compares: the predictions of the checkpoint and of the file on images as they are."""
    words: dict[str, Any] = {"min_score": score} if first.task.name == "detection" else {}
    pairs = [(first.predict(image, **words), second.predict(image, **words)) for image in images]
    return summary([differences(a, b) for a, b in pairs], tolerance)


def row(name: str, images: Sequence[Tensor], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Export one family, compare, and time."""
    weights, exported = folder / f"{name}.safetensors", folder / f"{name}.onnx"
    make_checkpoint(name, FAMILIES[name], images, weights)
    words: dict[str, Any] = {} if name.startswith("deeplab") else {"min_score": options.score}
    dcn.export(weights, exported, images=list(images[:1]), unproven=True, **words)
    first, second = dcn.load(weights, device="cpu"), dcn.load(exported, device="cpu")
    parity = _parity(first, second, images, options.score, Tolerance())
    good = "ok"
    if parity.failures:
        again = _parity(first, dcn.load(weights, device="cpu", optimize=False), images, options.score, Tolerance())
        parity = replace(parity, rounding=again)
    domains = _domains(exported)
    failed = "as the model's own rounding" if parity.undecided else "; ".join(parity.failures)
    verdict = failed or (good if domains == "ai.onnx" else "other operators")
    largest = max(images, key=lambda image: image.numel())
    resized = resize_image(largest, *first.size)[0]
    with torch.no_grad():
        calls = {"dcn": lambda: first.model([resized]), "onnxruntime": lambda: second.model([resized])}
        times = interleaved(calls, options.repetitions, 0.03)
    medians = {f"{key}_ms": sorted(value)[len(value) // 2] for key, value in times.items()}
    return {
        "model": name,
        "detections": "" if parity.detections is None else parity.detections,
        "boxes": f"{parity.boxes:.1e}" if parity.detections is not None else "",
        "scores": f"{parity.scores:.1e}" if parity.detections is not None else "",
        "equal": f"{1 - parity.pixels:.5%}" if "mask" in name or parity.detections is None else "",
        "unmatched": f"{parity.unmatched:.2%}" if parity.detections is not None else "",
        "domains": domains,
        **{key: f"{value:.0f}" for key, value in medians.items()},
        "verdict": verdict,
        "images": len(images),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in markdown, as docs/export.md has them."""
    lines = [
        "| model | detections | boxes, px | scores | unmatched | equal pixels | onnxruntime, ms | this package, ms | |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---|")
    for one in rows:
        keys = ("detections", "boxes", "scores", "unmatched", "equal", "onnxruntime_ms", "dcn_ms", "verdict")
        lines.append(f"| `{one['model']}` | " + " | ".join(str(one.get(key, "")) for key in keys) + " |")
    return "\n".join(lines)


def rows(images: Sequence[Tensor], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All families whose name has one of the words; a failure is a row too."""
    with tempfile.TemporaryDirectory() as folder:
        for name in FAMILIES:
            if not any(word in name for word in options.only):
                continue
            start = time.perf_counter()
            try:
                made = row(name, images, options, Path(options.keep or folder))
            except ValueError as error:
                made = {"model": name, "verdict": f"failed: {error}", "images": len(images)}
            print(f"{name}: {made['verdict']} ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
            yield made | machine()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", help="photos (default: three generated images of different sizes)")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="only models whose name has one of these"
    )
    parser.add_argument("--score", type=float, default=SCORE, help="score threshold (default 0.05)")
    parser.add_argument("--csv", type=Path, help="file to write the rows to; rows of other models are kept")
    parser.add_argument("--keep", type=Path, help="folder in which checkpoints and ONNX files stay")
    parser.add_argument("--repetitions", type=int, default=3, help="timed calls (default 3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", type=Path, metavar="CSV", help="print the table of this file, and measure nothing")
    return parser.parse_args()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {one["model"]: one for one in csv.DictReader(file)}


def main() -> int:
    options = _arguments()
    if options.table:
        print(table(list(_read(options.table).values())))
        return 0
    torch.set_num_threads(options.threads)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    images = [open_image(path) for path in options.images] or _generated()
    made = []
    for one in rows(images, options):
        made.append(one)
        if options.csv:
            kept = _read(options.csv) | {one["model"]: one}
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            with options.csv.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(kept[name] for name in FAMILIES if name in kept)
    print(table(made))
    return 1 if any(one["verdict"].startswith("failed") or " is over " in one["verdict"] for one in made) else 0


if __name__ == "__main__":
    sys.exit(main())
