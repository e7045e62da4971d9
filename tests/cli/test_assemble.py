from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcn.cli import assemble
from dcn.engine import load_recipe, save_weights
from dcn.engine.distributed import World
from dcn.structures import Target

SMALL = ["data.options.length=10", "schedule.batch_size=4", "workers=0"]
OPTIONS = "model.options={width: 0.125, stem_channels: 8, fpn_channels: 16, fc_channels: 16}"


def test_part_of_a_set_is_spread_over_it() -> None:
    recipe = load_recipe("synthetic_plain", SMALL)
    whole = assemble.open_split(recipe, "val")
    part = assemble.spread(whole, 3)
    ids = [whole[index].target.image_id for index in (0, 3, 6)]
    assert [part[index].target.image_id for index in range(len(part))] == ids
    assert part.sizes == [whole.sizes[index] for index in (0, 3, 6)]
    assert assemble.spread(whole, 10) is whole


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [([], False), (["model.name=mask_rcnn_r18_fpn"], True), (["data.options.masks=true"], True)],
    ids=["boxes alone", "a network with masks", "asked for"],
)
def test_masks_are_decoded_for_networks_that_find_them(overrides: list[str], wanted: bool) -> None:
    dataset = assemble.open_split(load_recipe("synthetic_plain", [*SMALL, *overrides]), "val")
    target = dataset[0].target
    assert isinstance(target, Target)
    assert (target.masks is not None) == wanted


def test_evaluation_sees_resized_images_and_original_targets() -> None:
    recipe = load_recipe("synthetic_plain", [*SMALL, "transforms.test_short=96"])
    dataset = assemble.open_split(recipe, "val")
    world = World(torch.device("cpu"))
    first = next(assemble.evaluation_batches(recipe, dataset, assemble.test_size(recipe), world))[0]
    assert first.image.shape == (3, 96, 96)
    assert isinstance(first.target, Target)
    assert first.target.size == (192, 192)


def test_processes_share_the_batch() -> None:
    recipe = load_recipe("synthetic_plain", SMALL)
    dataset = assemble.open_split(recipe, "train", training=True)
    device = torch.device("cpu")
    whole = next(assemble.training_batches(recipe, dataset, World(device))[0](0))
    parts = [next(assemble.training_batches(recipe, dataset, World(device, rank, 2))[0](0)) for rank in range(2)]
    shared = [sample.target.image_id for part in parts for sample in part]
    assert shared == [sample.target.image_id for sample in whole]
    with pytest.raises(ValueError, match="4 images cannot be shared by 3 processes"):
        assemble.training_batches(recipe, dataset, World(device, 0, 3))


def test_fine_tuning_keeps_what_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Weights of three classes into a network of two: only the last layers start afresh, and the log says so."""
    recipe = load_recipe("synthetic_plain", [OPTIONS])
    old = assemble.build_model(recipe, ("a", "b", "c"))
    save_weights(tmp_path / "old.safetensors", old, recipe.model.name, {})
    with caplog.at_level("INFO", "dcn"):
        tuned = load_recipe("synthetic_plain", [OPTIONS, f"model.weights={tmp_path / 'old.safetensors'}", "seed=5"])
        new = assemble.build_model(tuned, ("x", "y")).state_dict()
    different = {name for name, value in old.state_dict().items() if not torch.equal(new[name], value)}
    heads = {f"roi_head.bbox_head.{layer}.{kind}" for layer in ("fc_cls", "fc_reg") for kind in ("weight", "bias")}
    assert {name for name in different if new[name].any()} <= heads
    assert all(name in caplog.text for name in heads)


def test_classes_of_the_recipe_must_be_those_of_the_data() -> None:
    recipe = load_recipe("synthetic_plain", [*SMALL, "data.classes=[cat]"])
    with pytest.raises(ValueError, match=r"data\.classes: .* not \['cat'\]"):
        assemble.open_split(recipe, "val")
