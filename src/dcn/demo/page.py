"""The page of a demo: results, curves, pictures, and the commands that repeat it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import torch

from dcn.analysis import dilation_statistics
from dcn.analysis.effective_dilation import CATEGORIES
from dcn.data.dataset import Dataset
from dcn.data.datasets.voc import Voc
from dcn.data.geometry import resize_image
from dcn.data.subset import spread
from dcn.demo import pictures
from dcn.demo.plan import SEEDS, SEEDS_MACHINE, Clock, Metrics, Plan, Trained, data_options
from dcn.engine.folder import versions
from dcn.engine.log import METRICS_FILE, duration, read_rows
from dcn.ops import deform_conv2d
from dcn.report.page import Page
from dcn.runs.build import open_split, test_size
from dcn.runs.load import load
from dcn.runs.predictor import Predictor
from dcn.structures import Sample
from dcn.vis import loss_curves, metric_curves

_LEAD = (
    "Two R-FCN detectors, trained from the same weights with identical settings. They find generated shapes of one "
    "colour that vary in size by a factor of 6, are turned and bent. The detectors differ in one thing: in the "
    "deformable one the last three 3x3 convolutions and the RoI pooling learn where they sample."
)
_PAPER = (
    "The paper (ICCV 2017, table 3) reports for R-FCN on Pascal VOC 2007, with ResNet-101, mAP 80.0 plain and 82.6 "
    "deformable at IoU 0.5, and 61.8 and 68.5 at IoU 0.7: the gain is larger where boxes have to be tight."
)
_OFFSETS = (
    "A deformable layer starts as an ordinary convolution: all offsets are zero. The table shows how far the trained "
    "layers move their taps: the mean length of the offsets over locations, taps and images, in cells of the layer's "
    "own map and in pixels of the image. A layer at 0 has learnt nothing."
)
_DILATION = (
    "Effective dilation: the mean distance between neighbouring taps of a filter, in cells of the layer's map, by what "
    "lies at the filter's centre (the measure of the paper's table 2). Where the deformable layers do what the paper "
    "says, it grows with the object."
)
_POINTS = (
    "The green disc is one unit at the centre of an object. Its nine taps are yellow; each of those is a unit of the "
    "layer before with nine taps of its own, orange. The upper row shows the learnt sampling points, the lower row "
    "those of the same layers without offsets. Points in the padding are not drawn."
)
_PARTS = (
    "Deformable RoI pooling divides each region proposal (blue) into parts and moves them (orange; grey lines say how "
    "far). Figure 7 of the paper."
)
SIDES = (32, 64)
"""An object is medium and large from these sides on, in pixels."""

BACKENDS = ("triton", "cpu", "reference")


def write_page(path: Path, trained: list[Trained], plan: Plan, clock: Clock, device: torch.device) -> Path:
    """Write the page.

    Args:
        path: the file.
        trained: the plain and the deformable model.
        plan: what was done.
        clock: the time of every part so far.
        device: where the models run.
    """
    recipe = trained[0].recipe
    dataset = open_split(recipe, "test")
    predictors = {one.name: load(one.folder, device=str(device)) for one in trained}
    page = Page("A deformable and a plain detector, trained with identical settings", _LEAD)
    _add_results(page, trained, plan, dataset)
    _add_curves(page, trained)
    _add_detections(page, dataset, predictors, plan)
    _add_offsets(page, dataset, predictors["deformable"], test_size(recipe), plan)
    _add_origin(page, trained, plan, clock, device)
    return page.write(path)


def _add_results(page: Page, trained: list[Trained], plan: Plan, dataset: Dataset) -> None:
    rows = [
        [one.name, one.voc["AP50"], one.voc["AP70"], one.coco["AP"], one.coco["AP75"], one.parameters]
        for one in trained
    ]
    header = ["model", "AP50", "AP70", "COCO AP", "COCO AP75", "parameters"]
    caption = "AP50 and AP70: Pascal VOC, area under the curve. COCO AP: mean over IoU 0.50 to 0.95."
    page.section("Result").text(verdict(trained, plan)).table(header, rows, caption)
    page.text(_PAPER).text(seen_before())
    counts = _object_counts(dataset)
    classes = [
        [name, counts[name], *(one.voc[f"{key}/{name}"] for key in ("AP50", "AP70") for one in trained)]
        for name in dataset.classes
    ]
    names = [f"{key} {one.name}" for key in ("AP50", "AP70") for one in trained]
    page.table(["shape", "objects", *names], classes, "Each shape on the held-out images.")


def verdict(trained: list[Trained], plan: Plan) -> str:
    """The result in words, whichever model is ahead."""
    plain, deformable = trained
    rows = (
        ("COCO AP", deformable.coco["AP"] - plain.coco["AP"]),
        *((key, deformable.voc[key] - plain.voc[key]) for key in ("AP50", "AP70")),
    )
    parts = [
        f"{abs(gain):.3f} {'above' if gain > 0 else 'below'} it in {key}" if gain else f"level with it in {key}"
        for key, gain in rows
    ]
    images = plan.images
    return (
        f"On {images['test']} held-out images the deformable model reaches COCO AP {deformable.coco['AP']:.3f}, the "
        f"plain one {plain.coco['AP']:.3f}: the deformable one is {', '.join(parts[:-1])} and {parts[-1]}. Both "
        f"trained on the same {images['train']} images in the same order for {plain.recipe.schedule.steps} steps of "
        f"{plain.recipe.schedule.batch_size} images, from the same weights. One run each, of seed "
        f"{plain.recipe.seed}: another seed changes these numbers."
    )


def seen_before() -> str:
    """What the full demo gave over several seeds, in words."""
    gains = {key: [getattr(run.deformable, key) - getattr(run.plain, key) for run in SEEDS] for key in Metrics._fields}
    means = {key: sum(own) / len(own) for key, own in gains.items()}
    return (
        f"Seen with the full demo over {len(SEEDS)} seeds ({SEEDS_MACHINE}): the deformable model was above the plain "
        f"one in COCO AP in {sum(gain > 0 for gain in gains['ap'])} of {len(SEEDS)}, by {means['ap']:.3f} in the mean "
        f"({min(gains['ap']):.3f} to {max(gains['ap']):.3f}); AP50 {means['ap50']:+.3f}, AP70 {means['ap70']:+.3f}. "
        "All seeds share the weights they start from. About three quarters of the gain come from how deformable RoI "
        "pooling samples (bilinear means, where plain pooling rounds its cells); learnt offsets add the rest "
        "(docs/does_it_help.md)."
    )


def _object_counts(dataset: Dataset) -> dict[str, int]:
    assert isinstance(dataset, Voc)
    counts = dict.fromkeys(dataset.classes, 0)
    for record in dataset.records:
        for item in record.objects:
            counts[item.name] += 1
    return counts


def _add_curves(page: Page, trained: list[Trained]) -> None:
    rows = {one.name: read_rows(one.folder / METRICS_FILE) for one in trained}
    ap = {name: [row for row in part if row["kind"] == "eval"] for name, part in rows.items()}
    images = trained[0].recipe.eval.images
    page.section("Training").figure_grid(
        [
            (
                metric_curves(rows, "loss", smooth=0.8),
                "sum of the losses of both models over the steps",
                "Sum of the losses.",
            ),
            (
                metric_curves(ap, "AP"),
                "COCO AP of both models during training",
                f"COCO AP on {images} validation images during training.",
            ),
        ],
        cell=420,
    )
    page.figure_grid(
        [
            (
                loss_curves(part, prefix="loss_", smooth=0.8),
                f"the four losses of the {name} model",
                f"The losses of the {name} model.",
            )
            for name, part in rows.items()
        ],
        cell=420,
    )


def _add_detections(page: Page, dataset: Dataset, predictors: dict[str, Predictor], plan: Plan) -> None:
    count = min(plan.pictures, len(dataset))
    indices = [number * len(dataset) // count for number in range(count)]
    page.section("Detections in held-out images").text(
        "Held-out images at even distances, not selected by hand. Detections have a score of 0.5 or more."
    ).figure_grid([pictures.detections(dataset, index, predictors) for index in indices], cell=900)


def _add_offsets(page: Page, dataset: Dataset, predictor: Predictor, size: tuple[int, int], plan: Plan) -> None:
    measured = spread(dataset, plan.offset_images)
    rows = [
        [row.layer, row.stride, row.mean, row.mean_pixels, row.largest]
        for row in pictures.motion(measured, predictor, size)
    ]
    header = ["layer", "pixels a cell", "mean (cells)", "mean (pixels)", "largest (cells)"]
    page.section("Where the deformable layers sample").text(_OFFSETS)
    page.table(header, rows, f"Length of the offsets over {len(measured)} held-out images.")
    _add_dilations(page, measured, predictor, size)
    chosen = pictures.largest_objects(dataset, min(3, len(dataset)))
    page.text(_POINTS).figure_grid([pictures.sampling(dataset, index, predictor, size) for index in chosen], cell=900)
    page.text(
        "The same as a map: dark where the taps stay, light where they move most (every picture has its own "
        "scale). Arrows show the mean shift of the nine taps."
    ).figure_grid([pictures.heat(dataset, index, predictor, size) for index in chosen[:2]], cell=900)
    page.text(_PARTS).figure_grid([pictures.parts(dataset, index, predictor) for index in chosen[:2]], cell=900)


def _add_dilations(page: Page, dataset: Dataset, predictor: Predictor, size: tuple[int, int]) -> None:
    # One image at a time: a model may run the images of a batch in groups of one size.
    samples = (dataset[index] for index in range(len(dataset)))
    batches = ([Sample(resize_image(sample.image, *size)[0], sample.target)] for sample in samples)
    rows = [
        [row.layer, row.undeformed, *(row.effective[category].mean for category in CATEGORIES)]
        for row in dilation_statistics(predictor, batches, SIDES)
    ]
    names = [f"small (below {SIDES[0]} pixels)", "medium", f"large (from {SIDES[1]} pixels)", "background"]
    page.text(_DILATION).table(
        ["layer", "without offsets", *names], rows, f"Effective dilation over {len(dataset)} held-out images."
    )


def _add_origin(page: Page, trained: list[Trained], plan: Plan, clock: Clock, device: torch.device) -> None:
    folder = str(trained[0].folder.parent)
    data = f"{folder}/data"
    lines = [["dcn", "demo", "--output", folder], [], ["# the same in steps"]]
    options = [f"{key}={json.dumps(value)}" for key, value in data_options().items()]
    lines += [
        ["dcn", "data", "write", data, *options, "--split", name, "--length", str(n)] for name, n in plan.images.items()
    ]
    own = [f"data.root={data}", f"seed={trained[0].recipe.seed}", *plan.changes]
    lines += [["dcn", "train", f"demo_{one.name}", *own, "--output", "runs"] for one in trained]
    lines += [[], ["# with the files of this demo"]]
    lines += [["dcn", "eval", str(one.folder)] for one in trained]
    lines += [["dcn", "predict", f"{folder}/deformable", f"{data}/JPEGImages"]]
    shown = [line[0] if line and line[0].startswith("#") else shlex.join(line) for line in lines]
    page.section("How it was made").code("\n".join(shown))
    facts = {name: ", ".join(value) if isinstance(value, list) else value for name, value in versions().items()}
    facts["deform_conv2d runs on"] = _backend(device)
    parts = {f"time: {name}": duration(seconds) for name, seconds in clock.seconds.items()}
    page.facts({name: value for name, value in facts.items() if value} | parts)


def _backend(device: torch.device) -> str:
    """The first backend that runs a deformable convolution on a device."""
    image = torch.zeros(1, 4, 6, 6, device=device)
    weight, offset = torch.zeros(4, 4, 3, 3, device=device), torch.zeros(1, 18, 6, 6, device=device)
    for name in BACKENDS:
        try:
            deform_conv2d(image, offset, weight, padding=1, backend=name)
        except (ValueError, RuntimeError, ImportError):
            continue
        return name
    return "none"
