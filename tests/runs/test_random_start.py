"""No training starts silently from a frozen random backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dcn.cli.main import main
from dcn.engine.config import ModelConfig, Recipe
from dcn.engine.recipe import load_recipe, recipe_names
from dcn.models import build, options_of
from dcn.runs.build import build_model

SMALL = {"width": 0.125, "stem_channels": 8}


def recipe_of(name: str, weights: str | None = None, **options: Any) -> Recipe:
    return replace(load_recipe("synthetic_plain"), model=ModelConfig(name, SMALL | options, None, weights))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({}, "norms with fixed statistics", id="defaults"),
        pytest.param({"norm": "train", "frozen_stages": 1}, "frozen parameters", id="stages"),
        pytest.param({"norm": "frozen", "frozen_stages": 0}, "norms with fixed statistics", id="norms"),
    ],
)
@pytest.mark.parametrize("name", ["faster_rcnn_r18_fpn", "deeplab_r18", "deeplabv3_r18"])
def test_a_frozen_backbone_needs_weights(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"model.backbone_weights: expected weights .*{reason}.*=random"):
        build_model(recipe_of(name, **options), ("a", "b"))


@pytest.mark.parametrize("name", ["faster_rcnn_r18_fpn", "deeplab_r18", "deeplabv3_r18", "rfcn_r50"])
def test_random_trains_all_of_the_backbone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model: Any = build_model(recipe_of(name, "random"), ("a", "b"))
    assert "all stages and norms of the backbone are trained from random weights" in caplog.text
    model.train()
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(module.training for module in norms)


def test_a_trained_backbone_needs_no_weights() -> None:
    assert build_model(recipe_of("faster_rcnn_r18_fpn", norm="train", frozen_stages=0), ("a", "b")) is not None


def test_the_command_names_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe names the file of its authors, which is not there."""
    from dcn.data.datasets.synthetic import Synthetic
    from dcn.formats.voc_writer import write_voc

    for split in ("train", "val", "test"):
        write_voc(Synthetic(split, length=2, size=(64, 64), glyph_size=(20, 30)), tmp_path / "data", split)
    words = ["train", "bccd_deformable", f"data.root={tmp_path / 'data'}", "data.classes=A,X,S,E,4,R,T,G"]
    assert main([*words, "--output", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert "model.backbone_weights" in message
    assert "random" in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_names_its_weights(name: str) -> None:
    """Or it has nothing frozen."""
    recipe = load_recipe(name)
    if recipe.model.weights is None and recipe.model.backbone_weights is None:
        options = {**options_of(recipe.model.name), **recipe.model.options}
        with torch.device("meta"):
            model: Any = build(recipe.model.name, ("a", "b"), **recipe.model.options)
        assert (options["norm"], options["frozen_stages"]) == ("train", 0)
        assert all(parameter.requires_grad for parameter in model.backbone.parameters())
