from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dcn
from dcn.analysis import count_parameters, dilation_statistics
from dcn.class_names import COCO_CLASSES
from dcn.engine import save_weights
from dcn.models import build
from dcn.runs.predictor import Predictor
from dcn.structures import Sample, SegmentationMap, Target
from dcn.tta import TTA
from dcn.vis import record_offsets

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "fpn_channels": 16, "fc_channels": 16}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(3)
    save_weights(path, build("faster_rcnn_r18_fpn", ("cat", "dog"), **SMALL), "faster_rcnn_r18_fpn", SMALL)
    return path


def test_a_weights_file_knows_its_model(weights: Path) -> None:
    predictor = dcn.load(weights, device="cpu", optimize=False)
    torch.manual_seed(3)
    expected = build("faster_rcnn_r18_fpn", ("cat", "dog"), **SMALL).state_dict()
    assert predictor.classes == ("cat", "dog")
    assert not predictor.model.training
    assert all(torch.equal(value, expected[name]) for name, value in predictor.model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("faster_rcnn_r18_fpm",), "did you mean 'faster_rcnn_r18_fpn'"),
        (("no-such-thing.pth",), "expected a weights file, a run folder or the name of a model"),
        (("runs/no/0",), r"got 'runs/no/0', which does not exist \(looked for from /"),
        (("letters_detektion",), "did you mean .letters_detection"),
        (("WEIGHTS", "WEIGHTS"), "has its own weights"),
        (("faster_rcnn_r18_fpn", "WEIGHTS"), "misshapen: backbone"),
    ],
    ids=["typo", "missing", "path", "near-the-package", "twice", "other-options"],
)
def test_what_cannot_be_loaded_is_named(weights: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcn.load(*(str(weights) if word == "WEIGHTS" else word for word in arguments))


def test_a_model_without_weights_warns() -> None:
    with pytest.warns(UserWarning, match="no weights given"):
        predictor = dcn.load("faster_rcnn_r18_fpn", device="cpu")
    assert predictor.classes == COCO_CLASSES


def test_test_time_options_reach_the_model() -> None:
    torch.manual_seed(0)
    model = build("faster_rcnn_r18_fpn", ["cat", "dog"], score_threshold=0.2, test_size=(64, 96), **SMALL).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    plain = Predictor(model, CPU).predict(image)
    # A class whose threshold no score reaches is gone, and one detection more than three.
    detections = Predictor(model, CPU, TTA(max_per_image=3, class_thresholds={"dog": 1.0})).predict(image)
    cats = plain.select((plain.labels == 0).nonzero()[:3, 0])
    assert len(cats) == 3
    torch.testing.assert_close(detections.scores, cats.scores)
    torch.testing.assert_close(detections.boxes, cats.boxes)


@pytest.mark.parametrize(
    ("name", "tta", "message"),
    [
        (
            "faster_rcnn_r18_fpn",
            TTA(class_thresholds={"cog": 0.5}),
            "expected classes of the model, got 'cog'; did you mean 'dog'",
        ),
        ("faster_rcnn_r18_fpn", TTA(window=(256, 256)), "tta: expected options of detectors, got 'window'"),
        (
            "deeplab_r18",
            TTA(suppression="soft_nms_linear"),
            "tta: expected options of segmentation models, got 'suppression'",
        ),
    ],
    ids=["class", "detector", "segmentation"],
)
def test_test_time_options_that_do_not_fit_are_refused(name: str, tta: TTA, message: str) -> None:
    model = build(name, ["cat", "dog"], width=0.125, stem_channels=8)
    with pytest.raises(ValueError, match=message):
        Predictor(model, CPU, tta)


def test_one_load_for_both_tasks(tmp_path: Path) -> None:
    options = {"width": 0.125, "stem_channels": 8, "head_channels": 16}
    save_weights(tmp_path / "s.safetensors", build("deeplab_r18", ["a", "b"], **options), "deeplab_r18", options)
    predictor = dcn.load(tmp_path / "s.safetensors", device="cpu")
    assert predictor.task.name == "segmentation"
    prediction = predictor.predict(torch.zeros(3, 40, 60, dtype=torch.uint8), resize=None)
    assert isinstance(prediction, SegmentationMap)
    assert prediction.labels.shape == (40, 60)
    with pytest.raises(ValueError, match="min_score: expected None for a segmentation model"):
        predictor.predict(torch.zeros(3, 40, 60, dtype=torch.uint8), min_score=0.5)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["cat", "cow"], r"has the classes \['cat', 'dog'\], got"), ("cat", "a list of names, got the text 'cat'")],
    ids=["other", "text"],
)
def test_classes_of_a_file_cannot_be_changed(weights: Path, classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dcn.load(weights, classes=classes)
    assert dcn.load(weights, classes=["cat", "dog"], device="cpu").classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["faster_rcnn_r18_fpn_dconv_c3-c5", "mask_rcnn_r18_fpn"])
def test_a_prepared_model_gives_the_same_detections(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    options: dict[str, Any] = {**SMALL, "score_threshold": 0.2, "test_size": (64, 96), "test_proposals": (50, 30)}
    save_weights(path, build(name, ("cat", "dog"), **options), name, options)
    image = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8)
    plain = dcn.load(path, device="cpu", optimize=False).predict(image)
    predictor = dcn.load(path, device="cpu")
    detections = predictor.predict(image)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in predictor.model.modules())
    assert len(plain) > 0
    torch.testing.assert_close(detections.boxes, plain.boxes, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(detections.scores, plain.scores, rtol=1e-4, atol=1e-5)
    half = dcn.load(path, device="cpu", precision="bfloat16").predict(image)
    assert half.scores.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa: the scores of two classes near 1/3 move by less than one in a hundred.
    torch.testing.assert_close(half.scores.max(), plain.scores.max(), rtol=0, atol=0.01)


def test_precision_needs_the_prepared_model(weights: Path) -> None:
    with pytest.raises(ValueError, match="optimize: expected True with precision, got False"):
        dcn.load(weights, device="cpu", optimize=False, precision="bfloat16")
    with pytest.raises(ValueError, match="precision: expected one of float32"):
        dcn.load(weights, device="cpu", precision="int8")  # type: ignore[arg-type]  # the point of the test


def test_functions_that_look_into_a_model_take_a_predictor(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    name = "faster_rcnn_r18_fpn_dconv_c3-c5"
    save_weights(path, build(name, ("cat", "dog"), **SMALL), name, SMALL)
    predictor = dcn.load(path, device="cpu")
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    expected = record_offsets(predictor.model, image)
    recorded = record_offsets(predictor, image)
    assert [layer.name for layer in recorded] == [layer.name for layer in expected]
    assert all(torch.equal(a.offset, b.offset) for a, b in zip(recorded, expected, strict=True))
    assert count_parameters(predictor) == count_parameters(predictor.model)
    sample = Sample(image, Target(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([0]), (64, 96)))
    rows, same = (dilation_statistics(of, [[sample]]) for of in (predictor, predictor.model))
    assert [row.layer for row in rows] == [row.layer for row in same]
    with pytest.raises(ValueError, match=r"expected a torch.nn.Module or a predictor of dcn.load, got str"):
        record_offsets("model", image)  # type: ignore[arg-type]  # the point of the test
