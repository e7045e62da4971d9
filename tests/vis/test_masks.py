from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcn.vis import cityscapes_palette, color_map, draw_segmentation, voc_palette, write_index_png


def _labels() -> torch.Tensor:
    labels = torch.zeros(20, 30, dtype=torch.int64)
    labels[5:15, 5:25] = 15
    labels[:, 27:] = 255
    return labels


def test_color_map_looks_up_the_palette() -> None:
    picture = color_map(torch.tensor([[0, 13], [18, 255]], dtype=torch.uint8), cityscapes_palette())
    assert picture.permute(1, 2, 0).tolist() == [[[128, 64, 128], [0, 0, 142]], [[119, 11, 32], [0, 0, 0]]]


def test_index_png_holds_labels_and_palette(tmp_path: Path) -> None:
    write_index_png(tmp_path / "a.png", _labels(), voc_palette())
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.array(picture), _labels().numpy())
        assert np.array(picture.convert("RGB"))[10, 10].tolist() == [192, 128, 128]


def test_overlay_blends_and_leaves_ignored_pixels() -> None:
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    painted = draw_segmentation(image, _labels(), opacity=0.5)
    assert painted[:, 10, 10].tolist() == [146, 114, 114]
    assert painted[:, 2, 2].tolist() == [50, 50, 50]
    assert painted[:, 10, 28].tolist() == [100, 100, 100]
    assert (painted[:, 10, 24] < painted[:, 10, 20]).all()
    kept = draw_segmentation(image, _labels(), opacity=0.5, ignore_index=None)
    assert kept[:, 10, 28].tolist() == [162, 162, 146]


def test_legend_names_the_classes_that_occur() -> None:
    image = torch.full((3, 20, 120), 100, dtype=torch.uint8)
    labels = torch.zeros(20, 120, dtype=torch.uint8)
    labels[:, 60:] = 2
    painted = draw_segmentation(image, labels, cityscapes_palette(), ["road", "unseen", "building"])
    legend = painted[:, 20:].flatten(1).T.tolist()
    assert painted.shape[1] > 20
    assert [list(cityscapes_palette()[i]) in legend for i in range(3)] == [True, False, True]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(torch.zeros(20, 29).long(), "size of the image", id="size"),
        pytest.param(torch.full((20, 30), 256), "0..255", id="label"),
        pytest.param(torch.zeros(20, 30), "integers", id="float"),
    ],
)
def test_maps_that_do_not_fit_are_refused(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"labels: expected .*{message}"):
        draw_segmentation(torch.zeros(3, 20, 30, dtype=torch.uint8), labels)
