"""What the reports of detectors and of segmentation models share: training, offsets, examples, data and origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dcn.nn.offset_health import OffsetHealth
from dcn.nn.roi_offset_health import RoIOffsetHealth
from dcn.report.offset_words import OFFSETS, last_offset, near_zero
from dcn.report.page import Bar, Page
from dcn.vis.plots import loss_curves, metric_curves

Row = Mapping[str, Any]

_OFFSET_CURVES = {
    "mean": "mean length of the offsets in cells of the layer's input, mean over the layers",
    "largest": "largest offset of all layers, in cells",
    "outside": "share of the sampling points that lie outside of the map",
    "pool": "mean length of the offsets of RoI pooling, as a share of the region's side",
}


@dataclass(frozen=True)
class Example:
    """One image of the page.

    Attributes:
        name: of the image.
        target: ``[3, H, W]`` uint8, the image with its annotation drawn.
        prediction: the same with the prediction.
        caption: what went wrong, in words.
    """

    name: str
    target: Tensor
    prediction: Tensor
    caption: str


@dataclass(frozen=True)
class RunFacts:
    """What a report says about the run itself.

    Attributes:
        title: heading of the page.
        data: what was evaluated, in words.
        history: the rows of ``metrics.jsonl``.
        facts: name -> value: model, weights, seed, machine, versions.
        commands: command lines that repeat the run.
        recipe: the recipe as YAML; empty where there is none.
        examples: the worst images, the worst first.
        offsets: of every deformable layer over some of the images.
        roi_offsets: of deformable RoI pooling over the same images.
        offset_images: how many images these are.
        sizes: ``(height, width)`` of every image evaluated.
    """

    title: str
    data: str
    history: Sequence[Row] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    commands: Sequence[str] = ()
    recipe: str = ""
    examples: Sequence[Example] = ()
    offsets: Sequence[OffsetHealth] = ()
    roi_offsets: RoIOffsetHealth | None = None
    offset_images: int = 0
    sizes: Sequence[tuple[int, int]] = ()


def add_training(page: Page, history: Sequence[Row]) -> None:
    """Losses and metrics over the steps."""
    training = [row for row in history if row.get("kind") == "train"]
    evaluations = [row for row in history if row.get("kind") == "eval"]
    pictures: list[tuple[Any, str, str]] = []
    if any(str(key).startswith("loss") for row in training for key in row):
        pictures.append((loss_curves(training), "Losses over the steps", "Losses; pale: as logged, strong: smoothed."))
    pictures += [
        (metric_curves({"run": evaluations}, key), f"{key} over the steps", f"{key} on validation images.")
        for key in ("AP", "AP50", "mIoU")
        if any(row.get(key) is not None for row in evaluations)
    ]
    if any(row.get("lr") is not None for row in training):
        pictures.append((metric_curves({"run": training}, "lr"), "Learning rate over the steps", "Learning rate."))
    if pictures:
        page.section("Training").figure_grid(pictures, cell=290)


def add_offsets(page: Page, facts: RunFacts) -> None:
    """How far the deformable layers moved their taps: over the steps, and of the final weights layer by layer."""
    training = [row for row in facts.history if row.get("kind") == "train"]
    curves: list[tuple[Any, str, str]] = [
        (
            metric_curves({"run": training}, f"{OFFSETS}{name}", smooth=0.8),
            f"Offsets over the steps: {meaning}",
            meaning[0].upper() + meaning[1:] + ".",
        )
        for name, meaning in _OFFSET_CURVES.items()
        if any(row.get(f"{OFFSETS}{name}") is not None for row in training)
    ]
    if not curves and not facts.offsets and facts.roi_offsets is None:
        return
    page.section("Offsets").text(
        "A deformable layer starts as an ordinary one: all offsets are zero. A layer that stays at zero has "
        "learnt nothing."
    )
    if curves:
        page.figure_grid(curves, cell=290)
    if facts.offsets:
        most = max(row.mean for row in facts.offsets)
        rows = [[row.layer, Bar(row.mean, most), row.largest, row.outside] for row in facts.offsets]
        page.table(
            ["layer", "mean", "largest", "outside"],
            rows,
            f"Offsets of the evaluated weights over {facts.offset_images} images, in cells of the layer's input; "
            "outside: share of the sampling points off the map.",
        )
    rois = facts.roi_offsets
    if rois is not None:
        page.text(
            f"Deformable RoI pooling moved its bins by {100 * rois.mean:.1f} % of the region's side on average, "
            f"by {100 * rois.largest:.0f} % at most."
        )
    largest = max((row.mean for row in facts.offsets), default=last_offset(training, "mean"))
    if text := near_zero(largest, last_offset(training, "pool") if rois is None else rois.mean):
        page.text(text)


def add_examples(page: Page, examples: Sequence[Example]) -> None:
    """The worst images, annotation beside prediction."""
    if examples:
        page.section("Worst images").side_by_side(
            [(f"{one.name}: {one.caption}", (one.target, one.prediction)) for one in examples],
            ("annotated", "predicted"),
        )


def size_facts(sizes: Sequence[tuple[int, int]]) -> dict[str, object]:
    """How large the images are, in words."""
    if not sizes:
        return {}
    smallest, *_, largest = [*sorted(sizes, key=lambda size: size[0] * size[1]), max(sizes, key=lambda s: s[0] * s[1])]
    texts = [f"{width}x{height}" for height, width in (smallest, largest)]
    return {"width x height": texts[0] if smallest == largest else f"{texts[0]} (smallest) to {texts[1]} (largest)"}


def add_origin(page: Page, facts: RunFacts) -> Page:
    """Facts, commands and recipe."""
    page.section("Origin").facts(facts.facts)
    if facts.commands:
        page.code("\n".join(facts.commands))
    return page.section("Recipe").code(facts.recipe) if facts.recipe else page
