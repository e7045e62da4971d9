from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcn.data.datasets.cityscapes import available_splits, open_cityscapes, result_path, to_label_ids
from dcn.structures import SegmentationMap
from tests.data.made_masks import make_cityscapes

# Train ids of the label ids 0 to 33, from the table that the dataset's own scripts print.
TRAIN_IDS = (
    *(255,) * 7, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10,
    11, 12, 13, 14, 15, 255, 255, 16, 17, 18,
)  # fmt: skip


def _labels(data: object, index: int = 0) -> torch.Tensor:
    target = data[index].target  # type: ignore[index]
    assert isinstance(target, SegmentationMap)
    return target.labels


def test_ids_become_train_ids(tmp_path: Path) -> None:
    data = open_cityscapes(make_cityscapes(tmp_path), "val")
    assert _labels(data).flatten().tolist() == list(TRAIN_IDS[:24])
    assert data.files[0].image_id == "ulm_000001_000002"
    assert available_splits(tmp_path) == ["val"]


def test_results_lead_back_to_ids() -> None:
    ids = torch.tensor([index for index, train in enumerate(TRAIN_IDS) if train != 255])
    trained = torch.tensor([train for train in TRAIN_IDS if train != 255])
    assert torch.equal(to_label_ids(trained[None]), ids[None])
    assert to_label_ids(torch.tensor([[255]])).tolist() == [[0]]
    assert result_path(Path("out"), "ulm_000001_000002") == Path("out/ulm/ulm_000001_000002.png")


def test_the_real_frame(shared: Path) -> None:
    root = shared / "data" / "cityscapes_sample"
    labels, trained = _labels(open_cityscapes(root, "val")), _labels(open_cityscapes(root, "val", form="labelTrainIds"))
    # Both files were made smaller on their own: along the borders they differ by a pixel.
    assert float((labels == trained).float().mean()) > 0.99
    assert set(torch.unique(labels).tolist()) == {0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 255}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "vall"}, "split: expected 'val' in .*, got 'vall'"),
        ({"split": "val", "quality": "fine"}, "quality: expected one of gtFine, gtCoarse, got 'fine'"),
        ({"split": "val", "quality": "gtCoarse"}, "has no segmentation mask"),
        ({"split": "val", "form": "ids"}, "form: expected one of labelIds, labelTrainIds, got 'ids'"),
    ],
    ids=["split", "quality", "no-labels", "form"],
)
def test_what_is_wrong_is_named(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_cityscapes(make_cityscapes(tmp_path), **options)  # type: ignore[arg-type]
