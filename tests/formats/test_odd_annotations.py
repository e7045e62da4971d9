"""Training, check and evaluation read one list of odd files: the same verdict, the same boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dcn.data import open_dataset
from dcn.data.check import check_dataset
from dcn.formats.annotation_files import read_annotations
from dcn.metrics import evaluate_files, write_coco_results
from dcn.structures import Detections
from tests.formats.odd_annotations import COCO, MASKS, VOC, Odd

BOXES = [*VOC, *COCO]


def _source(odd: Odd, root: Path) -> Path:
    return root if odd.kind == "voc" else root / "annotations" / "instances_train.json"


def _options(odd: Odd) -> dict[str, Any]:
    return {"classes": "auto"} if odd.kind == "voc" else {"masks": odd in MASKS}


def _error(call: Any) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    "odd", [odd for odd in [*BOXES, *MASKS] if odd.refused], ids=lambda odd: f"{odd.kind}-{odd.what}"
)
def test_what_one_refuses_all_refuse_in_the_same_words(tmp_path: Path, odd: Odd) -> None:
    odd.make(tmp_path)
    training = _error(lambda: open_dataset(odd.kind, tmp_path, "train", **_options(odd)))
    (tmp_path / "none.json").write_text("[]") if odd.kind == "voc" else None
    iou_type: Any = "segm" if odd in MASKS else "bbox"
    evaluation = _error(lambda: evaluate_files(_empty_results(tmp_path), _source(odd, tmp_path), iou_type=iou_type))
    assert odd.refused in training
    assert evaluation == training
    assert training in [problem.advice for problem in check_dataset(tmp_path, odd.kind).problems]


def _empty_results(root: Path) -> Path:
    file = root.parent / f"{root.name}_results.json"
    file.write_text("[]")
    return file


@pytest.mark.parametrize(
    "odd", [odd for odd in [*BOXES, *MASKS] if not odd.refused], ids=lambda odd: f"{odd.kind}-{odd.what}"
)
def test_what_one_accepts_all_accept_with_the_same_boxes(tmp_path: Path, odd: Odd) -> None:
    root = tmp_path / "data"
    odd.make(root)
    dataset = open_dataset(odd.kind, root, "train", **_options(odd))
    target = dataset[0].target
    boxes = target.boxes  # type: ignore[union-attr]
    torch.testing.assert_close(boxes, torch.tensor(odd.boxes, dtype=torch.float32))
    assert not target.ignored.any()  # type: ignore[union-attr]
    assert check_dataset(root, odd.kind).problems == []
    read = read_annotations(_source(odd, root), None, None, masks=odd in MASKS).images[0]
    evaluated = [(x, y, x + w, y + h) for x, y, w, h in (item.xywh for item in read.objects)]
    torch.testing.assert_close(torch.tensor(evaluated, dtype=torch.float32), boxes)
    assert read.size == dataset.sizes[0] == (40, 60)
    detections = Detections(boxes, torch.ones(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64))
    ids = list(getattr(dataset, "category_ids", dataset.classes))
    write_coco_results(tmp_path / "r.json", [detections], [target.image_id], ids)
    assert evaluate_files(tmp_path / "r.json", _source(odd, root))["AP50"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("odd", MASKS, ids=lambda odd: odd.what)
def test_outlines_matter_only_where_masks_are_asked_for(tmp_path: Path, odd: Odd) -> None:
    odd.make(tmp_path)
    assert len(open_dataset("coco", tmp_path, "train", masks=False)[0].target.boxes) >= 1  # type: ignore[union-attr]
    assert evaluate_files(_empty_results(tmp_path), _source(odd, tmp_path))["AP50"] == 0
