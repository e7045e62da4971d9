from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dcn.data.catalog import FORMATS, open_dataset, options_of
from dcn.data.datasets.boxes import Boxes
from dcn.data.datasets.coco import Coco
from dcn.data.datasets.coco_folders import CocoFolders
from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.datasets.voc import Voc
from tests.data.layouts import LAYOUTS, items, make_index_masks
from tests.data.made_files import make_coco, make_voc
from tests.data.made_masks import make_camvid, make_cityscapes, make_folder, make_voc_masks


def test_every_format_opens(tmp_path: Path) -> None:
    opened = {
        "voc": open_dataset("voc", make_voc(tmp_path / "v"), "train", keep_empty=False),
        "coco": open_dataset("coco", str(make_coco(tmp_path / "c")), "train", masks=False),
        "synthetic": open_dataset("synthetic", None, "val", length=7, num_classes=3),
        "cityscapes": open_dataset("cityscapes", make_cityscapes(tmp_path / "cs"), "val", quality="gtFine"),
        "voc_segmentation": open_dataset("voc_segmentation", make_voc_masks(tmp_path / "vs"), "train"),
        "camvid": open_dataset("camvid", make_camvid(tmp_path / "cv"), "train+val"),
        "folder": open_dataset("folder", make_folder(tmp_path / "f"), "train"),
    }
    for name, layout, split in (
        ("voc_files", "LabelImg", "all"),
        ("coco_folders", "Roboflow COCO", "train"),
        ("yolo", "Roboflow YOLO", "train"),
        ("csv", "CSV", "all"),
        ("labelme", "LabelMe", "all"),
        ("auto", "Roboflow YOLO", "train"),
    ):
        LAYOUTS[layout].make(tmp_path / name, items())
        opened[name] = open_dataset(name, tmp_path / name, split)
    make_index_masks(tmp_path / "m", beside=False)
    opened["masks"] = open_dataset("masks", tmp_path / "m", "all")
    assert opened.keys() == FORMATS.keys()
    types = {"voc": Voc, "coco": Coco, "synthetic": Synthetic, "coco_folders": CocoFolders}
    types |= dict.fromkeys(("voc_files", "yolo", "csv", "labelme", "auto"), Boxes)
    assert {name: type(data) for name, data in opened.items()} == dict.fromkeys(FORMATS, SegmentationDataset) | types
    assert (len(opened["synthetic"]), len(opened["synthetic"].classes)) == (7, 3)
    assert opened["voc"].name == "v:train"


@pytest.mark.parametrize("format", FORMATS)
def test_options_are_the_keywords(format: str) -> None:
    assert options_of(format)
    assert not {"root", "split", "self"} & set(options_of(format))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("vok", "x", "train"), {}, "expected a data format, got 'vok'; did you mean 'voc'"),
        (("zzz", "x", "train"), {}, "expected a data format, got 'zzz'; valid: auto, camvid, cityscapes, coco"),
        (("voc", "x", "train"), {"clases": 1}, "expected those of 'voc', got 'clases'; did you mean 'classes'"),
        (("coco", None, "train"), {}, "root: 'coco' needs the folder of the data, got None"),
        (("synthetic", "x", "train"), {}, "root: expected None for 'synthetic', which is generated, got 'x'"),
    ],
    ids=["near", "far", "option", "no-root", "root"],
)
def test_wrong_names(arguments: tuple[str, str | None, str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(*arguments, **options)
