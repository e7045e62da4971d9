"""The page of ``dcn demo``: figures as they came out, curves, pictures, and how to repeat it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dcn.api import load
from dcn.cli import demo_pictures
from dcn.cli.assemble import open_split, spread, test_size
from dcn.cli.doctor import examine
from dcn.data.dataset import Dataset
from dcn.data.datasets.voc import Voc
from dcn.engine.log import METRICS_FILE, duration, read_rows
from dcn.engine.predict import Predictor
from dcn.vis import Report, loss_curves, metric_curves

if TYPE_CHECKING:
    from dcn.cli.demo import Clock, Plan, Trained

_LEAD = (
    "Two Faster R-CNN detectors, trained alike on drawn letters that are turned, bent and partly hidden. They differ "
    "in one thing: in the deformable one the 3x3 convolutions of the stages c3 to c5 learn where to look, and how much "
    "each place counts."
)
_OFFSETS = (
    "A deformable layer starts as an ordinary convolution: all offsets are zero. This is how far the trained layers "
    "move their taps, as the mean length of the offsets over places, taps and images, in cells of the layer's own map "
    "and in pixels of the image. A layer at 0 would have learnt nothing."
)
_POINTS = (
    "The green disc is one unit at the centre of a letter. Its nine taps are yellow; each of those is a unit of the "
    "layer before with nine taps of its own, orange. Above, the learnt places; below, where the same layers would look "
    "without offsets. Points that would lie in the padding are left out."
)


def write_page(path: Path, trained: list[Trained], plan: Plan, clock: Clock, device: torch.device) -> Path:
    """Write the page.

    Args:
        path: the file.
        trained: the plain and the deformable network.
        plan: what was done.
        clock: what took how long so far.
        device: where the networks run.
    """
    recipe = trained[0].recipe
    dataset = open_split(recipe, recipe.data.test)
    networks = {one.name: load(one.folder, device=str(device)) for one in trained}
    report = Report("Deformable and plain detector, trained alike", _LEAD)
    _add_results(report, trained, plan, dataset)
    _add_curves(report, trained)
    _add_detections(report, dataset, networks, plan)
    _add_offsets(report, dataset, networks["deformable"], test_size(recipe), plan)
    _add_origin(report, trained, plan, clock, device)
    return report.write(path)


def _add_results(report: Report, trained: list[Trained], plan: Plan, dataset: Dataset) -> None:
    rows = [
        [one.name, one.voc["AP50"], one.voc["AP70"], one.coco["AP"], one.coco["AP75"], one.parameters]
        for one in trained
    ]
    header = ["network", "AP50", "AP70", "COCO AP", "COCO AP75", "parameters"]
    caption = "AP50 and AP70: Pascal VOC, area under the curve. COCO AP: mean over IoU 0.50 to 0.95."
    report.section("Result").text(verdict(trained, plan)).table(header, rows, caption)
    counts = _object_counts(dataset)
    classes = [
        [name, counts[name], *(one.voc[f"{key}/{name}"] for key in ("AP50", "AP70") for one in trained)]
        for name in dataset.classes
    ]
    names = [f"{key} {one.name}" for key in ("AP50", "AP70") for one in trained]
    report.table(["letter", "objects", *names], classes, "Each letter on the held-out images.")


def verdict(trained: list[Trained], plan: Plan) -> str:
    """What came out, in words; whichever network is ahead."""
    plain, deformable = trained
    rows = ((key, deformable.voc[key] - plain.voc[key]) for key in ("AP50", "AP70"))
    parts = [
        f"{abs(gain):.3f} {'above' if gain > 0 else 'below'} it in {key}" if gain else f"level with it in {key}"
        for key, gain in rows
    ]
    images = plan.images
    return (
        f"On {images['test']} held-out images the deformable network reaches AP50 {deformable.voc['AP50']:.3f}, the "
        f"plain one {plain.voc['AP50']:.3f}: the deformable one is {' and '.join(parts)}. Both saw the same "
        f"{images['train']} images in the same order for {plain.recipe.schedule.steps} updates of "
        f"{plain.recipe.schedule.batch_size}, from the same backbone. One run each: another seed moves these figures."
    )


def _object_counts(dataset: Dataset) -> dict[str, int]:
    assert isinstance(dataset, Voc)
    counts = dict.fromkeys(dataset.classes, 0)
    for record in dataset.records:
        for item in record.objects:
            counts[item.name] += 1
    return counts


def _add_curves(report: Report, trained: list[Trained]) -> None:
    rows = {one.name: read_rows(one.folder / METRICS_FILE) for one in trained}
    ap = {name: [row for row in part if row["kind"] == "eval"] for name, part in rows.items()}
    images = trained[0].recipe.eval.images
    report.section("Training").figure_grid(
        [
            (
                metric_curves(rows, "loss", smooth=0.8),
                "sum of the losses of both networks over the updates",
                "Sum of the losses.",
            ),
            (
                metric_curves(ap, "AP50"),
                "AP50 of both networks during training",
                f"AP50 on {images} validation images while training.",
            ),
        ],
        cell=420,
    )
    report.figure_grid(
        [
            (
                loss_curves(part, prefix="loss_", smooth=0.8),
                f"the four losses of the {name} network",
                f"The losses of the {name} network.",
            )
            for name, part in rows.items()
        ],
        cell=420,
    )


def _add_detections(report: Report, dataset: Dataset, networks: dict[str, Predictor], plan: Plan) -> None:
    count = min(plan.pictures, len(dataset))
    indices = [place * len(dataset) // count for place in range(count)]
    report.section("Found in held-out images").text(
        "Taken at even distances from the held-out images, not chosen. Detections with a score of 0.5 and more."
    ).figure_grid([demo_pictures.detections(dataset, index, networks) for index in indices], cell=900)


def _add_offsets(report: Report, dataset: Dataset, network: Predictor, size: tuple[int, int], plan: Plan) -> None:
    judged = range(len(spread(dataset, plan.judged_offsets)))
    rows = [
        [row.layer, row.stride, row.mean, row.mean_pixels, row.largest]
        for row in demo_pictures.motion(dataset, judged, network, size)
    ]
    header = ["layer", "pixels a cell", "mean (cells)", "mean (pixels)", "largest (cells)"]
    report.section("Where the deformable layers look").text(_OFFSETS)
    report.table(header, rows, f"Length of the offsets over {len(judged)} held-out images.")
    chosen = demo_pictures.largest_objects(dataset, min(3, len(dataset)))
    report.text(_POINTS).figure_grid(
        [demo_pictures.sampling(dataset, index, network, size) for index in chosen], cell=900
    )
    report.text(
        "The same as a map: dark where the taps stay, light where they move most (each picture on its own scale); "
        "arrows show the mean shift of the nine taps."
    ).figure_grid([demo_pictures.heat(dataset, index, network, size) for index in chosen[:2]], cell=900)


def _add_origin(report: Report, trained: list[Trained], plan: Plan, clock: Clock, device: torch.device) -> None:
    folder = trained[0].folder.parent
    lines = [f"dcn demo --output {folder}", "", "# the same in steps"]
    lines += [f"dcn data write {folder}/data --split {split} --length {n}" for split, n in plan.images.items()]
    own = [f"data.root={folder}/data", f"seed={trained[0].recipe.seed}", *plan.overrides]
    lines += [f"dcn train demo_{one.name} {' '.join(own)} --output runs" for one in trained]
    lines += ["", "# with what is here already"]
    lines += [f"dcn eval {one.folder}" for one in trained]
    lines += [f"dcn predict {folder}/deformable {folder}/data/JPEGImages/test_00000*.jpg"]
    report.section("How it was made").code("\n".join(lines))
    known = examine()
    kind = str(device) if str(device) in known["operators"] else f"{device.type}:0"
    backends = known["operators"].get(kind, {}).get("deform_conv2d", {})
    facts = {name: ", ".join(value) if isinstance(value, list) else value for name, value in known["versions"].items()}
    facts["deform_conv2d runs on"] = next((name for name, reason in backends.items() if reason is None), "unknown")
    parts = {f"time: {name}": duration(seconds) for name, seconds in clock.seconds.items()}
    report.facts({name: value for name, value in facts.items() if value} | parts)
