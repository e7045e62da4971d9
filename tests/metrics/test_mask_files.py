from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dcn.metrics import MeanIoU, evaluate_files, evaluate_mask_files
from tests.data.made_masks import write_mask, write_picture

NAMES = ("a", "sub/b", "c")


def _arrays(seed: int, classes: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, classes, (6, 9)).astype(np.uint8) for name in NAMES}


def _write(folder: Path, masks: dict[str, np.ndarray], below: bool = True) -> Path:
    for name, values in masks.items():
        write_mask(folder / f"{name if below else Path(name).name}.png", values)
    return folder


def _expected(results: dict[str, np.ndarray], truth: dict[str, np.ndarray], classes: int) -> MeanIoU:
    metric = MeanIoU(classes)
    for name in NAMES:
        metric.update([torch.from_numpy(results[name])], [torch.from_numpy(truth[name])])
    return metric


@pytest.mark.parametrize("below", [True, False], ids=["same-folders", "one-folder"])
def test_two_folders_score_like_the_metric(tmp_path: Path, below: bool) -> None:
    results, truth = _arrays(1), _arrays(2)
    truth["a"][:2] = 255
    files = _write(tmp_path / "r", results, below), _write(tmp_path / "t", truth)
    expected = _expected(results, truth, 3).compute()
    assert evaluate_files(*files) == expected
    assert evaluate_files(*files, format="segmentation", classes=["x", "y", "z"])["IoU/y"] == expected["IoU/1"]


def test_values_and_ignored_values_of_the_annotations(tmp_path: Path) -> None:
    results, truth = _arrays(1), _arrays(2)
    stored = {name: np.array([10, 20, 11], np.uint8)[values] for name, values in truth.items()}
    ignored = {name: np.where(values == 2, 255, values) for name, values in truth.items()}
    score = evaluate_mask_files(
        _write(tmp_path / "r", results),
        _write(tmp_path / "t", stored),
        classes=["x", "y", "z"],
        values=[10, 20, 30],
        ignore=[11],
    )
    assert list(score.values()) == list(_expected(results, ignored, 3).compute().values())


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    results, truth = _arrays(1, 2), _arrays(2, 2)
    stored = {name: values * 255 for name, values in truth.items()}
    files = _write(tmp_path / "r", results), _write(tmp_path / "t", stored)
    score = evaluate_mask_files(*files, classes=["ground", "crack"], values=[0, 255])
    assert score["IoU/crack"] == _expected(results, truth, 2).compute()["IoU/1"]


@pytest.mark.parametrize("both", [False, True], ids=["numbers", "black and white"])
def test_black_and_white_needs_no_values(both: bool, tmp_path: Path) -> None:
    results, truth = _arrays(1, 2), _arrays(2, 2)
    stored = {name: values * 255 for name, values in truth.items()}
    found = {name: values * 255 for name, values in results.items()} if both else results
    score = evaluate_mask_files(_write(tmp_path / "r", found), _write(tmp_path / "t", stored))
    assert score["IoU/foreground"] == _expected(results, truth, 2).compute()["IoU/1"]
    assert evaluate_mask_files(tmp_path / "r", tmp_path / "t", classes=["a", "b"])["mIoU"] == score["mIoU"]


@pytest.mark.parametrize("unknown", ["refuse", "nearest"])
def test_annotations_in_colors(unknown: str, tmp_path: Path) -> None:
    results, truth = _arrays(1, 3), _arrays(2, 3)
    table = {"sky": [0, 0, 0], "road": [128, 64, 128], "tree": [0, 128, 0]}
    painted = {name: np.array(list(table.values()), np.uint8)[values] for name, values in truth.items()}
    files = _write(tmp_path / "r", results), _write(tmp_path / "t", painted)
    score = evaluate_mask_files(*files, colors=table)
    assert score["IoU/tree"] == _expected(results, truth, 3).compute()["IoU/2"]
    with pytest.raises(ValueError, match="or say what the colours mean"):
        evaluate_mask_files(*files)
    painted = {name: np.clip(values, 3, 126) for name, values in painted.items()}
    _write(tmp_path / "t", painted)
    if unknown == "refuse":
        with pytest.raises(
            ValueError, match=r"got \(3, 126, 3\) in .* nearest to \(0, 128, 0\) \(tree\); 100\.00% with 2 more"
        ):
            evaluate_mask_files(*files, colors=table)
    else:
        assert evaluate_mask_files(*files, colors=table, unknown_colors=unknown)["IoU/tree"] == score["IoU/tree"]


def test_a_described_folder(tmp_path: Path) -> None:
    results, truth = _arrays(1, 2), _arrays(2, 2)
    for name in NAMES:
        write_picture(tmp_path / "d" / "images" / f"{name}.jpg", 6, 9)
    _write(tmp_path / "d" / "masks", {name: values * 7 for name, values in truth.items()})
    said = "classes: [road, grass]\nvalues: [0, 7]\nsplits: {val: {images: images, labels: masks}}\n"
    (tmp_path / "d" / "dataset.yaml").write_text(said)
    score = evaluate_files(_write(tmp_path / "r", results), tmp_path / "d")
    assert score["IoU/grass"] == _expected(results, truth, 2).compute()["IoU/1"]
    with pytest.raises(ValueError, match=r"split: expected 'val' of .*, got 'train'"):
        evaluate_files(tmp_path / "r", tmp_path / "d", split="train")


def test_a_voc_folder_and_its_list(tmp_path: Path) -> None:
    truth = np.array([[0, 15, 255]], np.uint8)
    for name in ("x", "y"):
        write_mask(tmp_path / "voc" / "SegmentationClass" / f"{name}.png", truth)
    (tmp_path / "voc" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "voc" / "ImageSets" / "Segmentation" / "val.txt").write_text("x\n")
    write_mask(tmp_path / "r" / "x.png", [[0, 15, 3]])
    score = evaluate_files(tmp_path / "r", tmp_path / "voc", split="val")
    assert (score["IoU/background"], score["IoU/person"], score["accuracy"]) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"expected a mask y\.png .* for every annotated image, got none"):
        evaluate_files(tmp_path / "r", tmp_path / "voc")


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    files = _write(tmp_path / "r", _arrays(1)), _write(tmp_path / "t", _arrays(1))
    for folder in files:
        (folder / "._a.png").write_bytes(b"\0\5\x16")
    assert evaluate_files(*files)["mIoU"] == 1


def test_a_value_that_is_not_annotated_is_said(tmp_path: Path) -> None:
    truth, results = ({"a": np.array([[0, value]], np.uint8)} for value in (1, 4))
    with pytest.warns(UserWarning, match="the value 4 is larger than all that are annotated, 0 to 1"):
        computed = evaluate_mask_files(_write(tmp_path / "r", results), _write(tmp_path / "t", truth))
    assert computed["mIoU"] == pytest.approx(1 / 5)


def test_a_file_in_place_of_masks(tmp_path: Path) -> None:
    truth = _write(tmp_path / "t", _arrays(0))
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"results: expected a folder of segmentation masks, got .*a\.json"):
        evaluate_mask_files(tmp_path / "a.json", truth)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        pytest.param(lambda r: write_mask(r / "a.png", [[0, 1]]), {}, r"a\.png: expected the size of .*", id="size"),
        pytest.param(lambda r: (r / "a.png").write_bytes(b"?"), {}, r"a\.png: the image cannot be", id="broken"),
        pytest.param(lambda r: (r / "a.png").unlink(), {}, r"expected a mask a\.png in .*, got none", id="missing"),
        pytest.param(lambda r: None, {"classes": ["x", "y"]}, r"expected the values 0-1, 255, got \[2\]", id="value"),
        pytest.param(lambda r: None, {"split": "val"}, "split: expected None for a folder of masks", id="split"),
        pytest.param(lambda r: None, {"thresholds": [0.5]}, "thresholds: expected None for segm", id="thresholds"),
        pytest.param(lambda r: None, {"classes": "xyz"}, "classes: expected a list of names, got the text", id="text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: object, options: dict[str, object], message: str) -> None:
    assert callable(change)
    files = _write(tmp_path / "r", _arrays(1)), _write(tmp_path / "t", _arrays(2))
    change(files[0])
    with pytest.raises(ValueError, match=message):
        evaluate_files(*files, **options)  # type: ignore[arg-type]
