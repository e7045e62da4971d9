from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw

from dcn.vis.canvas import draw_marker, fit_text, font_size, line_width, text_size, to_picture, to_tensor


def test_pictures_keep_every_pixel() -> None:
    image = torch.randint(0, 256, (3, 7, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert to_picture(image).getpixel((4, 6)) == tuple(image[:, 6, 4].tolist())
    assert torch.equal(to_tensor(to_picture(image)), image)


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(3, 0, 4, dtype=torch.uint8)],
    ids=["float", "channels-last", "empty"],
)
def test_other_tensors_are_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="image: expected"):
        to_picture(image)


def test_lines_and_letters_grow_with_the_picture() -> None:
    sides = (32, 250, 1000, 4000)
    assert [line_width((s, s)) for s in sides] == [1, 1, 4, 16]
    assert [font_size((s, s)) for s in sides] == [9, 9, 22, 40]


def test_long_text_is_cut_to_its_room() -> None:
    text = "a rather long name of a class"
    assert fit_text(text, 12, 1000) == text
    cut = fit_text(text, 12, 80)
    assert cut.endswith("…")
    assert text.startswith(cut[:-1])
    assert text_size(cut, 12)[0] <= 80
    assert fit_text(text, 12, 1) == ""


def test_a_marker_is_centred_at_continuous_coordinates() -> None:
    """(10.5, 6.5) is the centre of pixel (10, 6)."""
    picture = Image.new("RGB", (21, 13))
    draw_marker(ImageDraw.Draw(picture), 10.5, 6.5, 1, (255, 0, 0))
    painted = to_tensor(picture)[0].nonzero().float()
    assert painted.mean(0).tolist() == [6.0, 10.0]
    assert painted.min(0).values.tolist() == [5.0, 9.0]
