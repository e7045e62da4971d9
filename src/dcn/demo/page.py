"""The page of a demo: results, curves, pictures, and the commands that repeat it."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

from dcn.data.dataset import Dataset
from dcn.data.datasets.voc import Voc
from dcn.data.subset import spread
from dcn.demo import pictures
from dcn.demo.plan import Clock, Plan, Trained
from dcn.engine.folder import versions
from dcn.engine.log import METRICS_FILE, duration, read_rows
from dcn.ops import deform_conv2d
from dcn.report.page import Page
from dcn.runs.build import open_split, test_size
from dcn.runs.load import load
from dcn.runs.predictor import Predictor
from dcn.vis import loss_curves, metric_curves

_LEAD = (
    "Two Faster R-CNN detectors, trained with identical settings on generated letters that are rotated, bent and "
    "partly hidden. They differ in one thing: in the deformable model the 3x3 convolutions of the stages c3 to c5 "
    "learn where they sample, and how much each sample counts."
)
_OFFSETS = (
    "A deformable layer starts as an ordinary convolution: all offsets are zero. The table shows how far the trained "
    "layers move their taps: the mean length of the offsets over locations, taps and images, in cells of the layer's "
    "own map and in pixels of the image. A layer at 0 has learnt nothing."
)
_POINTS = (
    "The green disc is one unit at the centre of a letter. Its nine taps are yellow; each of those is a unit of the "
    "layer before with nine taps of its own, orange. The upper row shows the learnt sampling points, the lower row "
    "those of the same layers without offsets. Points in the padding are not drawn."
)
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
    counts = _object_counts(dataset)
    classes = [
        [name, counts[name], *(one.voc[f"{key}/{name}"] for key in ("AP50", "AP70") for one in trained)]
        for name in dataset.classes
    ]
    names = [f"{key} {one.name}" for key in ("AP50", "AP70") for one in trained]
    page.table(["letter", "objects", *names], classes, "Each letter on the held-out images.")


def verdict(trained: list[Trained], plan: Plan) -> str:
    """The result in words, whichever model is ahead."""
    plain, deformable = trained
    rows = ((key, deformable.voc[key] - plain.voc[key]) for key in ("AP50", "AP70"))
    parts = [
        f"{abs(gain):.3f} {'above' if gain > 0 else 'below'} it in {key}" if gain else f"level with it in {key}"
        for key, gain in rows
    ]
    images = plan.images
    return (
        f"On {images['test']} held-out images the deformable model reaches AP50 {deformable.voc['AP50']:.3f}, the "
        f"plain one {plain.voc['AP50']:.3f}: the deformable one is {' and '.join(parts)}. Both trained on the same "
        f"{images['train']} images in the same order for {plain.recipe.schedule.steps} steps of "
        f"{plain.recipe.schedule.batch_size} images, from the same backbone. One run each: another seed changes these "
        "numbers."
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
                metric_curves(ap, "AP50"),
                "AP50 of both models during training",
                f"AP50 on {images} validation images during training.",
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
    measured = range(len(spread(dataset, plan.offset_images)))
    rows = [
        [row.layer, row.stride, row.mean, row.mean_pixels, row.largest]
        for row in pictures.motion(dataset, measured, predictor, size)
    ]
    header = ["layer", "pixels a cell", "mean (cells)", "mean (pixels)", "largest (cells)"]
    page.section("Where the deformable layers sample").text(_OFFSETS)
    page.table(header, rows, f"Length of the offsets over {len(measured)} held-out images.")
    chosen = pictures.largest_objects(dataset, min(3, len(dataset)))
    page.text(_POINTS).figure_grid([pictures.sampling(dataset, index, predictor, size) for index in chosen], cell=900)
    page.text(
        "The same as a map: dark where the taps stay, light where they move most (every picture has its own "
        "scale). Arrows show the mean shift of the nine taps."
    ).figure_grid([pictures.heat(dataset, index, predictor, size) for index in chosen[:2]], cell=900)


def _add_origin(page: Page, trained: list[Trained], plan: Plan, clock: Clock, device: torch.device) -> None:
    folder = str(trained[0].folder.parent)
    data = f"{folder}/data"
    lines = [["dcn", "demo", "--output", folder], [], ["# the same in steps"]]
    lines += [["dcn", "data", "write", data, "--split", name, "--length", str(n)] for name, n in plan.images.items()]
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
