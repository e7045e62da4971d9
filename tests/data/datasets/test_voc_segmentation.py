from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcn.data.datasets.voc_segmentation import available_splits, open_voc_segmentation
from dcn.structures import SegmentationMap
from tests.data.made_masks import SBD, make_voc_masks
from tests.formats.test_mat import make_mat


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """A VOC folder, and SBD with half of its images in either list."""
    voc, sbd = make_voc_masks(tmp_path / "VOC2012"), tmp_path / "sbd"
    stems = sorted(SBD)
    for stem in stems:
        make_mat(sbd / "cls" / f"{stem}.mat", torch.full((4, 6), 8, dtype=torch.uint8).numpy())
    (sbd / "train.txt").write_text("\n".join(stems[:2]))
    (sbd / "val.txt").write_text("\n".join(stems[2:]))
    return voc, sbd


def test_palette_maps(roots: tuple[Path, Path]) -> None:
    data = open_voc_segmentation(roots[0].parent, "train")
    target = data[0].target
    assert isinstance(target, SegmentationMap)
    assert target.labels[0].tolist() == [0, 20, 255, 20, 0, 0]
    assert (len(data.classes), data.classes[0], data.classes[20]) == (21, "background", "tvmonitor")
    assert available_splits(roots[0]) == ["train", "val"]


def test_the_augmented_split(roots: tuple[Path, Path]) -> None:
    """All of SBD and VOC's train, without VOC's val; VOC's own map where there is one."""
    data = open_voc_segmentation(roots[0], "train_aug", augmentation=str(roots[1]))
    targets = {str(item.image_id): data.target(index) for index, item in enumerate(data.files)}
    assert list(targets) == ["2007_000001", "2007_000009", "2008_000002", "2008_000004"]
    values = {stem: sorted(set(target.labels.flatten().tolist())) for stem, target in targets.items() if target}
    assert values == {stem: [8] for stem in targets} | {"2007_000009": [0, 20, 255]}


def test_a_list_of_that_name_comes_first(roots: tuple[Path, Path]) -> None:
    (roots[0] / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("2008_000004 1\n")
    data = open_voc_segmentation(roots[0], "train_aug", augmentation=str(roots[1]))
    assert [item.image_id for item in data.files] == ["2008_000004"]


def test_what_is_wrong_is_named(roots: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 'train_aug'; the option augmentation=FOLDER_OF_SBD makes it"):
        open_voc_segmentation(roots[0], "train_aug")
    with pytest.raises(ValueError, match=r"expected one of train, val in .*ImageSets.Segmentation, got 'test'"):
        open_voc_segmentation(roots[0], "test")
    with pytest.raises(ValueError, match="root: expected a folder with JPEGImages"):
        open_voc_segmentation(tmp_path / "nowhere", "train")


def test_the_real_images(shared: Path) -> None:
    data = open_voc_segmentation(shared / "data" / "voc2012_100", "all")
    sample = data[0]
    assert isinstance(sample.target, SegmentationMap)
    assert (len(data), sample.target.image_id) == (93, "2007_000032")
    assert set(torch.unique(sample.target.labels).tolist()) == {0, 1, 15, 255}
