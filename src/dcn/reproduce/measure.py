"""What is measured of a trained model: metrics, size of the offsets, effective dilation; and what is kept for later."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dcn.analysis import dilation_statistics
from dcn.data.subset import spread
from dcn.engine.log import METRICS_FILE, read_rows
from dcn.metrics import CocoAP, VocAP
from dcn.report.comparison import mean_iou
from dcn.reproduce.rows import DilationRow, Keyed
from dcn.runs.build import evaluation_batches, test_size
from dcn.runs.load import read_model
from dcn.runs.offsets import has_offsets, watched_offsets
from dcn.runs.opening import Opened, open_run_data
from dcn.runs.report import CollectedConfusions, CollectedDetections, collect
from dcn.runs.tasks import DETECTION

NOT_A_NUMBER = float("nan")
OFFSET_IMAGES = 16
"""Test images whose offsets are measured."""

DETECTIONS_FILE, CONFUSIONS_FILE = "detections.json.gz", "confusions.npz"


@dataclass(frozen=True)
class Measured:
    """The numbers of one run; fields as in :class:`dcn.reproduce.rows.Row`."""

    metrics: dict[str, float]
    offset: float
    offsets: str
    parameters: int
    dilations: tuple[DilationRow, ...]


def measure(run: Path, key: Keyed, sides: Sequence[float], device: str | None = None) -> Measured:
    """Evaluate the last weights of a run on its test split.

    The detections, or the confusion matrices of all images, are written into the run folder.

    Args:
        run: its folder.
        key: of the rows.
        sides: where medium and large objects begin.
        device: where to compute.
    """
    last = run / "weights" / "last.safetensors"
    opened = open_run_data(last, "test", recipe=None, device=device, changes=["eval.images=null"])
    metrics = _detection_metrics(opened, run) if opened.task is DETECTION else _segmentation_metrics(opened, run)
    metrics["val"] = _validation(run)
    model = read_model(last).to(opened.world.device).eval()  # that of the predictor is prepared for speed
    sizes = offset_sizes(model, opened)
    convolutions = [size for name, size in sizes.items() if not name.startswith("pool")]
    offset = sum(convolutions) / len(convolutions) if convolutions else NOT_A_NUMBER
    text = "; ".join(f"{name} {size:.4f}" for name, size in sizes.items())
    dilations = _dilations(model, opened, key, sides) if opened.task is DETECTION and convolutions else ()
    return Measured(metrics, offset, text, sum(p.numel() for p in model.parameters()), tuple(dilations))


def _detection_metrics(opened: Opened, run: Path) -> dict[str, float]:
    coco, voc = CocoAP(opened.dataset.classes), VocAP(opened.dataset.classes)
    collected = CollectedDetections(opened.dataset.classes)
    for predicted, targets in opened.pairs():
        coco.update(predicted, targets)
        voc.update(predicted, targets)
        collected.add(predicted, targets)
    with gzip.open(run / DETECTIONS_FILE, "wt", encoding="utf-8") as file:
        json.dump({"truth": collected.truth, "results": collected.results}, file)
    by_coco, by_voc = coco.compute(), voc.compute()
    return {
        **{name: by_coco[name] for name in ("AP", "AP50", "AP75")},
        "VOC50": by_voc["AP50"],
        "VOC70": by_voc["AP70"],
        "mIoU": NOT_A_NUMBER,
        "accuracy": NOT_A_NUMBER,
    }


def _segmentation_metrics(opened: Opened, run: Path) -> dict[str, float]:
    collected = collect(opened)
    assert isinstance(collected, CollectedConfusions)
    confusions = collected.confusion
    np.savez_compressed(run / CONFUSIONS_FILE, confusions=confusions)
    total = confusions.sum(0)
    miou = float(mean_iou(total, opened.recipe.eval.absent))
    nothing = dict.fromkeys(("AP", "AP50", "AP75", "VOC50", "VOC70"), NOT_A_NUMBER)
    return {**nothing, "mIoU": miou, "accuracy": float(np.trace(total) / max(1, total.sum()))}


def _validation(run: Path) -> float:
    """AP or mIoU of the last evaluation during training."""
    rows = [row for row in read_rows(run / METRICS_FILE) if row["kind"] == "eval"]
    value = rows[-1].get("AP", rows[-1].get("mIoU")) if rows else None
    return NOT_A_NUMBER if value is None else float(value)


@torch.no_grad()
def offset_sizes(model: nn.Module, opened: Opened) -> dict[str, float]:
    """Mean ``|offset|`` by layer over some test images.

    Returns:
        Deformable convolutions under their stage and block (``c5.2``), in cells of their input map; RoI pooling as
        ``pool``, as a share of the side of the region.
    """
    if not has_offsets(model):
        return {}
    batches = evaluation_batches(
        opened.recipe, spread(opened.dataset, OFFSET_IMAGES), test_size(opened.recipe), opened.world
    )
    with watched_offsets(model) as seen:
        for samples in batches:
            model([sample.image.to(opened.world.device) for sample in samples])
    layers, rois = seen()
    return {short_name(row.layer): row.mean for row in layers} | ({} if rois is None else {"pool": rois.mean})


def short_name(layer: str) -> str:
    """The name of a layer in tables: ``backbone.layer4.2.conv2`` is the paper's ``c5.2``."""
    parts = layer.split(".")
    stage = next((part for part in parts if part.startswith("layer") and part[5:].isdigit()), None)
    return layer if stage is None else f"c{int(stage[5:]) + 1}.{parts[parts.index(stage) + 1]}"


def _dilations(model: nn.Module, opened: Opened, key: Keyed, sides: Sequence[float]) -> list[DilationRow]:
    # A model may run the images of a batch in groups of one size; the statistics need all of them in one.
    recipe = replace(opened.recipe, eval=replace(opened.recipe.eval, batch_size=1))
    batches = evaluation_batches(recipe, opened.dataset, test_size(recipe), opened.world)
    shared = (key.system, key.variant, key.dataset, key.stage, key.seed, key.recipe)
    return [
        DilationRow(*shared, short_name(row.layer), row.undeformed, location, own.count, own.mean, own.std)
        for row in dilation_statistics(model, batches, sides)
        for location, own in row.effective.items()
    ]
