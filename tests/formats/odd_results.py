"""Result files as detectors, tools and strangers write them: what becomes of each.

The fault table in ``docs/data.md`` is printed from this list.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.data.made_files import voc_object

Make = Callable[[Path], Path]


@dataclass(frozen=True)
class OddResult:
    """Results with something odd about them, perfect where they are accepted.

    Attributes:
        what: for the fault table, and the id of the test.
        annotations: writes them into a folder and returns their path.
        results: the same for the results.
        refused: the end of the error message; empty where the results are accepted and get AP50 1.
        warning: what is said about accepted results.
        options: of `evaluate_files`.
    """

    what: str
    annotations: Make
    results: Make
    refused: str = ""
    warning: str = ""
    options: dict[str, Any] = field(default_factory=dict)


BOXES = ((10, 10, 30, 30), (50, 40, 20, 20), (70, 5, 20, 20))
OUTLINE = [[10, 10, 40, 10, 40, 40, 10, 40]]
TEXT = ("11 11 40 40", "51 41 70 60", "71 6 90 25")
"""The same boxes in VOC's numbers."""


def coco_file(
    names: tuple[str, ...] = ("a.jpg",), classes: tuple[str, ...] = ("cat",), ids: tuple[Any, ...] = (), **row: Any
) -> Make:
    """Object ``k`` has box ``k``, class ``k`` (of those there are) and is in image ``k`` (of those there are)."""

    def make(folder: Path) -> Path:
        numbers = ids or tuple(range(1, len(names) + 1))
        images = [
            {"id": n, "file_name": name, "width": 100, "height": 80} for n, name in zip(numbers, names, strict=True)
        ]
        rows = []
        for k in range(max(len(names), len(classes))):
            key = {"id": k + 1, "image_id": numbers[k % len(names)], "category_id": k % len(classes) + 1}
            rows.append({**key, "bbox": list(BOXES[k]), "area": BOXES[k][2] * BOXES[k][3], "iscrowd": 0, **row})
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
        content = {"images": images, "annotations": rows, "categories": categories}
        (folder / "truth.json").write_text(json.dumps(content))
        return folder / "truth.json"

    return make


def voc_folder(stems: tuple[str, ...] = ("a",), classes: tuple[str, ...] = ("cat",)) -> Make:
    """A folder of annotations alone; object ``k`` as in `coco_file`."""

    def make(folder: Path) -> Path:
        (folder / "voc" / "Annotations").mkdir(parents=True)
        corners = [tuple(map(int, text.split())) for text in TEXT]
        count = max(len(stems), len(classes))
        for i, stem in enumerate(stems):
            here = [k for k in range(count) if k % len(stems) == i]
            objects = "".join(voc_object(classes[k % len(classes)], corners[k]) for k in here)
            text = f"<annotation><size><width>100</width><height>80</height></size>{objects}</annotation>"
            (folder / "voc" / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
        return folder / "voc"

    return make


def row(image: Any = 1, category: Any = 1, k: int = 0, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(BOXES[k]), "score": 0.9, **more}


def json_file(content: object) -> Make:
    def make(folder: Path) -> Path:
        (folder / "r.json").write_text(json.dumps(content))
        return folder / "r.json"

    return make


def texts(files: dict[str, str | bytes]) -> Make:
    def make(folder: Path) -> Path:
        for name, content in files.items():
            path = folder / "results" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return folder / "results"

    return make


def whole(
    names: tuple[str, ...], rows: list[dict[str, Any]], classes: tuple[str, ...] = ("cat",), **image: Any
) -> Make:
    """A whole COCO dataset with scores, as ``dcn predict`` writes it."""
    images = [{"id": n, "file_name": name, **image} for n, name in enumerate(names, start=1)]
    categories = [{"id": n, "name": name} for n, name in enumerate(classes, start=1)]
    return json_file({"images": images, "annotations": rows, "categories": categories})


_DIGITS = ("0", "1", "7")
_EACH = [row(1, k + 1, k) for k in range(3)]
_FOLDERS = ("cam1/0001.jpg", "cam2/0001.jpg")
_NUMBERED = ("0.jpg", "1.jpg")
_MASK: dict[str, Any] = {"options": {"iou_type": "segm"}}
_OUTLINED = coco_file(segmentation=OUTLINE)
_CAT = f"cat 0.9 {TEXT[0]}\n"
_SHARES = "0.1 0.125 0.4 0.125 0.4 0.5 0.1 0.5"
"""The outline, in shares of the image."""
_PREDICTED = {**row(), "category": "cat"}


def _stream(*lines: dict[str, Any]) -> Make:
    """What ``dcn predict`` writes for each image as soon as it is done."""

    def make(folder: Path) -> Path:
        whole_lines = [{"file_name": "a.jpg", "height": 80, "width": 100, **line} for line in lines]
        (folder / "r.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in whole_lines))
        return folder / "r.jsonl"

    return make


def _predicted(folder: Path) -> Path:
    """Pictures beside the file: the folder holds no segmentation masks."""
    (folder / "predictions").mkdir()
    whole(("photos/a.jpg",), [row()])(folder).rename(folder / "predictions" / "detections.json")
    (folder / "predictions" / "a.jpg").write_bytes(b"a picture")
    return folder / "predictions"


def _cut(path: Path) -> Path:
    path.write_text(path.read_text()[:-9])
    return path


def _deep(folder: Path) -> Path:
    (folder / "r.json").write_bytes(b"[" * 100_000)
    return folder / "r.json"


def _masked(segmentation: object) -> Make:
    return json_file([row(segmentation=segmentation)])


NAMES = [
    OddResult("classes called by digits, whole dataset", coco_file(classes=_DIGITS), whole(("a.jpg",), _EACH, _DIGITS)),
    OddResult("classes called by digits, list of ids", coco_file(classes=_DIGITS), json_file(_EACH)),
    OddResult(
        "classes called by digits, text files with names",
        coco_file(classes=_DIGITS),
        texts({"a.txt": "".join(f"{name} 0.9 {TEXT[k]}\n" for k, name in enumerate(_DIGITS))}),
    ),
    OddResult(
        "digits that are names and indices of different classes",
        coco_file(classes=("1", "0")),
        texts({"a.txt": f"1 0.9 {TEXT[0]}\n0 0.9 {TEXT[1]}\n"}),
        "the name of one class and the index of another",
    ),
    OddResult(
        "class ids as texts that are also names",
        coco_file(classes=_DIGITS),
        json_file([row(1, "1", 0)]),
        "is the id of class '0' or of '1' and a name; write ids as numbers",
    ),
    OddResult("images called by digits, list of ids", coco_file(_NUMBERED), json_file([row(1), row(2, 1, 1)])),
    OddResult(
        "images called by digits, text files",
        coco_file(_NUMBERED),
        texts({"0.txt": _CAT, "1.txt": f"cat 0.9 {TEXT[1]}"}),
    ),
    OddResult("image ids as texts that are also names", coco_file(_NUMBERED), json_file([row("1")]), "could be any of"),
    OddResult(
        "one file name in two folders, whole dataset",
        coco_file(_FOLDERS),
        whole(("data/cam1/0001.jpg", "data/cam2/0001.jpg"), [row(1), row(2, 1, 1)]),
    ),
    OddResult(
        "one file name in two folders, folders of text files",
        coco_file(_FOLDERS),
        texts({"cam1/0001.txt": _CAT, "cam2/0001.txt": f"cat 0.9 {TEXT[1]}\n"}),
    ),
    OddResult(
        "one file name in two folders, without folder", coco_file(_FOLDERS), json_file([row("0001")]), "could be any"
    ),
    OddResult(
        "one file name in two folders, text file without folder",
        coco_file(_FOLDERS),
        texts({"0001.txt": _CAT}),
        "could be any of cam1/0001.jpg, cam2/0001.jpg",
    ),
    OddResult(
        "two images of the results for one annotated image",
        coco_file(),
        whole(("x/a.jpg", "y/a.jpg"), [row(1), row(2)]),
        "got x/a.jpg and y/a.jpg for a.jpg",
    ),
    OddResult("backslashes in file names", coco_file(), whole(("photos\\a.jpg",), [row()])),
    OddResult("image ids b3", coco_file(ids=("b3",)), json_file([row("b3")])),
    OddResult("ids as 1.0", coco_file(), json_file([row(1.0, 1.0)])),
    OddResult("images and classes by name", coco_file(), json_file([row("a.jpg", "cat")])),
    OddResult(
        "image that the annotations do not have", coco_file(), json_file([row(), row(9)]), "got 9; the results belong"
    ),
    OddResult(
        "class that the annotations do not have",
        coco_file(),
        json_file([row(), row(1, 9)]),
        "got 9; the results belong",
    ),
]

CLASSES = [
    OddResult(
        "class without annotations, whole dataset",
        coco_file(),
        whole(("a.jpg",), [row(), row(1, 2, 1)], ("cat", "frog")),
        warning="1 detections are of classes without annotations: frog",
    ),
    OddResult(
        "class without annotations, VOC file of the class",
        voc_folder(),
        texts({"comp4_det_test_cat.txt": f"a 0.9 {TEXT[0]}\n", "comp4_det_test_tree_frog.txt": f"a 0.9 {TEXT[1]}\n"}),
        warning="",
    ),
    OddResult(
        "class without annotations, text file of the image",
        voc_folder(classes=("cat", "lynx")),
        texts({"a.txt": _CAT + f"lynx 0.9 {TEXT[1]}\ntree frog 0.9 {TEXT[2]}\n"}),
        warning="1 detections are of classes without annotations: tree frog",
    ),
    OddResult(
        "none of the classes has annotations",
        coco_file(),
        whole(("a.jpg",), [row(1, 1)], ("frog",)),
        "got only others: ['frog']",
    ),
    OddResult(
        "class names with blanks",
        coco_file(classes=("stop sign", "type 2")),
        texts({"a.txt": f"stop sign 0.9 {TEXT[0]}\ntype 2 0.8 {TEXT[1]}\n\n"}),
    ),
    OddResult(
        "class name with a slash", voc_folder(classes=("n/a",)), texts({"comp4_det_test_n_a.txt": f"a 0.9 {TEXT[0]}\n"})
    ),
]

FORMS = [
    OddResult(
        "text with a byte order mark and Windows line ends",
        coco_file(),
        texts({"a.txt": b"\xef\xbb\xbf" + _CAT.encode().replace(b"\n", b"\r\n")}),
    ),
    OddResult("text in UTF-16", coco_file(), texts({"a.txt": _CAT.encode("utf-16")})),
    OddResult(
        "text in Windows-1252",
        coco_file(classes=("caf\xe9",)),
        texts({"a.txt": f"caf\xe9 0.9 {TEXT[0]}\n".encode("cp1252")}),
    ),
    OddResult(
        "hidden companions of macOS (._a.txt)",
        coco_file(),
        texts({"a.txt": _CAT, "._a.txt": b"\x00\x05\x16", ".DS_Store": b"\x00"}),
    ),
    OddResult("ending .TXT", coco_file(), texts({"a.TXT": _CAT})),
    OddResult(
        "image name with blanks, VOC file of a class",
        voc_folder(("my photo 1",)),
        texts({"comp4_det_test_cat.txt": f"my photo 1 0.9 {TEXT[0]}\n"}),
    ),
    OddResult(
        "binary file", coco_file(), texts({"a.txt": b"\x00\x01\x02\x03\x04"}), "expected text, got a binary file"
    ),
    OddResult(
        "line without numbers",
        coco_file(),
        texts({"a.txt": "cat high 1 2 3 4\n"}),
        "expected 'name score x1 y1 x2 y2' with finite numbers",
    ),
    OddResult("text in YOLO's form", coco_file(), texts({"a.txt": "0 0.25 0.3125 0.3 0.375 0.9\n"})),
    OddResult("polygons in YOLO's form, boxes", coco_file(), texts({"a.txt": f"0 {_SHARES} 0.9\n"})),
    OddResult(
        "text in YOLO's form without scores",
        coco_file(),
        texts({"a.txt": "0 0.25 0.3125 0.3 0.375\n"}),
        "save_conf=True",
    ),
    OddResult(
        "polygons in YOLO's form without scores",
        coco_file(),
        texts({"a.txt": f"0 {_SHARES}\n"}),
        "expected 'class x1 y1 x2 y2 x3 y3 ... score', got 9 words",
    ),
    OddResult(
        "text in YOLO's form, a line beyond the image",
        coco_file(),
        texts({"a.txt": "0 0.25 0.3125 0.3 0.375 0.9\n" * 2 + "0 1.25 0.3125 0.3 0.375 0.9\n"}),
        "expected a class and shares of the image, 0 to 1, as in most lines",
    ),
    OddResult("lines of `dcn predict`", coco_file(), _stream({"annotations": [_PREDICTED]})),
    OddResult("folder of `dcn predict` with pictures", coco_file(), _predicted),
    OddResult(
        "lines of `dcn predict`, cut off",
        coco_file(),
        lambda folder: _cut(_stream({"annotations": [_PREDICTED]})(folder)),
        "line 1: malformed JSON",
    ),
    OddResult(
        "lines of `dcn predict` without names of classes",
        coco_file(),
        _stream({"annotations": [row()]}),
        "expected an object with the name of its 'category'",
    ),
    OddResult(
        "file about nothing known",
        coco_file(),
        texts({"zebra.txt": _CAT}),
        "which is neither an image nor ends in a class",
    ),
    OddResult(
        "results for an image of another size",
        coco_file(),
        whole(("a.jpg",), [row()], width=200, height=160),
        "got 200x160",
    ),
    OddResult(
        "results for the turned image",
        coco_file(),
        whole(("a.jpg",), [row()], width=80, height=100),
        "width and height are exchanged",
    ),
    OddResult(
        "score NaN", coco_file(), json_file([row(score=float("nan"))]), "score: expected a finite number, got nan"
    ),
    OddResult(
        "score missing",
        coco_file(),
        json_file([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}]),
        "expected a field 'score'",
    ),
    OddResult("box null", coco_file(), json_file([row(bbox=None)]), "'bbox': expected 4 finite numbers"),
    OddResult("JSON nested deeply", coco_file(), _deep, "malformed JSON"),
    OddResult("another JSON document", coco_file(), json_file({"a": 1}), "expected a list of detections, got {'a': 1}"),
]

MASKS = [
    OddResult("polygons in YOLO's form", _OUTLINED, texts({"a.txt": f"0 {_SHARES} 0.9\n"}), **_MASK),
    OddResult(
        "boxes in YOLO's form",
        _OUTLINED,
        texts({"a.txt": "0 0.25 0.3125 0.3 0.375 0.9\n"}),
        "expected a polygon 'class x1 y1 x2 y2 x3 y3 ... score'",
        **_MASK,
    ),
    OddResult("polygons", _OUTLINED, _masked(OUTLINE), **_MASK),
    OddResult(
        "run lengths that cover too little",
        _OUTLINED,
        _masked({"size": [80, 100], "counts": [0, 100]}),
        "expected run lengths that add up to 8000, got 100",
        **_MASK,
    ),
    OddResult(
        "run lengths that are no code",
        _OUTLINED,
        _masked({"size": [80, 100], "counts": "zz\x7f"}),
        "malformed run lengths",
        **_MASK,
    ),
    OddResult(
        "run lengths with fractions",
        _OUTLINED,
        _masked({"size": [80, 100], "counts": [0.5, 99.5, 7900]}),
        "'counts' must be integers >= 0",
        **_MASK,
    ),
    OddResult(
        "run lengths of exchanged sides",
        _OUTLINED,
        _masked({"size": [100, 80], "counts": [0, 8000]}),
        "height and width are exchanged",
        **_MASK,
    ),
    OddResult(
        "polygon with NaN",
        _OUTLINED,
        _masked([[float("nan"), 10, 40, 10, 40, 40]]),
        "expected finite coordinates",
        **_MASK,
    ),
    OddResult(
        "polygon with a text", _OUTLINED, _masked([["a", 10, 40, 10, 40, 40]]), "expected finite coordinates", **_MASK
    ),
    OddResult("polygon of two points", _OUTLINED, _masked([[10, 10, 40, 40]]), "three or more points", **_MASK),
    OddResult("mask missing", _OUTLINED, json_file([row()]), "expected a field 'segmentation'", **_MASK),
    OddResult(
        "mask [[]]", _OUTLINED, _masked([[]]), "'segmentation': expected polygons or run lengths, got [[]]", **_MASK
    ),
    OddResult(
        "annotations without outlines",
        coco_file(segmentation=[[]]),
        _masked(OUTLINE),
        "expected a 'segmentation' in every annotation",
        **_MASK,
    ),
]

ALL = [*NAMES, *CLASSES, *FORMS, *MASKS]
