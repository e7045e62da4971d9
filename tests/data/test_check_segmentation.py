from __future__ import annotations

from pathlib import Path

import pytest

from dcn.class_names import CAMVID_CLASSES, CITYSCAPES_CLASSES
from dcn.data.check import check_dataset, detect_format, splits_of
from tests.data.made_masks import make_camvid, make_cityscapes, make_folder, make_voc_masks, write_mask, write_picture

MAKERS = {
    "cityscapes": make_cityscapes,
    "camvid": make_camvid,
    "folder": make_folder,
    "voc_segmentation": make_voc_masks,
}


# In how many images each class occurs.
OBJECTS = {
    "cityscapes": dict.fromkeys(sorted(CITYSCAPES_CLASSES[:11]), 1),
    "camvid": dict.fromkeys(sorted(CAMVID_CLASSES), 3),
    "folder": {"grass": 1, "road": 1},
    "voc_segmentation": {"background": 2, "bird": 1, "tvmonitor": 1},
}


@pytest.mark.parametrize("format", MAKERS)
def test_nothing_is_wrong(format: str, tmp_path: Path) -> None:
    findings = check_dataset(MAKERS[format](tmp_path), format)
    assert (findings.format, findings.problems) == (format, [])
    assert findings.images == {"camvid": 3, "voc_segmentation": 2}.get(format, 1)
    assert findings.objects == OBJECTS[format]


@pytest.mark.parametrize("format", ["cityscapes", "camvid", "folder"])
def test_the_layout_tells_the_format(format: str, tmp_path: Path) -> None:
    assert detect_format(MAKERS[format](tmp_path)) == format
    assert splits_of("cityscapes", tmp_path / "nowhere") == []


def test_every_fault_is_found(tmp_path: Path) -> None:
    root = make_camvid(tmp_path)
    write_mask(root / "trainannot" / "a.png", [[12] * 6] * 4)
    write_mask(root / "trainannot" / "b.png", [[0, 1]])
    write_picture(root / "train" / "d.png")
    (root / "val" / "c.png").write_bytes(b"no picture")
    problems = [str(problem) for problem in check_dataset(root).problems]
    assert len(problems) == 4
    assert "a.png: expected the values 0-11, 255, got [12]" in problems[0]
    assert "b.png: expected the size of its image (4, 6), got (1, 2)" in problems[1]
    assert "d.png: has no segmentation mask" in problems[2]
    assert "c.png: the image cannot be decoded" in problems[3]


def test_a_folder_without_splits(tmp_path: Path) -> None:
    problems = check_dataset(tmp_path, "cityscapes").problems
    assert [problem.message for problem in problems] == ["there is no split in the layout of 'cityscapes'"]
