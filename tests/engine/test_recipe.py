from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dcn.engine.recipe import (
    dump_recipe,
    find_recipe,
    load_recipe,
    recipe_names,
    with_absolute_paths,
)

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


def _value(path: Path, override: str, key: str) -> Any:
    value: Any = load_recipe(path, [override])
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("schedule.lr=5e-2", 0.05),
        ("schedule.lr=1", 1.0),
        ("amp=off", "off"),
        ("amp=fp32", "off"),
        ("amp=bf16", "bf16"),
        ("transforms.short=320", (320,)),
        ("transforms.short=480,640", (480, 640)),
        ("transforms.short=480, 640", (480, 640)),
        ("transforms.short=[480, 640]", (480, 640)),
        ("transforms.crop=96,128", (96, 128)),
        ("transforms.crop=96x128", (96, 128)),
        ("transforms.crop=", None),
        ("transforms.quarter_turns=true", True),
        ("schedule.milestones=", ()),
        ("schedule.milestones=[]", ()),
        ("schedule.milestones=1,2.5", (1.0, 2.5)),
        ("data.classes=cat,dog", ("cat", "dog")),
        ("data.classes=[cat, dog]", ("cat", "dog")),
        ("data.classes=A,4,no", ("A", "4", "no")),
        ("data.classes=cat", ("cat",)),
        ("data.classes='traffic light', \"a, b\"", ("traffic light", "a, b")),
        ("data.classes=null", None),
        ("data.root=null", None),
        ("data.root=", None),
        ("data.root=2007", "2007"),
        ("data.train=train2014+val2014", "train2014+val2014"),
        ("tta.scales=0.5,1", (0.5, 1.0)),
        ("tta.scales=1", (1.0,)),
        ("tta.scales=", ()),
        ("tta.scales=480x800,800x1333", ((480, 800), (800, 1333))),
        ("tta.scales=480x800", ((480, 800),)),
        ("tta.scales=[480, 800],[800, 1333]", ((480, 800), (800, 1333))),
        ("tta.scales=[[480, 800], [800, 1333]]", ((480, 800), (800, 1333))),
        ("tta.window=512x1024", (512, 1024)),
        ("tta.class_thresholds={cat: 0.5}", {"cat": 0.5}),
        ("tta.class_thresholds.cat=0.5", {"cat": 0.5}),
        ("model.options.width=0.5", 0.5),
        ("model.options.train_proposals=500,300", [500, 300]),
        ("model.options.style=caffe", "caffe"),
        ("schedule.lr_multipliers={'back*.x': 0.1}", {"back*.x": 0.1}),
        ("schedule.warmup={steps: 5}", 5),
    ],
)
def test_values_of_the_command_line(minimal: Path, override: str, expected: object) -> None:
    key = override.partition("=")[0]
    key = {"tta.class_thresholds.cat": "tta.class_thresholds", "schedule.warmup": "schedule.warmup.steps"}.get(key, key)
    value = _value(minimal, override, key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("written", ["320", "[320]"])
def test_a_file_may_write_a_list_of_one_as_a_value(minimal: Path, written: str) -> None:
    minimal.write_text(f"{MINIMAL}transforms: {{short: {written}}}\n")
    assert load_recipe(minimal).transforms.short == (320,)


def test_a_base_is_merged_section_by_section(minimal: Path) -> None:
    child = minimal.with_name("child.yaml")
    child.write_text("base: minimal.yaml\nschedule: {lr: 2}\n")
    schedule = load_recipe(child).schedule
    assert (schedule.lr, schedule.epochs, schedule.milestones) == (2.0, 3.0, (1.5,))


@pytest.mark.parametrize("base", ["minimal", "minimal.yaml", "./minimal.yaml", "sub/deeper"])
def test_a_base_is_found_beside_its_recipe(minimal: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (minimal.parent / "sub").mkdir()
    (minimal.parent / "sub" / "deeper.yaml").write_text("base: ../minimal\n")
    child = minimal.with_name("child.yaml")
    child.write_text(f"base: {base}\n")
    monkeypatch.chdir("/")
    assert load_recipe(child).schedule.epochs == 3.0


def test_the_home_folder_is_expanded(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(minimal.parent))
    (minimal.parent / "w.safetensors").touch()
    assert find_recipe("~/minimal.yaml") == minimal
    recipe = load_recipe("~/minimal.yaml", ["data.root=~/voc", "model.weights=~/w.safetensors"])
    resolved = with_absolute_paths(recipe)
    assert resolved.data.root == str(minimal.parent / "voc")
    assert resolved.model.weights == str(minimal.parent / "w.safetensors")


def test_relative_paths_are_resolved_and_shipped_names_are_kept(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(minimal.parent)
    recipe = load_recipe(minimal, ["data.root=voc", "model.backbone_weights=synthetic_r18.safetensors"])
    resolved = with_absolute_paths(recipe)
    assert resolved.data.root == str(minimal.parent / "voc")
    assert resolved.model == recipe.model


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.learning_rte=1", r"schedule\.learning_rte: unknown key"),
        ("schedule.batch_sise=1", r"schedule\.batch_sise: unknown key; did you mean 'batch_size' or"),
        ("scedule.lr=1", r"scedule: unknown key; did you mean 'schedule' or 'seed'\?"),
        ("data.colors=a", r"data\.colors: unknown key; .*; an option of the data is written as data\.options\.colors$"),
        (
            "model.depth=18",
            r"model\.depth: unknown key; .*; an option of the model is .* model\.options\.depth$",
        ),
        ("lr=0.01", r": lr: unknown key; did you mean 'schedule\.lr'\?$"),
        ("flip=true", r"flip: unknown key; did you mean 'transforms\.flip' or 'tta\.flip'\?"),
        ("batch_sise=1", r"batch_sise: unknown key; did you mean .*'schedule\.batch_size'"),
        ("eval.milestones=1", r"eval\.milestones: unknown key; did you mean 'schedule\.milestones'"),
        ("eval.testing.flip=true", r"eval\.testing: unknown key; its values are now in tta"),
        ("schedule.lr=fast", r"schedule\.lr: expected float, got 'fast'"),
        ("schedule.lr=", r"schedule\.lr: expected float, got None"),
        ("schedule.batch_size=2.5", r"schedule\.batch_size: expected int, got 2\.5"),
        ("tta.flip=maybe", r"tta\.flip: expected true or false, got 'maybe'"),
        ("seed=true", r"seed: expected int, got True"),
        ("amp=bf61", r"amp: expected one of off, .*, got 'bf61'"),
        ("schedule.warmup.kind=liner", r"schedule\.warmup\.kind: expected one of .*linear.*, got 'liner'"),
        ("data.broken=ignore", r"data\.broken: expected one of refuse, .*, got 'ignore'"),
        ("data.outside=cut", r"data\.outside: expected one of refuse, clip, got 'cut'"),
        ("transforms.short=big", r"transforms\.short\[0\]: expected int, got 'big'"),
        ("transforms.short=[big]", r"transforms\.short\[0\]: expected int"),
        ("transforms.crop=96", r"transforms\.crop: expected 2 entries, got 1"),
        ("tta.scales=480,800", r"tta\.scales: expected positive factors up to 16, or pairs such as 480x800, got 480"),
        ("schedule.steps=3", r"schedule\.steps: give either steps or epochs .*\(schedule\.epochs=null\)"),
        ("schedule.accumulate=3", r"schedule\.batch_size: expected a positive multiple of accumulate \(3\)"),
        ("schedule.milestones=[2, 1]", r"schedule\.milestones: expected rising numbers"),
        ("model.name.x=1", r"expected 'name' to be a section, got the value"),
        ("model=null", r"model: expected a mapping"),
        ("schedule.lr", r"expected key=value"),
        ("schedule.lr=[1", r"schedule\.lr: not valid YAML"),
    ],
)
def test_a_mistake_is_named(minimal: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(minimal, [override])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e400"])
@pytest.mark.parametrize(
    "key",
    [
        *("schedule.lr", "schedule.momentum", "schedule.weight_decay", "schedule.gamma", "schedule.clip_norm"),
        *("schedule.epochs", "schedule.milestones", "schedule.warmup.factor", "eval.every", "checkpoint_every"),
        *("transforms.flip", "transforms.rotation", "transforms.color.hue", "tta.sigma", "tta.iou"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused_by_its_key(minimal: Path, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf": {key.replace('.', '[.]')}: expected"):
        load_recipe(minimal, [f"{key}={value}"])


@pytest.mark.parametrize("value", ["0", "-3", "99999999999999999999", "1e3"])
@pytest.mark.parametrize("key", ["schedule.batch_size", "schedule.lr_batch_size", "log_every", "eval.images"])
def test_a_count_that_cannot_be_meant_is_refused_by_its_key(minimal: Path, key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf": {key.replace('.', '[.]')}: expected"):
        load_recipe(minimal, [f"{key}={value}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "expected each key once, got 'seed' twice"),
        ("data: {format: voc}\nschedule: {steps: 1}\n", "model: expected a value, got none"),
        ("- 1\n", "expected a mapping of sections"),
        ("", "expected a mapping of sections"),
        ("base: wrong.yaml\n", "expected bases that do not lead back to it, got wrong"),
        ("base: wrong\n", "expected bases that do not lead back to it, got wrong"),
    ],
    ids=["twice", "missing", "list", "empty", "circle", "circle-by-name"],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_an_unknown_recipe_gets_near_names_and_where_all_are_listed() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'bccd_plain'.*`dcn train --list` lists all names") as caught:
        load_recipe("bccd_plane")
    assert len(str(caught.value)) < 200


def test_no_truncation_of_a_written_recipe_is_read(minimal: Path, tmp_path: Path) -> None:
    text = dump_recipe(load_recipe(minimal))
    path = tmp_path / "recipe.yaml"
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(ValueError, match="recipe"):
            load_recipe(path)


def test_a_written_recipe_that_was_changed_says_how_to_keep_the_change(minimal: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(load_recipe(minimal)).replace("seed: 0", "seed: 1"))
    with pytest.raises(ValueError, match="remove its first line"):
        load_recipe(path)
    path.write_text(path.read_text().partition("\n")[2])
    assert load_recipe(path).seed == 1


def test_other_line_ends_are_no_change(minimal: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(dump_recipe(load_recipe(minimal)).replace("\n", "\r\n").encode())
    assert load_recipe(path) == load_recipe(minimal)


@pytest.mark.parametrize("value", ["skip", '"skip"', "'skip'"], ids=["plain", "double-quotes", "single-quotes"])
def test_a_choice_may_be_quoted(minimal: Path, value: str) -> None:
    assert load_recipe(minimal, [f"eval.absent={value}"]).eval.absent == "skip"


def test_a_run_folder_in_place_of_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a file, got the folder '.*'$"):
        find_recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    with pytest.raises(ValueError, match=r"got the folder '.*'; continue the run with --resume, or begin anew from"):
        find_recipe(tmp_path)
