from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcn.data.datasets.segmentation import SegmentationDataset
from dcn.formats.index_masks import IndexReader, MaskFiles
from dcn.structures import SegmentationMap
from tests.data.made_masks import write_mask, write_picture

READ = IndexReader({0: 0, 7: 1, 3: 255})


@pytest.fixture
def files(tmp_path: Path) -> list[MaskFiles]:
    """One image with a map, one without."""
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.png", 2, 3)
    write_mask(tmp_path / "map.png", [[0, 7, 3], [255, 7, 0]])
    return [MaskFiles(tmp_path / "a.png", tmp_path / "map.png", "a"), MaskFiles(tmp_path / "b.png", None, "b")]


def test_values_become_classes(files: list[MaskFiles]) -> None:
    data = SegmentationDataset("set", ["x", "y"], files, READ, unlabelled="skip")
    sample = data[0]
    assert isinstance(sample.target, SegmentationMap)
    assert sample.target.labels.tolist() == [[0, 1, 255], [255, 1, 0]]
    assert (len(data), data.sizes, data.image_path(0), data.classes) == (1, [(2, 3)], files[0].image, ("x", "y"))


def test_an_image_without_a_map(files: list[MaskFiles]) -> None:
    with pytest.raises(ValueError, match=r"b\.png: has no segmentation mask; the option unlabelled='skip'"):
        SegmentationDataset("set", ["x", "y"], files, READ)
    target = SegmentationDataset("set", ["x", "y"], files, READ, unlabelled="keep")[1].target
    assert isinstance(target, SegmentationMap)
    assert torch.equal(target.labels, torch.full((2, 3), 255))
    assert target.image_id == "b"


def test_a_value_that_stands_for_nothing(files: list[MaskFiles], tmp_path: Path) -> None:
    write_mask(tmp_path / "map.png", [[0, 7, 4], [9, 7, 0]])
    with pytest.raises(ValueError, match=r"map\.png: expected the values 0, 3, 7, 255, got \[4, 9\]"):
        SegmentationDataset("set", ["x", "y"], files, READ, unlabelled="skip")[0]


@pytest.mark.parametrize(
    ("mask", "got", "advice"),
    [
        ([[0, 7]], r"\(1, 2\)", "resize the mask to the size of its image"),
        ([[0, 7, 0, 0, 0, 7]] * 2, r"\(2, 6\)", "is it the mask of another image, or of a part of this one"),
        ([[0, 7]] * 3, r"\(3, 2\)", "the mask is turned by a quarter"),
    ],
    ids=["smaller", "wider", "turned"],
)
def test_a_map_of_another_size(
    mask: list[list[int]], got: str, advice: str, files: list[MaskFiles], tmp_path: Path
) -> None:
    write_mask(tmp_path / "map.png", mask)
    said = rf"map\.png: expected the size of its image \(2, 3\), got {got} \(height, width\) for a\.png; {advice}"
    with pytest.raises(ValueError, match=said):
        SegmentationDataset("set", ["x", "y"], files, READ, unlabelled="skip")[0]


def test_wrong_arguments(files: list[MaskFiles]) -> None:
    with pytest.raises(ValueError, match="unlabelled: expected one of refuse, skip, keep, got 'drop'"):
        SegmentationDataset("set", ["x"], files, READ, unlabelled="drop")
    with pytest.raises(ValueError, match="set: expected one image or more, got none"):
        SegmentationDataset("set", ["x"], [], READ)
