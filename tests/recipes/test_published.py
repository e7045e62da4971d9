"""Recipes of published rows: names and options that exist, and rates and lengths computed by hand."""

from __future__ import annotations

import pytest

from dcn.data.catalog import options_of as options_of_format
from dcn.engine.recipe import load_recipe, recipe_names
from dcn.models import options_of
from dcn.runs.build import model_options

ORIGINAL = [name for name in recipe_names() if name.startswith(("rfcn_", "rcnn_", "fpn_", "rpn_"))]
PYRAMID = [name for name in recipe_names() if name.endswith("_1x") and name != "coco_1x"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_names_a_model_and_its_options(name: str) -> None:
    recipe = load_recipe(name)
    assert model_options(recipe).keys() <= options_of(recipe.model.name).keys()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_names_a_format_and_its_options(name: str) -> None:
    data = load_recipe(name).data
    assert data.options.keys() <= set(options_of_format(data.format))


@pytest.mark.parametrize("name", PYRAMID)
def test_a_row_of_mmdetection_is_its_model_in_the_1x_schedule(name: str) -> None:
    recipe, base = load_recipe(name), load_recipe("coco_1x")
    assert recipe.model.name == name.removesuffix("_1x")
    assert (recipe.schedule, recipe.data, recipe.transforms) == (base.schedule, base.data, base.transforms)
    assert recipe.amp == ("fp16" if "fp16" in name else "off")


@pytest.mark.parametrize("name", ORIGINAL)
def test_a_row_of_the_original_code_is_trained_by_its_rule(name: str) -> None:
    recipe = load_recipe(name)
    assert name.startswith(recipe.model.name)
    assert ("_dcn" in name) == recipe.model.name.endswith("_dcn")
    schedule = recipe.schedule
    assert (schedule.momentum_form, schedule.decay_bias, schedule.warmup.kind) == ("mxnet", False, "constant")
    assert schedule.lr * schedule.weight_decay == pytest.approx(1e-6 if "fpn" in name else 5e-4 * 5e-4)
    assert schedule.lr * schedule.warmup.factor == pytest.approx(
        1e-3 if "fpn" in name else 5e-5 * schedule.images_per_step
    )


# Images, GPUs, epochs and drops of the original, whose epoch is 2 * images / GPUs updates.
LENGTHS = {
    "rfcn_r101_dcn_coco": (122_218, 8, 8, [5.333]),
    "rcnn_r101_coco": (122_218, 4, 8, [5.333]),
    "rfcn_r101_voc": (16_551, 4, 7, [4.83]),
    "fpn_r101_dcn_coco": (117_266, 8, 7, [4.0, 6.0]),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_number_of_updates_is_the_published_one(name: str) -> None:
    images, gpus, epochs, drops = LENGTHS[name]
    schedule = load_recipe(name).schedule
    assert schedule.images_per_step == gpus
    per_epoch = images / gpus
    assert schedule.total_steps(round(per_epoch)) == pytest.approx(epochs * 2 * per_epoch, rel=1e-4)
    actual = [schedule.in_steps(milestone, round(per_epoch)) for milestone in schedule.milestones]
    assert actual == pytest.approx([drop * 2 * per_epoch for drop in drops], rel=1e-4)


def test_the_multiscale_rows_test_as_published() -> None:
    testing = load_recipe("fpn_r101_dcn_coco_multiscale").tta
    assert testing.scales[0] == (480, 800)
    assert testing.scales[-1] == (1400, 2000)
    assert (len(testing.scales), testing.suppression, testing.sigma) == (6, "soft_nms_gaussian", 0.6)
