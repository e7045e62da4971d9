"""``dcn analyze``: a model and annotated images, opened for an analysis that needs no class names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dcn.analysis import LayerDilation, LayerFields, dilation_statistics, field_statistics
from dcn.analysis.effective_dilation import COCO_SIDES
from dcn.data.dataset import Dataset
from dcn.data.subset import spread
from dcn.engine.config import Recipe
from dcn.engine.distributed import World, choose_device
from dcn.engine.log import progress
from dcn.models import Model
from dcn.runs.build import evaluation_batches, open_split, test_size
from dcn.runs.load import read_model
from dcn.runs.opening import find_run, recipe_beside_predictor
from dcn.runs.predictor import Predictor
from dcn.runs.sources import StrPath
from dcn.structures import Sample

FIELD_IMAGES = 16
"""Images of :func:`analyze_receptive_field` by default: every unit costs a pass backwards."""


@dataclass(frozen=True)
class Analysed:
    """A model and the images that it is run on.

    Attributes:
        model: on its device.
        dataset: the images.
        batches: of samples as the model sees them, with a progress bar.
        background: the label of background in segmentation maps, where the data has a class of that name.
    """

    model: Model
    dataset: Dataset
    batches: Iterable[list[Sample]]
    background: int | None


def open_analysis(
    source: StrPath | Predictor,
    split: str = "test",
    *,
    recipe: StrPath | Recipe | None = None,
    images: int | None = None,
    device: str | None = None,
    changes: Sequence[str] = (),
) -> Analysed:
    """Open a model and the annotated images of a recipe; their classes need not be the same.

    Args:
        source: a run folder, a weights file, a model that comes with the package, or a predictor (with a ``recipe``).
        split: see :func:`dcn.evaluate`.
        recipe: what describes the data; ``None``: that of the run.
        images: this many at even distances; ``None``: all.
        device: ``"cpu"``, ``"cuda"``, ...; a predictor stays where it is.
        changes: ``key=value`` changes of the recipe.

    Raises:
        ValueError: no such run, weights, recipe or data, or images without annotations.
    """
    if images is not None and images < 1:
        raise ValueError(f"images: expected 1 or more, got {images}")
    if isinstance(source, Predictor):
        settings, model, world = recipe_beside_predictor(recipe, changes), source.model, World(source.device)
    else:
        origin, settings = find_run(source, recipe, changes)
        model, world = read_model(origin.weights), World(choose_device(device))
    whole = open_split(settings, split)
    if not getattr(whole, "annotated", True):
        raise ValueError(f"{whole.name}: expected annotations that tell objects from background, got none")
    dataset = spread(whole, images)
    batches = evaluation_batches(settings, dataset, test_size(settings), world)
    shown = progress(batches, math.ceil(len(dataset) / settings.eval.batch_size), dataset.name)
    names = [name.lower() for name in dataset.classes]
    background = names.index("background") if "background" in names else None
    return Analysed(model.to(world.device), dataset, shown, background)  # type: ignore[arg-type]  # a predictor's is one


def analyze_dilation(
    opened: Analysed, sides: Sequence[float] = COCO_SIDES, *, by_group: bool = False
) -> list[LayerDilation]:
    """Table 2 of the paper, see :func:`dcn.analysis.dilation_statistics`."""
    return dilation_statistics(opened.model, opened.batches, sides, by_group=by_group, background=opened.background)


def analyze_receptive_field(
    opened: Analysed, layer: str | None = None, sides: Sequence[float] = COCO_SIDES, *, units: int = 2
) -> LayerFields:
    """Effective receptive fields, see :func:`dcn.analysis.field_statistics`."""
    samples = (sample for batch in opened.batches for sample in batch)
    return field_statistics(opened.model, samples, layer, sides, units=units, background=opened.background)
