"""Test-time options and result files, end to end: every key reaches the model from every entry point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dcn.cli.main import main
from dcn.data import open_dataset
from dcn.engine import save_weights
from dcn.engine.parse import override, parse
from dcn.models import build
from dcn.runs.load import read_model
from dcn.runs.predictor import Predictor
from dcn.structures import Detections
from dcn.tta import TTA

OPTIONS: dict[str, Any] = {
    "width": 0.125,
    "stem_channels": 8,
    "norm": "train",
    "fpn_channels": 16,
    "fc_channels": 16,
    "train_proposals": (50, 20),
    "test_proposals": (50, 20),
    "test_size": (96, 128),
    "score_threshold": 0.05,
}
CLASSES = tuple(open_dataset("synthetic", None, "test", length=1).classes)
CONFIGS = {
    "scales-and-flip": ["scales=[[64, 96], [96, 128]]", "flip=true"],
    "soft-nms": ["suppression=soft_nms_gaussian", "sigma=0.6", "max_per_image=7"],
    "linear-soft-nms": ["suppression=soft_nms_linear", "iou=0.4"],
    "voting": ["scales=[[96, 128], [120, 160]]", "box_voting=0.5", "class_thresholds={A: 0.2}"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures in each layout, in ``voc`` and ``coco``."""
    folder = tmp_path_factory.mktemp("testing")
    for layout in ("voc", "coco"):
        command = ["data", "write", str(folder / layout), "--format", layout, "--split", "test", "--length", "2"]
        assert main(command) == 0
    return folder


@pytest.fixture(scope="module")
def weights(data: Path) -> Path:
    torch.manual_seed(0)
    model = build("faster_rcnn_r18_fpn", CLASSES, **OPTIONS)
    with torch.no_grad():  # certain of what it sees, so that there is something to merge
        model.get_parameter("roi_head.bbox_head.fc_cls.weight").mul_(30)
    path = data / "model.safetensors"
    save_weights(path, model, "faster_rcnn_r18_fpn", OPTIONS)
    return path


def _detections(weights: Path, data: Path, words: list[str]) -> list[Detections]:
    """The same through Python."""
    options: dict[str, Any] = {}
    for word in words:
        override(options, word)
    predictor = Predictor(read_model(weights), torch.device("cpu"), parse(TTA, options))
    dataset = open_dataset("voc", data / "voc", "test", classes=list(CLASSES))
    return [predictor.predict([dataset[index].image])[0] for index in range(2)]


def _recipe(data: Path, layout: str) -> Path:
    path = data / f"{layout}.yaml"
    content = {
        "model": {"name": "faster_rcnn_r18_fpn"},
        "data": {"format": layout, "root": str(data / layout), "classes": list(CLASSES)},
        "transforms": {"short": [96], "long": 128},
        "schedule": {"steps": 1},
        "eval": {"metric": layout},
        "workers": 0,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_eval_applies_them_and_its_files_say_the_same(
    layout: str, config: str, weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"tta.{word}" for word in CONFIGS[config]]
    command = ["eval", str(weights), "--recipe", str(_recipe(data, layout)), "--output", str(tmp_path), "--save"]
    assert main([*command, "--json", "--device", "cpu", *words]) == 0
    metrics = json.loads(capsys.readouterr().out)
    rows = json.loads((tmp_path / "test_detections.json").read_text())
    detections = _detections(weights, data, CONFIGS[config])
    assert len(rows) == sum(map(len, detections)) > 0
    scores = torch.cat([one.scores for one in detections])
    assert [row["score"] for row in rows] == pytest.approx(scores.tolist(), abs=1e-5)
    if config == "soft-nms":
        assert [len(one) for one in detections] == [7, 7]
    annotations = data / "voc"
    results = tmp_path / "test_voc"
    if layout == "coco":
        annotations, results = next((data / "coco").rglob("*.json")), tmp_path / "test_detections.json"
    classes = [] if layout == "coco" else ["--classes", ",".join(CLASSES)]
    assert main(["eval", "--results", str(results), "--annotations", str(annotations), "--json", *classes]) == 0
    again = json.loads(capsys.readouterr().out)
    # Files for Pascal VOC round to a tenth of a pixel and a thousandth of a score.
    assert again["AP50"] == pytest.approx(metrics["AP50"], abs=1e-6 if layout == "coco" else 0.02)


def test_masks_are_evaluated_whatever_model_the_recipe_names(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**OPTIONS, "test_size": (64, 96)}
    torch.manual_seed(0)
    save_weights(
        tmp_path / "m.safetensors", build("mask_rcnn_r18_fpn", CLASSES, **options), "mask_rcnn_r18_fpn", options
    )
    command = ["eval", str(tmp_path / "m.safetensors"), "--recipe", str(_recipe(data, "coco")), "--json"]
    assert main([*command, "--device", "cpu", "--output", str(tmp_path)]) == 0
    assert "mask/AP50" in json.loads(capsys.readouterr().out)


def test_files_for_a_test_server_need_no_annotations(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "coco"
    annotated = next((data / "coco").rglob("*.json"))
    content = json.loads(annotated.read_text())
    del content["annotations"]
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    pictures = next((data / "coco").rglob("*.jpg")).parent
    (root / "test2017").symlink_to(pictures)
    command = ["eval", str(weights), "--recipe", str(_recipe(data, "coco")), f"data.root={root}", "--device", "cpu"]
    command += ["--split", "test-dev2017", "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "coco:test-dev2017: expected annotations to evaluate on, got none" in capsys.readouterr().err
    assert main([*command, "--save"]) == 0
    assert "no annotations to evaluate on" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "test-dev2017_detections.json").read_text())
    assert {row["image_id"] for row in rows} == {image["id"] for image in content["images"]}
    assert {row["category_id"] for row in rows} <= {category["id"] for category in content["categories"]}
    assert [path.name for path in (tmp_path / "out").glob("*.json")] == ["test-dev2017_detections.json"]


@pytest.mark.parametrize("config", CONFIGS)
def test_predict_applies_them(config: str, weights: Path, data: Path, tmp_path: Path) -> None:
    images = sorted(str(path) for path in (data / "voc").rglob("*.jpg"))
    command = ["predict", str(weights), *images, "--output", str(tmp_path), "--score", "0.05", "--no-pictures"]
    assert main([*command, "--device", "cpu", *(f"tta.{word}" for word in CONFIGS[config])]) == 0
    rows = json.loads((tmp_path / "detections.json").read_text())["annotations"]
    detections = _detections(weights, data, CONFIGS[config])
    kept = torch.cat([one.scores[one.scores >= 0.05] for one in detections])
    assert [row["score"] for row in rows] == pytest.approx(kept.tolist(), abs=1e-5)


def test_every_option_is_tried_here() -> None:
    tried = {word.partition("=")[0] for words in CONFIGS.values() for word in words}
    assert tried == set(TTA.__dataclass_fields__) - {"window", "overlap"}


def test_an_unknown_class_is_named(weights: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(next((data / "voc").rglob("*.jpg")))
    assert main(["predict", str(weights), image, "tta.class_thresholds={zebra: 0.5}"]) == 2
    assert "expected classes of the model, got 'zebra'" in capsys.readouterr().err
