from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dcn.metrics import CocoAP, VocAP, evaluate_files, write_coco_results, write_voc_results
from dcn.metrics.voc import Method
from dcn.structures import Detections, Target

from .made_up import SIZE, coco_form, image

CLASSES = ["ant", "bee", "wild bee"]
PAIRS = [image(seed, 3, masks=True) for seed in range(1, 13)]


def _computed(metric: CocoAP | VocAP) -> Mapping[str, float]:
    metric.update([detections for detections, _ in PAIRS], [target for _, target in PAIRS])
    return metric.compute()


def _coco_file(folder: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> Path:
    content, _ = coco_form(PAIRS, CLASSES)
    change(content)
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def _coco_results(folder: Path, change: Callable[[list[dict[str, Any]]], object] = lambda rows: None) -> Path:
    path = folder / "results.json"
    write_coco_results(
        path, [detections for detections, _ in PAIRS], [target.image_id for _, target in PAIRS], [1, 2, 3]
    )
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    return path


def _voc_xml(target: Target) -> str:
    objects = [
        f"<object><name>{CLASSES[label]}</name><difficult>{int(flag)}</difficult><bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, flag, (x1, y1, x2, y2) in zip(
            target.labels.tolist(), target.ignored.tolist(), target.boxes.tolist(), strict=True
        )
    ]
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def _voc_folder(folder: Path) -> Path:
    """All images in `all.txt`, the first alone in `one.txt`, and a class list as the kits have it."""
    root = folder / "VOC"
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (root / "Annotations").mkdir()
    stems = [f"img {target.image_id:02}" for _, target in PAIRS]
    for stem, (_, target) in zip(stems, PAIRS, strict=True):
        (root / "Annotations" / f"{stem}.xml").write_text(_voc_xml(target))
    (lists / "all.txt").write_text("".join(f"{stem}\n" for stem in stems))
    (lists / "one.txt").write_text(f"{stems[0]}\n")
    (lists / "ant_all.txt").write_text("".join(f"{stem} -1\n" for stem in stems))
    return root


def _voc_per_image(folder: Path, names: bool) -> Path:
    out = folder / "per_image"
    out.mkdir()
    for detections, target in PAIRS:
        lines = [
            f"{CLASSES[label] if names else label} {score!r} {x1 + 1} {y1 + 1} {x2} {y2}\n"
            for label, score, (x1, y1, x2, y2) in zip(
                detections.labels.tolist(), detections.scores.tolist(), detections.boxes.tolist(), strict=True
            )
        ]
        (out / f"img {target.image_id:02}.txt").write_text("".join(lines))
    return out


EXPECTED = "expected.json"


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_real_coco_files_give_the_known_computed(shared: Path, iou_type: Any) -> None:
    expected = json.loads((shared / "eval" / EXPECTED).read_text())
    folder = shared / "eval" / "coco_val2014_100"
    results = folder / f"instances_val2014_fake{iou_type}100_results.json"
    result = evaluate_files(results, folder / "instances_val2014_100.json", iou_type=iou_type)
    known = expected[f"coco_val2014_100 {iou_type}"]
    assert [result[name] for name in expected["order"]] == pytest.approx(known, abs=1e-4)


@pytest.mark.parametrize("results", ["abs_xyxy", "coco_dets.json"])
@pytest.mark.parametrize(("method", "title"), [("11point", "VOC07 11-point"), ("area", "area")], ids=["11", "area"])
def test_real_voc_files_give_the_known_computed(shared: Path, method: Method, title: str, results: str) -> None:
    expected = json.loads((shared / "eval" / EXPECTED).read_text())[f"voc100 voc_eval.py ovthresh=0.5 {title}"]
    folder = shared / "eval" / "voc100"
    result = evaluate_files(folder / results, shared / "data" / "voc2012_100", method=method)
    known = {"AP50" if name == "mAP" else f"AP50/{name}": value for name, value in expected.items()}
    assert {name: result[name] for name in known} == pytest.approx(known, abs=1e-4)


def test_coco_files_score_like_the_metric(tmp_path: Path) -> None:
    files = _coco_results(tmp_path), _coco_file(tmp_path)
    boxes = evaluate_files(*files)
    masks = {f"mask/{name}": value for name, value in evaluate_files(*files, iou_type="segm").items()}
    assert {**boxes, **masks} == pytest.approx(_computed(CocoAP(CLASSES, masks=True)), abs=1e-12)


def test_boxes_may_be_left_to_the_masks(tmp_path: Path) -> None:
    """An ellipse of known extent: the box of the mask is the box of its pixels."""
    results = _coco_results(tmp_path, lambda rows: [row.pop("bbox") for row in rows])
    result = evaluate_files(results, _coco_file(tmp_path))
    assert result["AP50"] == pytest.approx(_computed(CocoAP(CLASSES))["AP50"], abs=0.1)
    assert result["AP50"] > 0.2


def _texts(content: dict[str, Any]) -> None:
    for row in content["images"]:
        row["id"] = f"photo-{row['id']:03}"
    for row in content["annotations"]:
        row["image_id"] = f"photo-{row['image_id']:03}"
        row["category_id"] = str(row["category_id"] + 10)
    for row in content["categories"]:
        row["id"] = str(row["id"] + 10)


def _results_with_texts(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row.update(image_id=f"photo-{row['image_id']:03}", category_id=row["category_id"] + 10)


def _results_by_name(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row.update(image_id=f"{row['image_id']}.jpg", category_id=CLASSES[row["category_id"] - 1])


@pytest.mark.parametrize(
    ("truth", "results"),
    [
        pytest.param(_texts, _results_with_texts, id="ids-are-texts"),
        pytest.param(lambda content: None, _results_by_name, id="by-name"),
        pytest.param(
            lambda content: [row.update(id=row["id"] - 1) for row in content["annotations"]],
            lambda rows: None,
            id="annotation-id-0",
        ),
    ],
)
def test_other_ways_to_name_things(tmp_path: Path, truth: Any, results: Any) -> None:
    result = evaluate_files(_coco_results(tmp_path, results), _coco_file(tmp_path, truth))
    assert result == pytest.approx(_computed(CocoAP(CLASSES)), abs=1e-12)


def test_a_whole_data_set_as_results_is_matched_by_names(tmp_path: Path) -> None:
    results = _coco_results(tmp_path)
    rows = [
        {**row, "image_id": row["image_id"] + 70, "category_id": 3 - row["category_id"]}
        for row in json.loads(results.read_text())
    ]
    images = [{"id": int(t.image_id) + 70, "file_name": f"some/where/{t.image_id}.jpg"} for _, t in PAIRS]
    categories = [{"id": 2 - i, "name": name} for i, name in enumerate(CLASSES)]
    results.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    assert evaluate_files(results, _coco_file(tmp_path)) == pytest.approx(_computed(CocoAP(CLASSES)), abs=1e-12)


@pytest.mark.parametrize("method", ["area", "11point"])
@pytest.mark.parametrize("names", [False, True], ids=["index", "name"])
def test_voc_folder_and_a_file_for_each_image(tmp_path: Path, method: Method, names: bool) -> None:
    result = evaluate_files(_voc_per_image(tmp_path, names), _voc_folder(tmp_path), method=method, split="all")
    assert result == pytest.approx(_computed(VocAP(CLASSES, method=method)), abs=1e-12)


def test_voc_folder_and_a_file_for_each_class(tmp_path: Path) -> None:
    """Written with one decimal, like the boxes here, and scores of two: nothing is lost."""
    stems = [f"img {target.image_id:02}" for _, target in PAIRS]
    files = write_voc_results(tmp_path / "out", [detections for detections, _ in PAIRS], stems, CLASSES, split="all")
    assert [file.name for file in files] == [f"comp4_det_all_{name}.txt" for name in CLASSES]
    folder = _voc_folder(tmp_path)
    noisy = [Detections(f.boxes.mul(10).round().div(10), f.scores, f.labels) for f, _ in PAIRS]
    metric = VocAP(CLASSES)
    metric.update(noisy, [target for _, target in PAIRS])
    whole = metric.compute()
    assert evaluate_files(tmp_path / "out", folder, split="all") == pytest.approx(whole, abs=1e-12, nan_ok=True)
    one = evaluate_files(files[0], folder, split="all")
    assert one["AP50/ant"] == pytest.approx(whole["AP50/ant"])
    assert one["AP50/bee"] == 0.0


def test_the_written_voc_line_is_inclusive_and_starts_at_one(tmp_path: Path) -> None:
    detections = Detections(torch.tensor([[0.0, 9.96, 20.04, 31]]), torch.tensor([0.98765]), torch.tensor([0]))
    (file,) = write_voc_results(tmp_path, [detections], ["000001"], ["ant"])
    assert file.read_text() == "000001 0.988 1.0 11.0 20.0 31.0\n"


def test_voc_rules_on_coco_files_and_the_other_way(tmp_path: Path) -> None:
    coco, voc = (_coco_results(tmp_path), _coco_file(tmp_path)), (_voc_per_image(tmp_path, True), _voc_folder(tmp_path))
    assert evaluate_files(*coco, format="voc") == pytest.approx(_computed(VocAP(CLASSES)), abs=1e-12)
    result = evaluate_files(*voc, format="coco", split="all")
    assert result["AP50"] == pytest.approx(_computed(CocoAP(CLASSES))["AP50"], abs=1e-12)


def test_plain_list_against_a_voc_folder_is_continuous_unless_told(tmp_path: Path) -> None:
    def rename(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["image_id"] = f"img {row['image_id']:02}"

    results, folder = _coco_results(tmp_path, rename), _voc_folder(tmp_path)
    assert evaluate_files(results, folder, split="all") == pytest.approx(_computed(VocAP(CLASSES)), abs=1e-12)
    moved = VocAP(CLASSES, thresholds=(0.9,))
    shift = torch.tensor([-1.0, -1, 0, 0])
    moved.update([Detections(f.boxes + shift, f.scores, f.labels) for f, _ in PAIRS], [target for _, target in PAIRS])
    inclusive = evaluate_files(results, folder, split="all", coordinates="voc", thresholds=(0.9,))
    assert inclusive == pytest.approx(moved.compute(), abs=1e-12)


def test_the_twenty_classes_of_voc_keep_their_numbers(tmp_path: Path) -> None:
    """Only `person` occurs; its index is 14 all the same."""
    folder = tmp_path / "Annotations"
    folder.mkdir()
    box = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>"
    (folder / "a.xml").write_text(f"<annotation><object><name>person</name>{box}</object></annotation>")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.txt").write_text("14 0.9 11 21 40 60\n\n")
    result = evaluate_files(tmp_path / "results", folder)
    assert (result["AP50"], result["AP70/person"]) == (1.0, 1.0)
    assert evaluate_files(tmp_path / "results", folder, classes=[*"abcdefghijklmn", "person"])["AP50/person"] == 1.0


@pytest.mark.parametrize("split", ["one", "all"])
def test_split_chooses_the_images(tmp_path: Path, split: str) -> None:
    folder = _voc_folder(tmp_path)
    (tmp_path / "comp4_det_x_ant.txt").write_text("")
    result = evaluate_files(tmp_path / "comp4_det_x_ant.txt", folder, split=split, classes=CLASSES)
    present = {int(v) for _, t in PAIRS[: 1 if split == "one" else None] for v in t.labels[~t.ignored]}
    assert {name for name in CLASSES if result[f"AP50/{name}"] == 0.0} == {CLASSES[i] for i in present}


def _set(field: str, value: object) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[4].update({field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_set("image_id", 99), "results.json: entry 4: image_id: .* got 99", id="image"),
        pytest.param(_set("category_id", 7), "results.json: entry 4: category_id: .* got 7", id="category"),
        pytest.param(_set("score", float("nan")), "results.json: entry 4: score: .*finite number, got nan", id="nan"),
        pytest.param(_set("score", "high"), "entry 4: score: .*'high'", id="score-text"),
        pytest.param(_set("score", None), "entry 4: score: .*nothing", id="score-null"),
        pytest.param(_set("bbox", [1, 2, 3]), "entry 4: 'bbox': expected 4 finite numbers", id="short-box"),
        pytest.param(
            _set("bbox", [1, 2, -3, 4]), "entry 4: 'bbox': width and height must not be negative", id="negative-width"
        ),
        pytest.param(lambda rows: rows[4].pop("score"), "entry 4: expected a field 'score'", id="no-score"),
        pytest.param(lambda rows: rows.insert(4, [1]), "entry 4: expected an object", id="not-an-object"),
    ],
)
def test_malformed_results_name_file_and_entry(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_files(_coco_results(tmp_path, change), _coco_file(tmp_path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(
            {"size": [9, 9], "counts": "0"},
            r"image's size \[height, width\] = \[220, 260\], got \[9, 9\]",
            id="size",
        ),
        pytest.param(None, "expected polygons or run lengths, got none", id="null"),
        pytest.param({"counts": "0"}, "= .220, 260., got nothing", id="no-size"),
    ],
)
def test_malformed_masks_name_file_and_entry(tmp_path: Path, value: object, message: str) -> None:
    results = _coco_results(tmp_path, _set("segmentation", value))
    with pytest.raises(ValueError, match=f"entry 4: 'segmentation'.*{message}"):
        evaluate_files(results, _coco_file(tmp_path), iou_type="segm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: c.pop("images"), "'images': expected a list, got nothing", id="no-images"),
        pytest.param(
            lambda c: c["annotations"][2].update(image_id=99),
            r"annotations\[2\] \(id 3\): image_id: expected one of 'images', got 99",
            id="image",
        ),
        pytest.param(
            lambda c: c["annotations"][2].update(category_id=9),
            r"annotations\[2\] \(id 3\): .*category_id: expected one of 'categories', got 9",
            id="category",
        ),
        pytest.param(lambda c: c["annotations"][2].pop("bbox"), r"annotations\[2\] .*'bbox': expected 4", id="no-box"),
        pytest.param(lambda c: c["images"].append(c["images"][0]), "id 1 is used twice", id="image-twice"),
        pytest.param(lambda c: c["categories"].append({"id": 3, "name": "x"}), "id 3 is used twice", id="class-twice"),
    ],
)
def test_malformed_annotations_name_file_and_entry(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"instances.json: .*{message}"):
        evaluate_files(_coco_results(tmp_path), _coco_file(tmp_path, change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("img 0.5 1 2 3", "line 1: expected 'name score", id="short"),
        pytest.param("img 01 high 1 2 3 4", "line 1: expected 'name score", id="text"),
        pytest.param("\nimg 01 nan 1 2 3 4", "line 2: expected 'name score", id="nan"),
        pytest.param("img 77 0.5 1 2 3 4", "line 1: image: .* got 'img 77'", id="image"),
        pytest.param("img 01 0.5 9 2 3 4", "line 1: expected xmin <= xmax", id="corners"),
    ],
)
def test_malformed_text_results_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "comp4_det_all_wild bee.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"comp4_det_all_wild bee.txt: {message}"):
        evaluate_files(file, _voc_folder(tmp_path), split="all")


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        pytest.param("<annotation>", "malformed XML: no element", id="cut-off"),
        pytest.param("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "a document type declaration", id="entity"),
        pytest.param("<annotation><object/></annotation>", "object 0 .no name.: <name> is missing", id="no-name"),
        pytest.param(
            "<annotation><object><name>ant</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
            "object 0 .ant.: <ymin> is missing from <bndbox>",
            id="no-corner",
        ),
    ],
)
def test_malformed_xml_names_file_and_object(tmp_path: Path, xml: str, message: str) -> None:
    folder = _voc_folder(tmp_path)
    (folder / "Annotations" / "img 03.xml").write_text(xml)
    with pytest.raises(ValueError, match=f"img 03.xml: {message}"):
        evaluate_files(_voc_per_image(tmp_path, True), folder, split="all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"format": "xyz"}, "format", id="format"),
        pytest.param({"iou_type": "keypoints"}, "iou_type", id="iou-type"),
        pytest.param({"coordinates": "xywh"}, "coordinates", id="coordinates"),
        pytest.param({"format": "voc", "iou_type": "segm"}, "iou_type", id="voc-masks"),
        pytest.param({"split": "val"}, "split", id="split-of-a-file"),
        pytest.param({"classes": ["ant"]}, "classes: .*got a list without", id="missing-classes"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_files(_coco_results(tmp_path), _coco_file(tmp_path), **arguments)


@pytest.mark.parametrize("split", [None, "test"])
def test_the_splits_are_listed_when_one_is_needed(tmp_path: Path, split: str | None) -> None:
    with pytest.raises(ValueError, match=r"split: expected one of all, one in "):
        evaluate_files(_voc_per_image(tmp_path, True), _voc_folder(tmp_path), split=split)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"annotations: .*nowhere\.json"):
        evaluate_files(_coco_results(tmp_path), tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match=r"results: .*nothing\.json"):
        evaluate_files(tmp_path / "nothing.json", tmp_path / "nowhere.json")
    (tmp_path / "data.yaml").write_text("names: [ant]")
    with pytest.raises(ValueError, match=r"annotations: .*data\.yaml, which is one file of a folder; name the folder"):
        evaluate_files(_coco_results(tmp_path), tmp_path / "data.yaml")
    (tmp_path / "broken.json").write_text('[{"image_id": 1,')
    with pytest.raises(ValueError, match=r"broken\.json: malformed JSON"):
        evaluate_files(tmp_path / "broken.json", _coco_file(tmp_path))


def test_writers_refuse_what_does_not_fit(tmp_path: Path) -> None:
    detections = Detections(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([0.5]), torch.tensor([2]))
    with pytest.raises(ValueError, match="image_ids"):
        write_coco_results(tmp_path / "a.json", [detections], [], [1, 2, 3])
    with pytest.raises(ValueError, match="category_ids"):
        write_coco_results(tmp_path / "a.json", [detections], [1], [1, 2])
    with pytest.raises(ValueError, match="classes"):
        write_voc_results(tmp_path, [detections], ["a"], ["ant", "bee"])


def test_thresholds_of_voc(tmp_path: Path) -> None:
    files = _coco_results(tmp_path), _coco_file(tmp_path)
    metric = VocAP(CLASSES, (0.3, 0.9))
    expected = _computed(metric)
    assert evaluate_files(*files, format="voc", thresholds=[0.3, 0.9]) == pytest.approx(expected, abs=1e-12)
    assert [name for name in evaluate_files(*files, format="voc") if "/" not in name] == ["AP50", "AP70"]


@pytest.mark.parametrize(
    ("format", "thresholds", "message"),
    [
        ("coco", [0.5], "thresholds: expected None with the COCO rules, which have ten of their own"),
        ("voc", [], "thresholds: expected one or more different numbers in .0, 1., got"),
        ("voc", [1.0], "thresholds: expected one or more different numbers"),
        ("voc", [0.5, 0.5], "thresholds: expected one or more different numbers"),
        ("voc", ["0.5"], "thresholds: expected one or more different numbers"),
        ("voc", [float("nan")], "thresholds: expected one or more different numbers"),
    ],
    ids=["coco", "none", "one", "twice", "text", "nan"],
)
def test_wrong_thresholds_are_refused(tmp_path: Path, format: Any, thresholds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_files(_coco_results(tmp_path), _coco_file(tmp_path), format=format, thresholds=thresholds)


def test_a_text_for_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classes: expected a list of names, got the text 'ant'"):
        evaluate_files(_coco_results(tmp_path), _coco_file(tmp_path), classes="ant")


def test_a_devkit_is_read_as_training_reads_it(tmp_path: Path) -> None:
    _voc_folder(tmp_path / "VOC2007").rename(tmp_path / "x")
    (tmp_path / "VOC2007").rmdir()
    (tmp_path / "x").rename(tmp_path / "VOC2007")
    result = evaluate_files(_voc_per_image(tmp_path, True), tmp_path, split="2007_all")
    assert result == pytest.approx(_computed(VocAP(CLASSES)), abs=1e-12)


def test_boxes_without_extent_count_as_they_do_for_pycocotools(tmp_path: Path) -> None:
    def flatten(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"][2] = 0

    with pytest.warns(UserWarning, match="1 box without extent counts as an object; training skips it"):
        lower = evaluate_files(_coco_results(tmp_path), _coco_file(tmp_path, flatten))
    assert lower["AR100"] < evaluate_files(_coco_results(tmp_path), _coco_file(tmp_path))["AR100"]
