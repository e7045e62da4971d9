"""The demo's job: data, two trainings, the evaluation of both, and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dcn.data.datasets.synthetic import Synthetic
from dcn.demo.page import write_page
from dcn.demo.plan import MODELS, Clock, Plan, Trained, data_options
from dcn.engine import Recipe, load_recipe
from dcn.engine.distributed import World
from dcn.formats.voc_writer import write_voc
from dcn.metrics import CocoAP, VocAP
from dcn.metrics.results import CocoResult, VocResult
from dcn.models import Model
from dcn.runs.build import evaluation_batches, open_split, test_size
from dcn.runs.load import read_model
from dcn.runs.measure import predictions
from dcn.runs.tasks import DETECTION
from dcn.runs.train import train_recipe
from dcn.tta import TTA

RESULT_FILE = "demo.json"
DATA_SEED = 0


def run_demo(output: Path, plan: Plan, world: World, seed: int = 0) -> list[str] | None:
    """Do the whole job.

    Args:
        output: gets ``report.html``, ``demo.json``, the data and the two run folders; those of an earlier demo are
            replaced.
        plan: how much to do.
        world: this process; the demo runs in one.
        seed: of the recipes.

    Returns:
        The results in words, line by line; ``None`` where training was interrupted.

    Raises:
        ValueError: ``output`` holds something that is not an earlier demo.
    """
    clear(output)
    clock = Clock()
    with clock.part("generating and writing the data"):
        write_data(output / "data", plan)
    trained = []
    for name in MODELS:
        changes = [f"data.root={json.dumps(str(output / 'data'))}", f"seed={seed}", *plan.changes]
        result = _train_and_evaluate(name, output / name, changes, world, clock)
        if result is None:
            return None
        trained.append(result)
    with clock.part("pictures"):
        page = write_page(output / "report.html", trained, plan, clock, world.device)
    _write_results(output, trained, clock)
    return conclusion(trained, plan, page, clock.total)


def clear(output: Path) -> None:
    """Prepare the folder: what an earlier demo left there is removed, anything else is refused.

    Raises:
        ValueError: the folder is not empty and has no ``demo.json``.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: expected a folder, got the file {output}")
    if output.is_dir() and any(output.iterdir()) and not (output / RESULT_FILE).is_file():
        raise ValueError(
            f"--output: expected an empty folder or an earlier demo, got {output}, which holds other files"
        )
    for name in ("data", *MODELS):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / "report.html").unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / RESULT_FILE).write_text("{}\n", encoding="utf-8")


def write_data(folder: Path, plan: Plan) -> None:
    """Generate the splits and write them in the Pascal VOC layout: the reader of real data reads them."""
    for split, count in plan.images.items():
        write_voc(Synthetic(split, seed=DATA_SEED, length=count, masks=False, **data_options()), folder, split)


def _train_and_evaluate(name: str, folder: Path, changes: list[str], world: World, clock: Clock) -> Trained | None:
    """``None`` where training was interrupted."""
    recipe = load_recipe(f"demo_{name}", changes)

    def make_folder() -> Path:
        folder.mkdir()
        return folder

    with clock.part(f"training, {name}"):
        run = train_recipe(recipe, world, make_folder)
    if not run.finished:
        return None
    with clock.part(f"held-out images, {name}"):
        model = read_model(run.best()).to(world.device)
        voc, coco = evaluate_both(recipe, model, world)
    return Trained(name, folder, recipe, voc, coco, sum(p.numel() for p in model.parameters()))


def evaluate_both(recipe: Recipe, model: Model, world: World) -> tuple[VocResult, CocoResult]:
    """Metrics by the rules of VOC and of COCO, from the same detections in the images of ``recipe.data.test``."""
    dataset = open_split(recipe, "test")
    view = DETECTION.view(model, TTA(), test_size(recipe))
    batches = evaluation_batches(recipe, dataset, view.size, world)
    voc, coco = VocAP(dataset.classes), CocoAP(dataset.classes)
    for detections, targets in predictions(DETECTION, model, view, batches, world.device, recipe.amp):
        voc.update(detections, targets)
        coco.update(detections, targets)
    return voc.compute(), coco.compute()


def _write_results(output: Path, trained: list[Trained], clock: Clock) -> None:
    models = {
        one.name: {"voc": one.voc.to_dict(), "coco": one.coco.to_dict(), "parameters": one.parameters}
        for one in trained
    }
    content = {"models": models, "seconds": clock.seconds}
    (output / RESULT_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def conclusion(trained: list[Trained], plan: Plan, page: Path, seconds: float) -> list[str]:
    """The last lines: the results, and where the page is."""
    lines = [f"on {plan.images['test']} held-out images, trained with identical settings:"]
    for one in trained:
        metrics = f"AP50 {one.voc['AP50']:.3f}, AP70 {one.voc['AP70']:.3f}, COCO AP {one.coco['AP']:.3f}"
        lines.append(f"  {one.name:<10} {metrics}")
    return [*lines, f"{int(seconds // 60)} min {int(seconds % 60)} s; the page: {page.resolve()}"]
