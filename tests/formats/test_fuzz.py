"""Damaged annotation files: training, check and evaluation agree, and nothing but a short ValueError comes out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcn.data import open_dataset
from dcn.data.check import check_dataset
from dcn.metrics import evaluate_files
from tests.data.made_files import voc_object, voc_xml
from tests.formats.odd_annotations import coco_folder, voc_folder

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.0, 0.5, 1e308, float("nan"), float("inf"), 10**30, "", "1", "../a", [], {}, [[]], [1]),
    *([1, 2, 3, 4], {"a": 1}, "x" * 3000, "\0", "\ud800", [None] * 4, ["1"] * 4, [1e9] * 4, [True] * 4),
)
PIECES = (b"<a>", b"-", b"9", b"&x;", b"<!--", b"]]>", b"1e400", b"\0", b"<?xml version='1.0' encoding='utf-7'?>")


def _verdict(call: Callable[[], object]) -> bool:
    """Whether a call accepts the file."""
    try:
        call()
    except ValueError as error:
        return _refused(str(error))
    return True


def _refused(message: str) -> bool:
    """``False``, for a message that a terminal can show."""
    assert len(message) < 2000
    assert message.encode("utf-8")
    return False


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _paths(value[key], (*path, key))


def _damage_json(rng: random.Random) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        runs = {"size": [40, 60], "counts": [0, 2400]}
        first = data["annotations"][0]
        data["annotations"].append({**first, "id": 2, "iscrowd": 1, "segmentation": runs})
        first["segmentation"] = [[10, 5, 30, 5, 30, 25]]
        for _ in range(rng.randint(1, 2)):
            # The name of the image is left alone: evaluation needs no images, so a missing one divides them.
            *above, last = rng.choice([path for path in _paths(data) if "file_name" not in path])
            where: Any = data
            for key in above:
                where = where[key]
            where[last] = rng.choice(ODD)

    return change


def _damage_xml(rng: random.Random) -> bytes:
    text = voc_xml(voc_object(), voc_object("cat", (1, 1, 9, 9), "<difficult>1</difficult>"))
    data = bytearray(text.encode(rng.choice(("utf-8", "utf-16", "utf-8-sig", "utf-16-le"))))
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(data)), rng.random()
        if kind < 0.4:
            data[at] = rng.randrange(256)
        elif kind < 0.6:
            del data[at : at + rng.randint(1, 20)]
        elif kind < 0.8:
            data[at:at] = rng.choice(PIECES)
        else:
            del data[max(at, 1) :]
    return bytes(data)


def _problems(root: Path, format: str) -> bool:
    """Whether the check finds what opening refuses: it also reports boxes without extent and unusual class names."""
    ignored = ["has no extent", "the annotation says", *(["class: expected"] if format == "voc" else [])]
    lines = [str(problem) for problem in check_dataset(root, format).problems]
    return any(not any(word in line for word in ignored) for line in lines)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_damaged_json(tmp_path: Path, masks: bool) -> None:
    rng = random.Random(0)
    (tmp_path / "none.json").write_text("[]")
    iou_type: Any = "segm" if masks else "bbox"
    for number in range(120):
        root = tmp_path / str(number)
        coco_folder(_damage_json(rng))(root)
        source = root / "annotations" / "instances_train.json"
        training = _verdict(lambda root=root: open_dataset("coco", root, "train", masks=masks))  # type: ignore[misc]
        evaluation = _verdict(
            lambda source=source: evaluate_files(tmp_path / "none.json", source, iou_type=iou_type)  # type: ignore[misc]
        )
        # Without one outline in the file training has no masks, and evaluation of masks has nothing to do.
        assert evaluation == training or (masks and training), source.read_text()[:500]
        assert training or _problems(root, "coco")
        assert not (masks and training and _problems(root, "coco"))


@pytest.mark.filterwarnings("ignore")
def test_damaged_xml(tmp_path: Path) -> None:
    rng = random.Random(0)
    (tmp_path / "none.json").write_text("[]")
    for number in range(200):
        root, data = tmp_path / str(number), _damage_xml(rng)
        voc_folder(data)(root)
        training = _verdict(lambda root=root: open_dataset("voc", root, "train", classes="auto"))  # type: ignore[misc]
        evaluation = _verdict(lambda root=root: evaluate_files(tmp_path / "none.json", root))  # type: ignore[misc]
        assert training == evaluation == (not _problems(root, "voc")), data
