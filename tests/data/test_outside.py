"""Boxes that reach outside of their image: the option ``outside`` in every format of boxes."""

from __future__ import annotations

import base64
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dcn
from dcn.cli.main import main
from dcn.data import open_dataset
from dcn.data.box_format import box_format
from dcn.data.catalog import FORMATS
from dcn.data.check import check_dataset
from dcn.data.dataset import Dataset
from dcn.data.splitting import target_of
from dcn.engine import load_recipe
from dcn.formats.problems import Report
from dcn.formats.records import BoxFiles, BoxObject, BoxRecord
from dcn.metrics import evaluate_files
from dcn.runs.build import open_split
from dcn.structures import Target
from tests.data.layouts import HEIGHT, LAYOUTS, WIDTH, Item, items, write_picture
from tests.data.made_files import coco_data, make_coco, make_voc, voc_object, voc_xml

# Of 64x48 pixels: what the file has, and what is left of it.
WRITTEN = {
    "inside": (5, 6, 30, 20),
    "right": (40, 8, 90, 40),
    "left and top": (-30, -10, 20, 30),
    "all around": (-20, -20, 100, 70),
    "nothing left": (80, 10, 100, 40),
}
LEFT = [(5, 6, 30, 20), (40, 8, 64, 40), (0, 0, 20, 30), (0, 0, 64, 48)]

# One layout for each reader. LabelMe lets corners pass the border, so that it refuses the last box alone.
READERS = {
    "VOC devkit": 4,
    "LabelImg": 4,
    "COCO": 4,
    "Roboflow COCO": 4,
    "LabelImg YOLO": 4,
    "Ultralytics polygons": 4,
    "CSV": 4,
    "CSV with header": 4,
    "LabelMe": 1,
}
NAMED = "the option outside=clip cuts such boxes to the image"


def _made(root: Path, layout: str, *names: str) -> tuple[str, str]:
    """Format and first split of a folder whose first image has the boxes above, or some of them."""
    item = Item("photo 00", tuple(("apple", *WRITTEN[name]) for name in names or WRITTEN))
    LAYOUTS[layout].make(root, [item, *items(6)[1:]])
    format = LAYOUTS[layout].format
    splits = FORMATS[format].splits
    assert splits is not None
    known = splits(root)
    return format, next((split for split in known if "train" in split), known[0])


def _open(root: Path, format: str, split: str, **options: Any) -> Dataset:
    return open_dataset(format, root, split, **({"classes": "auto"} if format == "voc" else {}), **options)


def _quietly(root: Path, format: str, split: str, **options: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _open(root, format, split, **options)


def _boxes(dataset: Dataset, index: int = 0) -> torch.Tensor:
    target = target_of(dataset, index)
    assert isinstance(target, Target)
    return target.boxes


def _near(boxes: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(boxes, torch.tensor(expected, dtype=torch.float32), atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", READERS)
def test_boxes_are_cut_to_the_image(layout: str, tmp_path: Path) -> None:
    format, split = _made(tmp_path, layout)
    with pytest.raises(ValueError, match=f"inside the image of 64x48 pixels.*{NAMED}"):
        _open(tmp_path, format, split)
    with pytest.warns(UserWarning, match="cut to") as caught:
        dataset = _open(tmp_path, format, split, outside="clip")
    _near(_boxes(dataset), LEFT)
    count = READERS[layout]
    cut, degenerate = (str(warning.message) for warning in caught)
    what = "box reaches outside of its image and is cut to it"
    what = what if count == 1 else "boxes reach outside of their images and are cut to them"
    assert f": {count} {what}; the first: {tmp_path}" in cut
    assert "1 box without extent skipped" in degenerate
    assert len(dataset) == len(_quietly(tmp_path, format, split, outside="clip", degenerate="keep"))


@pytest.mark.parametrize("layout", READERS)
def test_a_box_with_nothing_left_follows_the_option_degenerate(layout: str, tmp_path: Path) -> None:
    format, split = _made(tmp_path, layout)
    boxes = _boxes(_quietly(tmp_path, format, split, outside="clip", degenerate="keep"))
    _near(boxes, [*LEFT, (64, 10, 64, 40)])


@pytest.mark.parametrize("layout", READERS)
def test_an_image_of_which_nothing_is_left_is_no_training_image(layout: str, tmp_path: Path) -> None:
    format, split = _made(tmp_path, layout, "nothing left")
    whole, trained = (_quietly(tmp_path, format, split, outside="clip", keep_empty=keep) for keep in (True, False))
    assert len(_boxes(whole)) == 0
    assert 0 < len(trained) < len(whole)
    assert all(len(_boxes(trained, index)) for index in range(len(trained)))


@pytest.mark.parametrize("layout", READERS)
def test_check_reports_them_and_names_the_way_out(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    format, split = _made(tmp_path, layout)
    findings = check_dataset(tmp_path, format, split=split)
    assert len(findings.problems) == READERS[layout]
    assert all("inside the image of 64x48 pixels" in str(problem) for problem in findings.problems)
    assert all(str(problem) in problem.advice and NAMED in problem.advice for problem in findings.problems)
    assert main(["data", "check", str(tmp_path), "--format", format, "--split", split]) == 1
    assert capsys.readouterr().out.count(NAMED) == READERS[layout]


def test_a_whole_folder_by_auto(tmp_path: Path) -> None:
    _made(tmp_path, "VOC devkit")
    dataset = _quietly(tmp_path, "auto", "train", outside="clip")
    _near(_boxes(dataset), LEFT)


def test_other_values_of_the_option(tmp_path: Path) -> None:
    format, split = _made(tmp_path, "CSV")
    with pytest.raises(ValueError, match="outside: expected 'refuse' or 'clip', got 'cut'"):
        _open(tmp_path, format, split, outside="cut")


@pytest.mark.parametrize(
    ("cells", "message"),
    [("5,6,nan,9,apple", "finite numbers"), ("9,6,5,9,apple", "reversed"), ("5,6,90,9,", "a class in the sixth cell")],
    ids=["NaN", "reversed", "without class"],
)
def test_other_problems_are_refused_even_so(cells: str, message: str, tmp_path: Path) -> None:
    LAYOUTS["CSV"].make(tmp_path, items(3))
    with (tmp_path / "annotations.csv").open("a") as file:
        file.write(f"images/photo 00.jpg,{cells}\n")
    with pytest.raises(ValueError, match=message):
        _open(tmp_path, "csv", "all", outside="clip")


def _read_own(root: Path, split: str, report: Report, *, upright: bool = False) -> BoxFiles:
    """A reader as plug-ins have it: it checks nothing."""
    around = [[-20.0, 8.0, 30.0, 8.0, 30.0, 28.0, -20.0, 28.0]]
    objects = [
        BoxObject(name, "apple", tuple(map(float, box)))  # type: ignore[arg-type]  # four of them
        for name, box in WRITTEN.items()
    ]
    objects = [*objects, BoxObject("polygon", "apple", (-20.0, 8.0, 30.0, 28.0), False, around)]
    return BoxFiles(("apple",), (BoxRecord("a", root / "a.png", root / "a.txt", (HEIGHT, WIDTH), tuple(objects)),))


def test_formats_of_plug_ins(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", items(1)[0])
    row = box_format("own", _read_own, lambda root: ["all"])
    with pytest.raises(ValueError, match=f"a.txt: right: .*got \\[40, 8, 50, 32\\]; {NAMED}"):
        row.open(tmp_path, "all")
    with pytest.warns(
        UserWarning, match="5 boxes reach outside of their images and are cut to them; the first: .*a.txt: right"
    ):
        dataset: Any = row.open(tmp_path, "all", outside="clip")
    _near(_boxes(dataset), [*LEFT, (0, 8, 30, 28)])
    assert dataset.records[0].objects[-1].segmentation == [[0, 8, 30, 8, 30, 28, 0, 28]]


def _polygon_data(segmentation: Any, box: list[float], area: float) -> dict[str, Any]:
    """One object in an image of 60x40 pixels."""
    content = coco_data()
    content["images"] = [entry for entry in content["images"] if entry["id"] == 9]
    category = content["categories"][0]["id"]
    entry = {"id": 1, "image_id": 9, "category_id": category, "bbox": box, "area": area, "segmentation": segmentation}
    return {**content, "annotations": [entry]}


def _region(*windows: tuple[int, int, int, int]) -> torch.Tensor:
    mask = torch.zeros(40, 60, dtype=torch.bool)
    for x1, y1, x2, y2 in windows:
        mask[y1:y2, x1:x2] = True
    return mask


OUTLINES = {
    # An L: a bar from the left border on, and a bar that hangs down from it over the lower border.
    "L": ([[-30, 5, 20, 5, 20, 70, 10, 70, 10, 15, -30, 15]], _region((0, 5, 20, 15), (10, 15, 20, 40))),
    "far away": ([[-9000, 5, 20, 5, 20, 15, -9000, 15]], _region((0, 5, 20, 15))),
    "two parts, one gone": ([[70, 5, 90, 5, 90, 9], [-5, 5, 20, 5, 20, 15, -5, 15]], _region((0, 5, 20, 15))),
    "around the image": ([[-100, -100, 200, -100, 200, 200, -100, 200]], _region((0, 0, 60, 40))),
    "run lengths": ({"size": [40, 60], "counts": [0, 80, 2320]}, _region((0, 0, 2, 40))),
}


@pytest.mark.parametrize("name", OUTLINES)
def test_masks_of_cut_objects(name: str, tmp_path: Path) -> None:
    pytest.importorskip("hotcoco")
    segmentation, expected = OUTLINES[name]
    make_coco(tmp_path, _polygon_data(segmentation, [-30, -10, 80, 80], 1e6))
    target = target_of(_quietly(tmp_path, "coco", "train", outside="clip"), 0)
    assert isinstance(target, Target)
    assert target.masks is not None
    assert torch.equal(target.masks[0], expected)
    _near(target.boxes, [(0, 0, 50, 40)])
    assert target.area is not None
    assert target.area.tolist() == [2000]  # not more than the box


def test_an_outline_wholly_outside_is_empty(tmp_path: Path) -> None:
    pytest.importorskip("hotcoco")
    make_coco(tmp_path, _polygon_data([[700, 5, 720, 5, 720, 15]], [700, 5, 20, 10], 100))
    target = target_of(_quietly(tmp_path, "coco", "train", outside="clip", degenerate="keep"), 0)
    assert isinstance(target, Target)
    assert target.masks is not None
    assert not target.masks.any()
    assert len(target_of(_quietly(tmp_path, "coco", "train", outside="clip"), 0)) == 0


@pytest.mark.parametrize(
    "polygon", [[1, 2, 3, 4], [1, 2, float("nan"), 4, 5, 6], ["1"] * 6], ids=["two points", "NaN", "texts"]
)
def test_polygons_that_are_none_are_refused_even_so(polygon: Any, tmp_path: Path) -> None:
    make_coco(tmp_path, _polygon_data([polygon], [-30, -10, 80, 80], 1))
    with pytest.raises(ValueError, match="'segmentation': expected"):
        _open(tmp_path, "coco", "train", outside="clip")


def test_polygons_of_yolo(tmp_path: Path) -> None:
    """A triangle whose point is 40 pixels outside: at the right border it is still 27 pixels high."""
    pytest.importorskip("hotcoco")
    LAYOUTS["LabelImg YOLO"].make(tmp_path, items(1))
    points = [(44, 4), (104, 24), (44, 44)]
    text = " ".join(f"{x / WIDTH:.9f} {y / HEIGHT:.9f}" for x, y in points)
    (tmp_path / "photo 00.txt").write_text(f"0 {text}\n")
    target = target_of(_quietly(tmp_path, "yolo", "all", outside="clip"), 0)
    assert isinstance(target, Target)
    _near(target.boxes, [(44, 4, 64, 44)])
    assert target.masks is not None
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    depth = torch.minimum(x - 44, (104 - x) / 3 - (y - 24).abs())  # positive inside of the triangle
    sure = depth.abs() > 0.6
    assert torch.equal(target.masks[0][sure], (depth > 0)[sure])


def _labelme_mask(left: int, top: int) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.full((5, 8), 255, np.uint8)).save(stream, "PNG")
    points = [[left, top], [left + 7, top + 4]]
    shape = {"label": "apple", "points": points, "shape_type": "mask", "mask": base64.b64encode(stream.getvalue())}
    shape["mask"] = shape["mask"].decode()  # type: ignore[attr-defined]
    return json.dumps({"shapes": [shape], "imagePath": "photo 00.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH})


@pytest.mark.parametrize(
    ("corner", "left"),
    [((70, 10), (64, 10, 64, 10)), ((10, -20), (10, 0, 10, 0)), ((-30, 60), (0, 48, 0, 48))],
    ids=["right", "above", "below on the left"],
)
def test_masks_of_labelme_wholly_outside(
    corner: tuple[int, int], left: tuple[int, int, int, int], tmp_path: Path
) -> None:
    LAYOUTS["LabelMe"].make(tmp_path, items(2))
    (tmp_path / "photo 00.json").write_text(_labelme_mask(*corner))
    with pytest.raises(ValueError, match=f"'mask': expected a pixel or more inside the image.*{NAMED}"):
        _open(tmp_path, "labelme", "all")
    _near(_boxes(_quietly(tmp_path, "labelme", "all", outside="clip", degenerate="keep", masks=False)), [left])
    assert len(_boxes(_quietly(tmp_path, "labelme", "all", outside="clip", masks=False))) == 0


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_result_files_are_scored_against_the_boxes_of_training(kind: str, tmp_path: Path) -> None:
    """The box (40, 5, 70, 30) of an image of 60x40 pixels, and a detection that is what is left of it."""
    if kind == "voc":
        source = make_voc(tmp_path / "data", {"9": voc_xml(voc_object("cat", (41, 6, 70, 30)))})
        rows: dict[str, Any] = {"image_id": 9, "category_id": 8}
    else:
        root = make_coco(tmp_path / "data", _polygon_data([], [40, 5, 30, 25], 750))
        source = root / "annotations" / "instances_train.json"
        rows = {"image_id": 9, "category_id": coco_data()["categories"][0]["id"]}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{**rows, "bbox": [40, 5, 20, 25], "score": 0.9}]))
    with pytest.raises(ValueError, match=NAMED):
        evaluate_files(results, source)
    with pytest.warns(UserWarning, match="1 box reaches outside of its image and is cut to it"):
        metrics = evaluate_files(results, source, outside="clip", format="coco")
    assert metrics["AP75"] == pytest.approx(1, abs=1e-6)
    assert main(["eval", "--results", str(results), "--annotations", str(source), "--outside", "clip"]) == 0


TINY = [
    "model.options={width: 0.125, stem_channels: 8, fpn_channels: 16, fc_channels: 16, rois_per_image: 16}",
    *("model.backbone_weights=random", "transforms.short=48", "transforms.long=64", "workers=0"),
    *("schedule.steps=1", "schedule.batch_size=2", "eval.report=false", "eval.images=2", "data.format=csv"),
    *("data.train=all", "data.val=all", "data.allow_shared=true"),
]


def test_training_and_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    data = tmp_path / "data"
    LAYOUTS["CSV"].make(data, items(3))
    with (data / "annotations.csv").open("a") as file:
        file.write("images/photo 00.jpg,40,8,90,40,pear\n")
    with pytest.raises(ValueError, match=f"got \\[40, 8, 50, 32\\]; {NAMED} \\(data.outside=clip in a recipe\\)"):
        dcn.train("faster_rcnn_r18_fpn", data, output=tmp_path, changes=TINY, device="cpu")
    with pytest.warns(UserWarning, match="1 box reaches outside of its image and is cut to it"):
        run = dcn.train(
            "faster_rcnn_r18_fpn", data, output=tmp_path, changes=[*TINY, "data.outside=clip"], device="cpu"
        )
    assert run.recipe.data.outside == "clip"
    with pytest.warns(UserWarning, match="1 box reaches outside of its image and is cut to it"):
        metrics = dcn.evaluate(run, "val", device="cpu")
    assert metrics is not None
    assert metrics["AP50"] >= 0


def test_recipes_of_earlier_versions_refuse_as_they_did(tmp_path: Path) -> None:
    """They do not have the key."""
    _made(tmp_path / "data", "CSV")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"model: {{name: faster_rcnn_r18_fpn}}\nschedule: {{steps: 1}}\n"
        f"data: {{format: csv, root: '{tmp_path / 'data'}', train: all}}\n"
    )
    recipe = load_recipe(file)
    assert recipe.data.outside == "refuse"
    with pytest.raises(ValueError, match=NAMED):
        open_split(recipe, "train")


@pytest.mark.filterwarnings("ignore")
def test_commands_for_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    _made(data, "CSV")
    commands = {
        "show": ["--count", "1", "--output", str(tmp_path / "sheet.png")],
        "stats": ["--json"],
        "convert": ["--to", "coco", "--output", str(tmp_path / "coco")],
    }
    for verb, words in commands.items():
        assert main(["data", verb, str(data), *words]) == 2, verb
        assert NAMED in capsys.readouterr().err
        assert main(["data", verb, str(data), *words, "--outside", "clip"]) == 0, verb
    assert main(["data", "check", str(tmp_path / "coco")]) == 0
    assert main(["data", "check", str(data)]) == 1
    assert capsys.readouterr().out.count(f"{NAMED} (data.outside=clip in a recipe)") == 4
