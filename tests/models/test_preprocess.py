from __future__ import annotations

import pytest
import torch

from dcn.models.preprocess import Preprocess, PreprocessName


def _image(height: int, width: int, colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, height, width).contiguous()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rgb_std", ((10 - 123.675) / 58.395, (20 - 116.28) / 57.12, (30 - 103.53) / 57.375)),
        ("bgr_caffe", (30 - 104.0, 20 - 117.0, 10 - 123.0)),
        ("rgb_mean", (10 - 123.15, 20 - 115.90, 30 - 103.06)),
    ],
)
def test_values(name: PreprocessName, expected: tuple[float, float, float]) -> None:
    batch = Preprocess(name)([_image(5, 7, (10, 20, 30))])
    torch.testing.assert_close(batch.pixels[0, :, 4, 6], torch.tensor(expected))


def test_padding_is_zero_after_normalisation_and_sizes_are_kept() -> None:
    batch = Preprocess("rgb_std")([_image(33, 20, (9, 9, 9)), _image(10, 64, (9, 9, 9))])
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.sizes == [(33, 20), (10, 64)]
    assert batch.padded_size(1) == (32, 64)
    assert batch.pixels[0, :, 33:].abs().max() == 0
    assert batch.pixels[0, :, :, 20:].abs().max() == 0
    assert batch.pixels[0, :, :33, :20].abs().min() > 0


def test_black_padding_is_minus_the_mean() -> None:
    batch = Preprocess("rgb_mean", pad_value="black")([_image(3, 3, (0, 0, 0))])
    torch.testing.assert_close(
        batch.pixels, torch.tensor([-123.15, -115.90, -103.06]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    )


def test_statistics_are_not_part_of_the_weights() -> None:
    assert Preprocess("rgb_std").state_dict() == {}


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(3, 0, 4, dtype=torch.uint8)],
    ids=["float", "channels-last", "empty"],
)
def test_wrong_image_is_named(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"images\[0\]: expected a uint8 RGB tensor"):
        Preprocess("rgb_std")([image])


def test_unknown_name() -> None:
    with pytest.raises(
        ValueError, match="preprocess: expected one of rgb_std, bgr_caffe, bgr_mean, rgb_mean, got 'rgb'"
    ):
        Preprocess("rgb")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("divisor", "groups"), [(1, [[0, 3], [1], [2]]), (32, [[0, 1, 3], [2]])], ids=["no-padding", "padding"]
)
def test_images_that_can_share_a_batch(divisor: int, groups: list[list[int]]) -> None:
    sizes = ((64, 96), (50, 70), (65, 96), (64, 96))
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    assert Preprocess("rgb_mean", divisor=divisor).groups(images) == groups
