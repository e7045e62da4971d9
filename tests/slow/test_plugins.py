"""The package of docs/plugins.md in fresh processes: installed or named, every verb, torchrun with two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcn.engine.checkpoint import read_weights
from tests.plugin_package import QUICK, write_boxes, write_package

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module", params=["installed", "named"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with the package on its path and data in it, and what names the plug-in on the command line."""
    folder = tmp_path_factory.mktemp(request.param)
    write_boxes(folder / "data")
    if request.param == "named":
        write_package(folder / "site", install=False)
        return folder, ["--plugin", "tinynet"]
    pytest.importorskip("setuptools")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    source = write_package(folder / "source", install=False)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return folder, []


def _run(folder: Path, *command: str) -> str:
    settings = {"PYTHONPATH": os.pathsep.join((str(SOURCE), str(folder / "site"))), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _dcn(folder: Path, *words: str) -> str:
    return _run(folder, sys.executable, "-m", "dcn", *words)


def test_every_verb_in_a_process_of_its_own(environment: tuple[Path, list[str]]) -> None:
    folder, name = environment
    _dcn(folder, "train", "tinynet", "data.root=data", *QUICK, "--name", "a", "--device", "cpu", *name)
    run = "runs/tinynet/a"
    assert "AP50" in json.loads(_dcn(folder, "eval", run, "--split", "val", "--json", "--device", "cpu"))
    assert "1 image" in _dcn(folder, "predict", run, "data/0.png", "--device", "cpu")
    _dcn(folder, "export", run, "-o", "tiny.onnx", "--images", "data/0.png", "data/1.png")
    _dcn(folder, "predict", "tiny.onnx", "data/0.png", "--output", "of_onnx", "--device", "cpu")
    _dcn(folder, "report", run, "--device", "cpu")
    _dcn(folder, "compare", run, run, "--split", "val", "--resamples", "10", "--device", "cpu")
    bench = ("bench", "model", "faster_rcnn_tinynet", "--size", "64x64", "--repetitions", "1", "--device", "cpu")
    assert "images/s" in _dcn(folder, *bench, *name)
    assert "plug-in tinynet" in _dcn(folder, "models", "faster_rcnn_tinynet", *name)
    assert "taken for boxes" in _dcn(folder, "data", "check", "data", *name)
    for verb in (("show",), ("stats",), ("anchors",), ("convert", "--to", "voc", "--output", "as_voc")):
        _dcn(folder, "data", verb[0], "data", *verb[1:], *name)
    _dcn(folder, "train", "--resume", run, "schedule.steps=3", "--device", "cpu")
    fine = ["data.root=data", "model.backbone_weights=random", *QUICK, "--name", "b", "--device", "cpu"]
    _dcn(folder, "train", "faster_rcnn_tinynet", *fine, *name)


def test_two_processes(environment: tuple[Path, list[str]]) -> None:
    folder, name = environment
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dcn")
    words = ("train", "tinynet", "data.root=data", *QUICK, "--name", "two", "--device", "cpu", *name)
    _run(folder, sys.executable, *launch, *words)
    info = read_weights(folder / "runs" / "tinynet" / "two" / "weights" / "last.safetensors")[1]
    assert (info.model, info.step, info.plugins) == ("faster_rcnn_tinynet", 2, ("tinynet",))
