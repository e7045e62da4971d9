from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcn.data.datasets.camvid import available_splits, open_camvid
from dcn.structures import SegmentationMap
from tests.data.made_masks import make_camvid


def test_void_is_ignored(tmp_path: Path) -> None:
    data = open_camvid(make_camvid(tmp_path), "train+val")
    target = data[2].target
    assert isinstance(target, SegmentationMap)
    assert target.labels.flatten().tolist() == [*range(11), 255] * 2
    assert [item.image_id for item in data.files] == ["a", "b", "c"]
    assert available_splits(tmp_path) == ["train", "val"]


def test_an_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split: expected one of train, val in .*, got 'test'"):
        open_camvid(make_camvid(tmp_path), "test")


def test_the_real_set(shared: Path) -> None:
    data = {split: open_camvid(shared / "data" / "camvid", split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in data.items()} == {"train": 367, "val": 101, "test": 233}
    sample = data["val"][0]
    assert isinstance(sample.target, SegmentationMap)
    assert sample.image.shape == (3, 360, 480)
    assert set(torch.unique(sample.target.labels).tolist()) <= {*range(11), 255}
    # The sky (0) is brighter than the road (3): images and maps belong together.
    grey = sample.image.float().mean(0)
    assert grey[sample.target.labels == 0].mean() > grey[sample.target.labels == 3].mean() + 30
