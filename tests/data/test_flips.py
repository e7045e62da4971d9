from __future__ import annotations

import torch

from dcn.data.datasets.synthetic import Synthetic
from dcn.data.flips import WithFlips
from dcn.data.geometry import flip
from dcn.structures import Target


def test_second_half_is_the_mirror_image_of_the_first() -> None:
    data = Synthetic("train", length=3, size=(64, 80), glyph_size=(20, 30))
    doubled = WithFlips(data)
    assert (len(doubled), doubled.sizes, doubled.classes) == (6, data.sizes * 2, data.classes)
    assert doubled.name == "synthetic:train+flips"
    assert doubled.image_path(4) is None
    for index in range(3):
        mirrored, plain = doubled[index + 3], doubled[index]
        assert torch.equal(plain.image, data[index].image)
        assert torch.equal(mirrored.image, flip(data[index]).image)
        assert isinstance(mirrored.target, Target)
        assert torch.equal(mirrored.target.boxes, flip(data[index]).target.boxes)  # type: ignore[union-attr]
