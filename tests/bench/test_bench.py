from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dcn.bench.measure import Measurement
from dcn.bench.table import table
from dcn.bench.workload import Workload, make_model, plain_name, random_images, random_targets
from dcn.cli.main import main
from dcn.models import MODELS, build
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.nn import DeformConv2d
from dcn.structures import SegmentationMap

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("faster_rcnn_r50_fpn_mdconv_c3-c5_group4", "faster_rcnn_r50_fpn"),
        ("faster_rcnn_r50_fpn_dpool", "faster_rcnn_r50_fpn"),
        ("rfcn_r101_dcn", "rfcn_r101"),
        ("deeplabv3_r50_dconv_head", "deeplabv3_r50"),
        ("rfcn_r101", None),
    ],
)
def test_the_plain_form_of_a_name(name: str, plain: str | None) -> None:
    assert plain_name(name) == plain
    assert plain is None or plain in MODELS


@pytest.mark.parametrize("name", ["faster_rcnn_r18_fpn_dconv_c3-c5", "deeplab_r18_dcn"])
def test_random_weights_behave_like_trained_ones(name: str) -> None:
    """Offsets spread by about 2 pixels, and the threshold lets ten pairs through for every detection."""
    work = Workload((96, 128), 1, "float32", CPU)
    model = make_model(name, work)
    seen: list[float] = []
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            module.conv_offset.register_forward_hook(lambda _m, _i, output: seen.append(float(output.std())))
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    with torch.no_grad():
        actual = model([image])
    assert seen
    assert all(0.7 < deviation < 4 for deviation in seen)
    if isinstance(model, FasterRCNN):
        assert len(actual[0]) == 100
        assert not model.training


@pytest.mark.parametrize("name", ["mask_rcnn_r18_fpn", "deeplab_r18"])
def test_targets_fit_the_model(name: str) -> None:
    work = Workload((40, 60), 2, "float32", CPU)
    model = build(name, ["a", "b"], width=0.125, stem_channels=8)
    first, second = random_targets(model, work)
    if isinstance(first, SegmentationMap):
        assert first.labels.shape == (40, 60)
        assert first.labels.unique().tolist() == [0, 1]
    else:
        assert len(first) == 7
        assert bool((first.boxes[:, 2:] > first.boxes[:, :2]).all())
        assert first.masks is not None
        assert bool(first.masks.flatten(1).any(1).all())
    losses = model.train()(random_images(work), [first, second])
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())


def test_the_table_by_hand() -> None:
    rows = [
        Measurement("slow", 120.0, 110.0, 130.0, 8.33, 512.0, {"backbone": 90.0, "post-processing": 30.0}, 60.0),
        Measurement("quick", 100.0, 90.0, 110.0, 10.0, None, {"backbone": 75.0, "post-processing": 25.0}, 0.0),
    ]
    text = table(rows, Workload((600, 1000), 1, "float32", CPU))
    lines = {line[:18].strip(): line[18:].split() for line in text.splitlines()[1:-1]}
    assert text.splitlines()[0] == "inference, 600x1000, batch 1, float32, cpu"
    assert lines["images/s"] == ["8.33", "10.00"]
    assert lines["peak memory, MiB"] == ["512", "?"]
    assert lines["backbone"] == ["90.0", "ms", "75.0%", "75.0", "ms", "75.0%"]
    assert lines["deformable layers"] == ["60.0", "ms", "50.0%", "0.0", "ms", "0.0%"]
    assert text.splitlines()[-1] == "slow takes 1.200 times as long"


def test_a_network_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "times.json"
    words = ["bench", "model", "deeplab_r18_dcn", "--size", "32x48", "--repetitions", "2", "--device", "cpu"]
    assert main([*words, "--json", str(file)]) == 0
    assert "deeplab_r18_dcn takes" in capsys.readouterr().out
    report = json.loads(file.read_text())
    deformable, plain = report["models"]
    assert (deformable["name"], plain["name"]) == ("deeplab_r18_dcn", "deeplab_r18")
    assert deformable["images_per_second"] == pytest.approx(1000 / deformable["milliseconds"])
    assert set(deformable["parts"]) == {"input", "backbone", "heads", "post-processing"}
    assert 0 < deformable["deformable"] < deformable["parts"]["backbone"] * 5
    assert plain["deformable"] == 0
    assert report["workload"]["size"] == [32, 48]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rfcn_r102"], "did you mean 'rfcn_r101'"),
        (["rfcn_r101", "--size", "600"], "--size: expected HEIGHTxWIDTH"),
        (["rfcn_r101", "--batch", "0"], "--batch: expected 1 or more"),
        (["rfcn_r101", "--device", "cpu", "--cuda-graph"], "--cuda-graph: expected a GPU"),
        (["rfcn_r101", "--train", "--compile"], "--train: expected no option for inference beside it, got --compile"),
    ],
    ids=["name", "size", "batch", "graph", "train"],
)
def test_wrong_arguments_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model", *words]) == 2
    assert message in capsys.readouterr().err


def test_files_are_not_said_to_be_in_the_precision_of_the_call() -> None:
    """An int8 file is timed as it is; it has no parts, and so no row of deformable layers."""
    file = Measurement("small.onnx", 10.0, 9.0, 11.0, 100.0, None, {}, 0.0)
    model = Measurement("rfcn_r50", 20.0, 19.0, 21.0, 50.0, 3.0, {"backbone": 20.0}, 0.0)
    work = Workload((600, 1000), 1, "float32", CPU)
    alone, both = table([file, file], work), table([file, model], work)
    assert alone.startswith("inference, 600x1000, batch 1, in the precision of the files, cpu\n")
    assert both.startswith("inference, 600x1000, batch 1, float32 (a file in its own precision), cpu\n")
    assert "deformable layers" in both
    assert "deformable layers" not in alone
    assert "small.onnx takes 0.500 times as long" in both
