"""The plan: which runs follow from it, and what their recipes hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dcn.cli.reproduce import parse_seeds
from dcn.engine.optim import parameter_groups
from dcn.models import build
from dcn.reproduce.plan import PLAN, Choice, Plan, chosen_jobs, merged, read_plan
from dcn.reproduce.queue import Locations, missing_jobs, recipe_of
from dcn.runs.build import model_options

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan(TINY)


@pytest.fixture(scope="module")
def shipped() -> Plan:
    return read_plan()


def test_layers_are_merged_key_by_key() -> None:
    layers: list[dict[str, Any]] = [{"a": {"b": 1, "c": [1, 2]}}, {"a": {"b": 2}}, {"a": {"c": [3]}, "d": 4}]
    assert merged(layers) == {"a": {"b": 2, "c": [3]}, "d": 4}
    assert layers[0] == {"a": {"b": 1, "c": [1, 2]}}


def test_jobs_come_seed_by_seed_and_an_alias_is_no_second_run(plan: Plan) -> None:
    names = [job.name for job in chosen_jobs(plan, Choice(["letters"], ["rcnn"], seeds=(0, 2)))]
    own = ["letters/rcnn/plain", "letters/rcnn/atrous4", "letters/rcnn/deformable"]
    assert names == [f"{name}-0" for name in own] + [f"{name}-2" for name in own]


def test_stages_and_offsets_count_where_they_belong(plan: Plan) -> None:
    job = plan.job("letters", "deeplab", "deformable", 1)
    assert job.start is not None
    assert (job.settings["schedule"]["steps"], job.start.settings["schedule"]["steps"]) == (2, 1)
    assert job.settings["schedule"]["lr_multipliers"] == {"*.conv_offset.*": 0.5}
    plain = plan.job("letters", "deeplab", "plain", 1).settings
    assert "lr_multipliers" not in plain["schedule"]
    # Beside what is deformable, and its rate, the two are the same.
    options = {**plain["model"]["options"], "deform_layers": 1}
    schedule = {**plain["schedule"], "lr_multipliers": {"*.conv_offset.*": 0.5}}
    model = {**plain["model"], "options": options}
    assert job.settings == {**plain, "model": model, "schedule": schedule}


def test_a_data_set_begins_with_what_it_is_like(plan: Plan) -> None:
    data = plan.job("upright", "rcnn", "plain", 0).settings["data"]["options"]
    assert (data["num_classes"], data["geometry"]) == (2, {"rotation": 0, "bending": 0})


def test_the_recipe_of_a_run_changes_with_all_that_matters(plan: Plan) -> None:
    job = plan.job("letters", "rcnn", "plain", 0)
    assert job.recipe == plan.job("letters", "rcnn", "plain", 5).recipe  # the seed is a column of its own
    others = [
        plan.job("letters", "rcnn", "atrous4", 0),
        replace(job, settings=merged([job.settings, {"schedule": {"lr": 0.02}}])),
        replace(job, start=replace(plan.job("letters", "deeplab", "plain", 0), stage="start")),
    ]
    assert len({job.recipe, *(other.recipe for other in others)}) == 4
    assert replace(job, settings=merged([job.settings, {"workers": 4, "eval": {"pictures": 9}}])).recipe == job.recipe


def test_each_seed_may_have_a_start_of_its_own(plan: Plan, tmp_path: Path) -> None:
    datasets = merged([plan.datasets, {"letters": {"starts": "own"}}])
    own = replace(plan, datasets=datasets)
    choice = Choice(["letters"], ["rcnn"], variants=["plain"], seeds=(0, 1))
    names = [job.name for job in missing_jobs(chosen_jobs(own, choice), Locations(tmp_path, tmp_path / "none.csv"))]
    assert names == [f"letters/rcnn/{name}" for name in ("start-0", "plain-0", "start-1", "plain-1")]
    shared = [job.name for job in missing_jobs(chosen_jobs(plan, choice), Locations(tmp_path, tmp_path / "none.csv"))]
    assert shared == [f"letters/rcnn/{name}" for name in ("start-0", "plain-0", "plain-1")]
    recipes = {(seed, one.job("letters", "rcnn", "plain", seed).recipe) for one in (own, plan) for seed in (0, 1)}
    assert len({recipe for _, recipe in recipes}) == 2  # by the kind of start, not by the seed


def test_every_run_of_the_shipped_plan_has_a_recipe_and_a_model(shipped: Plan, tmp_path: Path) -> None:
    for name in ("cards", "bccd", "camvid", "voc2012_100"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet50_1by2_open_nsfw.pth").touch()
    locations = Locations(tmp_path, tmp_path / "results.csv", tmp_path)
    jobs = missing_jobs(chosen_jobs(shipped, Choice(seeds=(0,))), locations)
    own = [name for name, data in shipped.datasets.items() if "start_of" not in data]
    assert sum(job.stage == "start" for job in jobs) == sum(len(shipped.systems_of(name)) for name in own)
    models = set()
    for job in jobs:
        recipe = recipe_of(job, locations)
        key = (job.system, job.variant, recipe.model.options["width"])
        if key not in models:
            models.add(key)
            with torch.device("meta"):
                build(recipe.model.name, ("a", "b"), **model_options(recipe))


def test_the_shipped_plan_asks_what_the_papers_asked(shipped: Plan) -> None:
    variants = {part: shipped.variants_of(part, "rfcn") for part in shipped.parts}
    assert variants == {
        "a": ["plain", "atrous4", "atrous6", "atrous8", "fixed", "deformable"],
        "b": ["plain", "still", "dconv3", "dpool", "deformable"],
        "c": ["plain", "dconv1", "dconv2", "dconv3", "dconv6"],
        "d": ["plain", "dconv3", "v2", "modulated", "group1"],
    }
    assert shipped.variants_of("b", "deeplab") == []
    assert [shipped.title("parts", part) for part in shipped.parts] == [
        "plain, dilated and deformable",
        "deformable convolution, RoI pooling or both",
        "number of deformable layers",
        "kinds of deformable layers",
    ]
    low, high = shipped.job("shapes", "rcnn", "plain", 0).settings["data"]["options"]["glyph_size"]
    assert high / low >= 6


@pytest.mark.parametrize(
    ("dataset", "system"),
    [
        ("shapes", "deeplab"),
        ("shapes", "rpn"),
        ("shapes", "rcnn"),
        ("shapes", "rfcn"),
        ("bccd", "rcnn"),
        ("camvid", "deeplab"),
    ],
)
def test_one_learnt_grid_does_not_follow_the_image(shipped: Plan, dataset: str, system: str) -> None:
    settings = shipped.job(dataset, system, "fixed", 0).settings
    schedule = settings["schedule"]
    with torch.device("meta"):
        model = build(settings["model"]["name"], ("a", "b"), **settings["model"]["options"])
    named = [(name, value) for name, value in model.named_parameters() if "offset" in name]
    patterns, own = schedule["lr_multipliers"], getattr(model, "lr_multipliers", None)
    groups = parameter_groups(model.named_parameters(), 0.0, True, patterns, own)
    rates = {id(value): group["lr_multiplier"] for group in groups for value in group["params"]}
    weights = {rates[id(value)] for name, value in named if name.endswith("weight")}
    biases = {rates[id(value)] for name, value in named if name.endswith("bias")}
    assert weights == {0.0}
    assert min(biases) >= 10
    assert len(weights | biases) == 2 + (system in ("rcnn", "rfcn"))


def test_a_data_set_may_take_the_start_of_another(shipped: Plan, tmp_path: Path) -> None:
    cards, longer = (shipped.job(name, "rfcn", "deformable", 1) for name in ("cards", "cards_long"))
    assert longer.start == cards.start
    assert longer.recipe != cards.recipe
    wrong = tmp_path / "plan.yaml"
    wrong.write_text(PLAN.read_text(encoding="utf-8").replace("start_of: cards", "start_of: cats"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"datasets\.cards_long\.start_of: expected one of .*got 'cats'"):
        read_plan(wrong)


def test_what_is_missing_is_said(shipped: Plan, tmp_path: Path) -> None:
    job = shipped.job("cards", "rcnn", "plain", 0)
    with pytest.raises(ValueError, match=r"--data: expected a folder with cards/ for cards; no --data was given"):
        recipe_of(job, Locations(tmp_path, tmp_path / "results.csv"))
    (tmp_path / "cards").mkdir()
    assert job.start is not None
    with pytest.raises(ValueError, match=r"--weights: expected a folder with resnet50_1by2_open_nsfw\.pth"):
        recipe_of(job.start, Locations(tmp_path, tmp_path / "results.csv", tmp_path))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(["leters"]), "--dataset: expected one of letters.*got 'leters'.*letters"),
        (Choice(systems=["ssd"]), "--system: expected one of deeplab, rcnn, got 'ssd'"),
        (Choice(parts=["z"]), "--part: expected one of a, c, got 'z'"),
        (Choice(variants=["v9"]), "--variant: expected one of plain"),
    ],
    ids=["dataset", "system", "part", "variant"],
)
def test_unknown_names(plan: Plan, choice: Choice, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_jobs(plan, choice)


@pytest.mark.parametrize(
    ("text", "new", "message"),
    [
        ("like: letters", "like: nothing", "datasets.upright.like: expected a data set above it, got 'nothing'"),
        ("variants: [plain, dconv1, deformable]", "variants: [plane]", "parts.c.variants: expected one of plain"),
        ("systems: [deeplab, rcnn]", "systems: [deeplab, ssd]", "datasets.letters.systems: expected one of deeplab"),
        ("{title: layers, ", "{title: layers, and more, ", r"parts.c: expected one of .*, got 'and more'"),
        ("parts:", "pieces:", "expected the sections datasets, parts, recipe, systems, variants"),
    ],
    ids=["like", "part", "dataset", "key", "section"],
)
def test_plans_that_do_not_fit_together(tmp_path: Path, text: str, new: str, message: str) -> None:
    content = TINY.read_text(encoding="utf-8")
    assert text in content
    (tmp_path / "plan.yaml").write_text(content.replace(text, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(("text", "seeds"), [("0-2", [0, 1, 2]), ("3", [3]), ("0,4-5", [0, 4, 5])])
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1"])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds: expected a range such as 0-2"):
        parse_seeds(text)
