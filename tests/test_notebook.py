"""How results show themselves in a notebook."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dcn
from dcn.colors import class_color
from dcn.structures import Detections, SegmentationMap


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        assert picture.format == "PNG"
        return np.array(picture.convert("RGB"))


def detections(count: int = 2) -> Detections:
    boxes = torch.tensor([[0.0, 0.0, 100.0, 50.0], [20.0, 10.0, 60.0, 40.0]]).repeat(count, 1)[:count]
    return Detections(boxes, torch.linspace(0.9, 0.5, count), torch.arange(count) % 3)


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_detections_are_a_table_and_a_drawing(count: int) -> None:
    html = detections(count)._repr_html_()
    tree = ElementTree.fromstring(f"<div>{html}</div>")
    assert tree[0].text == f"{count} detection{'' if count == 1 else 's'}"
    rows = tree.findall(".//tbody/tr")
    assert len(rows) == min(count, 20)
    assert len(tree.findall(".//rect")) == count
    if count:
        assert [cell.text for cell in rows[0]] == ["0", "0.900", "0.0", "0.0", "100.0", "50.0"]
    assert ("and 10 more" in html) == (count == 30)


def test_boxes_are_drawn_where_they_are() -> None:
    picture = pixels(detections()._repr_png_())
    assert picture.shape == (202, 402, 3)  # 4 pixels for each of the image
    assert tuple(picture[100, 0]) == class_color(0)
    assert tuple(picture[100, 80]) == tuple(picture[40, 200]) == class_color(1)
    assert tuple(picture[100, 160]) == (255, 255, 255)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -50.0], ids=["nan", "infinite", "outside"])
def test_strange_boxes_are_no_error(bad: float) -> None:
    one = Detections(torch.tensor([[bad, 0.0, 10.0, 10.0]]), torch.tensor([0.5]), torch.tensor([0]))
    assert "1 detection" in one._repr_html_()
    assert pixels(one._repr_png_()).ndim == 3


def test_a_map_is_a_picture() -> None:
    labels = torch.tensor([[0, 1], [2, 255]])
    own = pixels(SegmentationMap(labels, colors=((9, 80, 7),) * 2)._repr_png_())
    assert {tuple(color) for color in own[labels < 2].tolist()} == {(9, 80, 7)}
    picture = pixels(SegmentationMap(labels)._repr_png_())
    assert [tuple(color) for color in picture.reshape(4, 3)] == [*map(class_color, range(3)), (255, 255, 255)]


def test_a_run_shows_what_it_reached(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("base: synthetic_plain\n")
    run = dcn.Run(tmp_path)
    assert run._repr_png_() is None
    assert "faster_rcnn_r18_fpn" in run._repr_html_()
    rows = ['{"kind": "train", "step": 1, "loss": 2.0}', '{"kind": "eval", "step": 1, "AP50": 0.25, "AP50/A": 0.1}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "report.html").touch()
    cells = [cell.text for cell in ElementTree.fromstring(f"<div>{run._repr_html_()}</div>").findall(".//td")]
    assert cells == [str(tmp_path), "faster_rcnn_r18_fpn", "1", "0.2500"]
    assert "report.html" in run._repr_html_()
    picture = run._repr_png_()
    assert picture is not None
    assert pixels(picture).shape[2] == 3
