"""Plug-ins by entry point and by name, in one process; tests/slow/test_plugins.py has fresh ones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dcn
from dcn import plugins
from dcn.cli.main import main, take_plugins
from dcn.data import open_dataset
from dcn.data.catalog import FORMATS
from dcn.engine import load_recipe, recipe_names
from dcn.engine.checkpoint import read_weights
from dcn.models import MODELS, build, build_default, options_of
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS
from tests.plugin_package import QUICK, sources, write_boxes, write_package


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No plug-in outlives its test."""
    monkeypatch.setattr(plugins, "_named", {})
    monkeypatch.setattr(os, "fsync", lambda _: None)
    yield
    for name in ("tinynet", "own", "other", "wreck", "plain_code"):
        sys.modules.pop(name, None)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_package(tmp_path / "site", install=True)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_package(tmp_path / "code", install=False)
    monkeypatch.syspath_prepend(folder)
    return folder


def _module(folder: Path, text: str, name: str = "own") -> str:
    (folder / f"{name}.py").write_text(text)
    return name


def _announce(folder: Path, package: str, *lines: str) -> None:
    info = folder / f"{package}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def test_the_page_keeps_its_promise_of_a_small_package() -> None:
    assert len(sources()["tinynet/__init__.py"].splitlines()) <= 60


def test_an_installed_package_is_known_by_name_and_imported_when_asked(installed: Path) -> None:
    assert "faster_rcnn_tinynet" in MODELS
    assert "faster_rcnn_tinynet" in list(MODELS)
    assert "boxes" in FORMATS
    assert "tinynet" in recipe_names()
    assert "tinynet" not in sys.modules
    assert options_of("faster_rcnn_tinynet")["width"] == 16
    assert MODELS.plugin_of("faster_rcnn_tinynet") == "tinynet"
    assert MODELS.plugin_of("faster_rcnn_r50_fpn") is None
    assert build("faster_rcnn_tinynet", ["a"], width=4).classes == ("a",)
    assert load_recipe("tinynet").plugins == ("tinynet",)


def test_a_module_is_known_once_it_is_named(importable: Path) -> None:
    assert "faster_rcnn_tinynet" not in MODELS
    with pytest.raises(ValueError, match=r"recipe: expected a shipped recipe .*, got 'tinynet'"):
        load_recipe("tinynet")
    assert load_recipe("tinynet", ["plugins=tinynet"]).model.name == "faster_rcnn_tinynet"
    assert "faster_rcnn_tinynet" in MODELS


def test_a_recipe_names_plugins_and_builds_on_theirs(importable: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: tinynet\nplugins: [tinynet]\nseed: 3\n")
    (tmp_path / "further.yaml").write_text("base: mine\nplugins: [own]\n")
    _module(importable, "MODELS = {}\nRECIPES = {'x': __file__}\n")
    recipe = load_recipe(tmp_path / "further.yaml")
    assert (recipe.plugins, recipe.seed, recipe.data.format) == (("tinynet", "own"), 3, "boxes")


def _train(folder: Path, tmp_path: Path, *words: str) -> Path:
    command = ["train", *words, f"data.root={folder}", *QUICK, "--output", str(tmp_path / "runs"), "--name", "a"]
    assert main([*command, "--device", "cpu"]) == 0
    return tmp_path / "runs" / "tinynet" / "a"


def test_every_verb_knows_an_installed_package(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_boxes(tmp_path / "data")
    run = _train(data, tmp_path, "tinynet")
    photo = str(data / "0.png")
    assert read_weights(run / "weights" / "last.safetensors")[1].plugins == ("tinynet",)
    assert dcn.Run(run).recipe.plugins == ("tinynet",)
    capsys.readouterr()
    assert main(["eval", str(run), "--split", "val", "--json", "--device", "cpu"]) == 0
    assert "AP50" in json.loads(capsys.readouterr().out)
    assert main(["predict", str(run), photo, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    bench = ["bench", "model", "faster_rcnn_tinynet", "--size", "64x64", "--repetitions", "1", "--device", "cpu"]
    assert main(bench) == 0
    capsys.readouterr()
    assert main(["models", "--filter", "tinynet"]) == 0
    assert "plug-in tinynet" in capsys.readouterr().out
    assert main(["models", "faster_rcnn_tinynet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plugin"] == "tinynet"
    assert main(["train", "--list"]) == 0
    assert "tinynet\n" in capsys.readouterr().out


def test_data_verbs_recognise_the_format(installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_boxes(tmp_path / "data")
    assert main(["data", "check", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "taken for boxes (lines of image, box and name)" in printed
    assert "6 images, 12 objects (cat 6, dog 6): no problems" in printed
    dataset = open_dataset("auto", data, "val")
    assert dataset[0].target.boxes.tolist() == [[10, 8, 44, 44], [30, 20, 60, 60]]  # type: ignore[union-attr]
    assert main(["data", "show", str(data), "--output", str(tmp_path / "sheet.png")]) == 0
    assert main(["data", "stats", str(data), "--json"]) == 0
    assert main(["data", "convert", str(data), "--to", "coco", "--output", str(tmp_path / "coco")]) == 0
    converted = open_dataset("coco", tmp_path / "coco", "val")
    assert converted[0].target.boxes.tolist() == [[10, 8, 44, 44], [30, 20, 60, 60]]  # type: ignore[union-attr]


def test_a_split_that_the_data_lack_is_refused_before_the_reader_runs(installed: Path, tmp_path: Path) -> None:
    data = write_boxes(tmp_path / "data")
    with pytest.raises(ValueError, match=r"split: expected one of train, val in .*, got 'test'"):
        open_dataset("boxes", data, "test")


def test_a_problem_of_the_plugins_reader_is_reported_with_its_file(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_boxes(tmp_path / "data")
    (data / "val.boxes").write_text("4.png 10 8 cat\n")
    assert main(["data", "check", str(data), "--format", "boxes"]) == 1
    assert str(data) in capsys.readouterr().out


OWN_DATASET = """
from pathlib import Path
import torch
from dcn.data import Format, read_image
from dcn.structures import Sample, Target

class Squares:
    def __init__(self, root, split):
        self.name, self.classes, self.root = f"squares:{split}", ("square",), Path(root)
        self.images = sorted(self.root.glob("*.png"))
        self.sizes = [(64, 80) for _ in self.images]
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        if self.images[index].stem == "2":
            raise ValueError("the second is missing")
        box = torch.tensor([[10.0, 10, 30, 30]])
        return Sample(read_image(self.images[index]), Target(box, torch.tensor([0]), self.sizes[index]))
    def image_path(self, index):
        return self.images[index]

DATASETS = {"squares": Format(Squares, lambda root: ["train"] if (root / "squares").exists() else [], None)}
"""


def test_a_dataset_of_its_own_needs_no_check(
    importable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_boxes(tmp_path / "data")
    (data / "squares").touch()
    name = _module(importable, OWN_DATASET)
    assert main(["data", "check", str(data), "--plugin", name]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{data / '2.png'}: the second is missing"
    assert printed[-1] == f"{data}: squares, 6 images, 5 objects (square 5): 1 problem"
    assert (
        main(["data", "show", str(data), "--format", "squares", "--count", "1", "--output", str(tmp_path / "s.png")])
        == 0
    )


def test_a_weights_file_imports_nothing(
    importable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_boxes(tmp_path / "data")
    run = _train(data, tmp_path, "tinynet", "--plugin", "tinynet")
    weights = tmp_path / "alone.safetensors"
    weights.write_bytes((run / "weights" / "last.safetensors").read_bytes())
    command = ["predict", str(weights), str(data / "0.png"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    plugins._named.clear()
    del sys.modules["tinynet"]
    assert main(command) == 2
    assert "tinynet" not in sys.modules
    message = capsys.readouterr().err
    assert "'faster_rcnn_tinynet' is not known here; it comes from the plug-in tinynet" in message
    assert "--plugin tinynet" in message
    assert main([*command, "--plugin", "tinynet"]) == 0
    plugins._named.clear()
    assert main(["predict", str(run), *command[2:]]) == 0  # the run's recipe names it
    plugins._named.clear()
    del sys.modules["tinynet"]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(importable)])
    assert main(["predict", str(run), *command[2:]]) == 2
    assert "recipe.yaml: plugins: no module 'tinynet'; install the plug-in" in capsys.readouterr().err


def test_python_names_a_plugin(importable: Path) -> None:
    dcn.use_plugins("tinynet")
    model = build("faster_rcnn_tinynet", ["a", "b"], width=4, fpn_channels=8, fc_channels=8).eval()
    assert len(model([torch.zeros(3, 64, 64, dtype=torch.uint8)])) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing_one", None, "no module 'missing_one'; install the plug-in"),
        ("a/b.py", None, "expected the name of a module such as my_package.parts, got 'a/b.py'"),
        ("own", "import not_there_at_all", r"the module own cannot be imported \(ModuleNotFoundError: No module"),
        ("own", "1 / 0", r"the module own cannot be imported \(ZeroDivisionError"),
        ("own", "X = 1", "expected a module with a table MODELS, DATASETS, RECIPES, WEIGHTS, got own"),
        ("own", "MODELS = [1]", "own.MODELS: expected a dictionary of rows by name, got list"),
        ("own", "from dcn.models import MODELS", "expected a module with a table"),
    ],
)
def test_a_module_that_is_no_plugin_is_refused(importable: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        _module(importable, text)
    with pytest.raises(ValueError, match=f"plugins: {message}"):
        plugins.use_plugins(name)
    assert name not in plugins._named


def test_rows_of_the_wrong_kind_are_refused(importable: Path) -> None:
    plugins.use_plugins(_module(importable, "MODELS = {'m': 1}\nDATASETS = {'d': 2}\nRECIPES = {'r': '/no/file.yaml'}"))
    with pytest.raises(ValueError, match=r"plugins: 'm' in own: expected a function of num_classes .* got int"):
        build("m", ["a"])
    with pytest.raises(ValueError, match=r"plugins: 'd' in own: expected dcn.data.Format, got int"):
        open_dataset("d", "x", "train")
    with pytest.raises(ValueError, match=r"plugins: 'r' in own: expected the path of a YAML file, got '/no/file.yaml'"):
        load_recipe("r")


def test_one_name_of_two_rows_is_refused(importable: Path) -> None:
    text = "MODELS = {'faster_rcnn_r50_fpn': lambda num_classes: None, 'twice': lambda num_classes: None}\n"
    plugins.use_plugins(_module(importable, text), _module(importable, text, "other"))
    with pytest.raises(ValueError, match="'twice' is in the module own and in the module other; rename one"):
        build("twice", ["a"])
    with pytest.raises(ValueError, match="'faster_rcnn_r50_fpn' is in this package and in the module own"):
        build("faster_rcnn_r50_fpn", ["a"])


def test_a_broken_package_harms_its_own_names_alone(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _announce(installed, "wreck", "[dcn.models]", "wreck_model = wreck:MODELS", "[dcn.datasets]", "wreck = wreck:X")
    _module(installed, "raise RuntimeError('half a wreck')", "wreck")
    assert build("faster_rcnn_tinynet", ["a"], width=4).classes == ("a",)
    with pytest.raises(
        ValueError, match=r"'wreck_model' of wreck:MODELS \(wreck 2.0\) cannot be imported \(RuntimeErr"
    ):
        build("wreck_model", ["a"])
    with pytest.warns(UserWarning, match="wreck_model: left out"):
        assert main(["models", "--filter", "e"]) == 0


def test_named_and_installed_at_once_is_one_row(installed: Path) -> None:
    plugins.use_plugins("tinynet")
    assert options_of("faster_rcnn_tinynet")["width"] == 16


def test_a_row_may_be_announced_without_a_table(installed: Path) -> None:
    _announce(installed, "plain", "[dcn.models]", "plain_model = plain_code:make")
    make = "from dcn.models.detection import rcnn_fpn\ndef make(num_classes):\n    return rcnn_fpn(num_classes)\n"
    _module(installed, make, "plain_code")
    with torch.device("meta"):
        assert len(build_default("plain_model").classes) == 80
    plugins.use_plugins("plain_code")  # as a recipe records it


def test_weights_of_a_plugin_are_listed_and_taken(
    importable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hashlib import sha256

    from dcn.engine import save_weights

    plugins.use_plugins("tinynet")
    monkeypatch.setenv("DCN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.safetensors"
    save_weights(file, build("faster_rcnn_tinynet", ["cat", "dog"]), "faster_rcnn_tinynet", {})
    row = f"'detector', 'https://example.org/tiny.safetensors', '{sha256(file.read_bytes()).hexdigest()}', 'ours'"
    text = f"from dcn.models.zoo.weights import PublishedWeights as P\nWEIGHTS = {{'faster_rcnn_tinynet': P({row})}}\n"
    plugins.use_plugins(_module(importable, text))
    assert "faster_rcnn_tinynet" in PUBLISHED_WEIGHTS
    assert main(["weights"]) == 0
    assert "faster_rcnn_tinynet" in capsys.readouterr().out
    assert main(["weights", "get", "faster_rcnn_tinynet", "--from", str(file)]) == 0
    assert dcn.load("faster_rcnn_tinynet", "published", device="cpu").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("words", "left", "modules"),
    [
        (["train", "x", "--plugin", "a"], ["train", "x"], ["a"]),
        (["--plugin=a", "models", "--plugin", "b.c"], ["models"], ["a", "b.c"]),
        (["models", "--plugin"], ["models", "--plugin"], []),
    ],
)
def test_the_option_may_stand_anywhere(words: list[str], left: list[str], modules: list[str]) -> None:
    assert take_plugins(words) == (left, modules)


def test_help_shows_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["train", "--help"], ["data", "check", "--help"], ["bench", "model", "--help"]):
        with pytest.raises(SystemExit):
            main(command)
        assert "--plugin MODULE" in capsys.readouterr().out
