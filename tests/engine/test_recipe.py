from __future__ import annotations

from pathlib import Path

import pytest

from dcn.engine.recipe import dump_recipe, find_weights_file, load_recipe, recipe_names

MINIMAL = "model: {name: tiny}\ndata: {format: synthetic}\nschedule: {epochs: 3, lr: 1e-3, milestones: [1.5]}\n"


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "minimal.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_survives_writing_and_reading(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "copy.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "copy.yaml") == recipe


def test_the_published_schedule() -> None:
    schedule = load_recipe("faster_rcnn_r50_fpn_dconv_c3-c5_1x").schedule
    steps_per_epoch = 7330  # 117,266 images with boxes, 16 at a time
    assert schedule.total_steps(steps_per_epoch) == 87960
    assert [schedule.in_steps(m, steps_per_epoch) for m in schedule.milestones] == [58640, 80630]
    assert (schedule.scaled_lr, schedule.momentum, schedule.weight_decay) == (0.02, 0.9, 1e-4)


def test_the_rate_follows_the_batch_size_only_where_the_recipe_says_so(minimal: Path) -> None:
    scaled = ["schedule.batch_size=4", "schedule.lr_batch_size=16"]
    assert load_recipe(minimal, scaled).schedule.scaled_lr == pytest.approx(0.00025)
    assert load_recipe(minimal, scaled[:1]).schedule.scaled_lr == 0.001


def test_overrides_are_yaml(minimal: Path) -> None:
    overrides = ["amp=off", "schedule.lr=5e-2", "data.classes=[a, b]", "schedule.lr_multipliers={'back*.x': 0.1}"]
    recipe = load_recipe(minimal, [*overrides, "model.options.width=0.5", "data.root=null"])
    assert recipe.amp == "off"
    assert recipe.schedule.lr == 0.05
    assert recipe.data.classes == ("a", "b")
    assert recipe.schedule.lr_multipliers == {"back*.x": 0.1}
    assert recipe.model.options == {"width": 0.5}
    assert recipe.data.root is None


def test_a_base_is_merged_section_by_section(minimal: Path) -> None:
    child = minimal.with_name("child.yaml")
    child.write_text("base: minimal.yaml\nschedule: {lr: 2}\n")
    schedule = load_recipe(child).schedule
    assert (schedule.lr, schedule.epochs, schedule.milestones) == (2.0, 3.0, (1.5,))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.learning_rte=1", r"schedule\.learning_rte: unknown key"),
        ("schedule.batch_sise=1", r"schedule\.batch_sise: unknown key; did you mean 'batch_size'\?"),
        ("scedule.lr=1", r"scedule: unknown key; did you mean 'schedule'\?"),
        ("schedule.lr=fast", r"schedule\.lr: expected float, got 'fast'"),
        ("schedule.batch_size=2.5", r"schedule\.batch_size: expected int, got 2\.5"),
        ("seed=true", r"seed: expected int, got True"),
        ("amp=bf61", r"amp: unknown value 'bf61'; did you mean 'bf16'\?"),
        ("schedule.warmup.kind=liner", r"schedule\.warmup\.kind: unknown value 'liner'; did you mean 'linear'"),
        ("transforms.short=800", r"transforms\.short: expected a list"),
        ("transforms.short=[big]", r"transforms\.short\[0\]: expected int"),
        ("schedule.steps=3", r"schedule\.steps: give either steps or epochs"),
        ("schedule.accumulate=3", r"schedule\.batch_size: expected a positive multiple of accumulate \(3\)"),
        ("schedule.milestones=[2, 1]", r"schedule\.milestones: expected rising numbers"),
        ("model.name.x=1", r"'name' is a value, not a section"),
        ("model=null", r"model: expected a mapping"),
        ("schedule.lr", r"expected key=value"),
        ("schedule.lr=[1", r"not valid YAML"),
    ],
)
def test_a_mistake_is_named(minimal: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(minimal, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "key 'seed' is given twice"),
        ("data: {format: voc}\nschedule: {steps: 1}\n", "model: missing"),
        ("- 1\n", "expected a mapping of sections"),
        ("base: wrong.yaml\n", "its bases lead back to itself"),
    ],
    ids=["twice", "missing", "list", "circle"],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'bccd_plain'"):
        load_recipe("bccd_plane")


def test_weights_are_found_at_a_path_or_among_the_shipped_ones(tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.touch()
    assert find_weights_file(own) == own
    shipped = find_weights_file("synthetic_r18.safetensors")
    assert shipped.parent.name == "weights"
    assert shipped.stat().st_size < 4e6
    with pytest.raises(ValueError, match=r"weights 'gone.pth': no such file, .*\(synthetic_r18.safetensors\)"):
        find_weights_file("gone.pth")
