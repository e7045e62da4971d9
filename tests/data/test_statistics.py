from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dcn.cli.main import main
from dcn.data.statistics import BoxSizes, best_scale, box_sizes, evaluate_anchors, propose_anchors, statistics
from tests.data.layouts import CLASSES, HEIGHT, LAYOUTS, WIDTH, items


def _sizes(widths: list[float], heights: list[float], scale: float = 1.0) -> BoxSizes:
    count = len(widths)
    columns = (torch.tensor(widths), torch.tensor(heights), torch.full((count,), scale))
    return BoxSizes(("a",), torch.zeros(count, dtype=torch.int64), *columns, (count,), ((100, 100),), 800, 1333)


def test_statistics_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["CSV"].make(tmp_path, items())
    words = ["data", "stats", str(tmp_path), "--short", "96", "--long", "1000"]
    assert main([*words, "--json", "--plot", str(tmp_path / "plot.png")]) == 0
    content = json.loads(capsys.readouterr().out)
    boxes = [box for item in items() for box in item.boxes]
    assert (content["images"], content["objects"], content["empty_images"]) == (12, len(boxes), 1)
    expected = {name: sum(box[0] == name for box in boxes) for name in CLASSES}
    assert {name: entry["objects"] for name, entry in content["classes"].items()} == expected
    sides = sorted(((b[3] - b[1]) * (b[4] - b[2])) ** 0.5 * 96 / HEIGHT for b in boxes)
    assert (content["side"]["0"], content["side"]["1"]) == pytest.approx((sides[0], sides[-1]), abs=1e-3)
    ratios = sorted((b[4] - b[2]) / (b[3] - b[1]) for b in boxes)
    assert content["ratio"]["1"] == pytest.approx(ratios[-1], abs=1e-3)
    assert content["size_classes"]["small"] == sum(side < 32 for side in sides)
    assert content["image_width"]["0.5"] == WIDTH
    assert content["objects_per_image"]["1"] == max(len(item.boxes) for item in items())
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 500
    assert main(words) == 0
    table = capsys.readouterr().out
    assert table.startswith(f"12 images, 1 without an object; {len(boxes)} objects\n")
    assert all(f"  {name}" in table for name in CLASSES)


@pytest.mark.parametrize(("short", "long", "scale"), [(96, 1000, 2.0), (96, 64, None), (48, 64, 1.0), (960, 128, None)])
def test_scale_at_the_input(short: int, long: int, scale: float | None, tmp_path: Path) -> None:
    from dcn.data.catalog import open_dataset

    LAYOUTS["LabelImg"].make(tmp_path, items(4))
    dataset = open_dataset("voc_files", tmp_path, "all")
    if scale is None:
        with pytest.raises(ValueError, match="expected 1 <= short <= long"):
            box_sizes([dataset], short, long)
    else:
        assert set(box_sizes([dataset], short, long).scales.tolist()) == {scale}


def test_the_longer_side_is_limited(tmp_path: Path) -> None:
    from dcn.data.catalog import open_dataset

    LAYOUTS["LabelImg"].make(tmp_path, items(4))
    sizes = box_sizes([open_dataset("voc_files", tmp_path, "all")], 96, 100)
    assert set(sizes.scales.tolist()) == {100 / WIDTH}


def test_overlap_by_hand() -> None:
    anchors = evaluate_anchors(_sizes([32, 64], [32, 32]), 8, (1.0,))  # sides 32, 64 ...: 1 and 32*64/(64*64)
    assert (anchors.overlap, anchors.recall) == pytest.approx((0.75, 1.0))
    assert evaluate_anchors(_sizes([16], [16], 2.0), 8, (1.0,)).overlap == pytest.approx(1.0)
    tall = evaluate_anchors(_sizes([16], [64]), 8, (4.0,))
    assert tall.overlap == pytest.approx(1.0)


def test_proposed_anchors_are_those_of_the_objects() -> None:
    widths = [24.0] * 10 + [48.0] * 10
    heights = [24.0 * 3] * 10 + [48.0 / 3] * 10
    sizes = _sizes(widths, heights)
    proposed = propose_anchors(sizes, 2)
    assert proposed.ratios == pytest.approx((0.33, 3.0), abs=0.01)
    assert proposed.overlap > evaluate_anchors(sizes, 8, (0.5, 1, 2)).overlap
    assert proposed.overlap >= best_scale(sizes, (0.5, 1, 2)).overlap
    assert propose_anchors(_sizes([30.0], [30.0]), 3).ratios == (1.0,)
    with pytest.raises(ValueError, match="ratios: expected 1 or more, got 0"):
        propose_anchors(sizes, 0)


def test_anchors_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LAYOUTS["COCO"].make(tmp_path, items())
    assert main(["data", "anchors", str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["scale alone"]["overlap"] >= content["default"]["overlap"]
    assert main(["data", "anchors", str(tmp_path)]) == 0
    line = f"model.options.anchor_scale={content['scale alone']['scale']:g}"
    assert line in capsys.readouterr().out


def test_no_objects() -> None:
    class Empty:
        name, classes, sizes = "empty", ("a",), ()

        def __len__(self) -> int:
            return 0

    with pytest.raises(ValueError, match="expected one object or more"):
        box_sizes([Empty()], 800, 1333)  # type: ignore[list-item]  # no image is ever asked for
    assert statistics(_sizes([1.0], [1.0]))["objects"] == 1
