from __future__ import annotations

import pytest
import torch

from dcn.vis import class_color, contact_sheet, draw_detections
from dcn.vis.detections import _overlap, _place_plates


def _grey(height: int = 120, width: int = 160) -> torch.Tensor:
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def _is(image: torch.Tensor, color: tuple[int, int, int]) -> torch.Tensor:
    """``[H, W]`` bool: pixels of exactly this colour."""
    return (image == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(0)


def test_the_outline_lies_on_the_first_and_last_pixels_of_the_box() -> None:
    box = torch.tensor([[40.0, 50, 100, 90]])
    picture = _is(draw_detections(_grey(), box, torch.tensor([1]), classes=["", ""]), class_color(1))
    rows, columns = picture.any(1).nonzero()[:, 0], picture.any(0).nonzero()[:, 0]
    assert picture[50, 40:100].all()
    assert picture[89, 40:100].all()
    assert picture[50:90, 40].all()
    assert picture[50:90, 99].all()
    assert (int(rows.max()), int(columns.max())) == (89, 99)
    assert not picture[60:80, 50:90].any()


def test_the_input_is_not_changed() -> None:
    image = _grey()
    draw_detections(image, torch.tensor([[4.0, 5, 60, 70]]), torch.tensor([0]), torch.tensor([0.5]))
    assert torch.equal(image, _grey())


def test_masks_are_blended_and_outlined() -> None:
    mask = torch.zeros(1, 120, 160, dtype=torch.bool)
    mask[0, 30:60, 40:80] = True
    picture = draw_detections(
        _grey(), torch.tensor([[40.0, 30, 80, 60]]), torch.tensor([0]), masks=mask, classes=[""], mask_opacity=0.5
    )
    color = torch.tensor(class_color(0)).float()
    assert picture[:, 45, 60].tolist() == ((color + 90) / 2).round().tolist()
    assert _is(picture, class_color(0))[30, 45:75].all()
    assert picture[:, 100, 100].tolist() == [90, 90, 90]


@pytest.mark.parametrize(("color_by", "expected"), [("class", [2, 2]), ("instance", [0, 1])])
def test_colours_by_class_or_by_object(color_by: str, expected: list[int]) -> None:
    boxes = torch.tensor([[10.0, 30, 50, 110], [90, 30, 140, 110]])
    picture = draw_detections(_grey(), boxes, torch.tensor([2, 2]), color_by=color_by)  # type: ignore[arg-type]
    assert [tuple(picture[:, 80, x].tolist()) for x in (10, 90)] == [class_color(i) for i in expected]


def test_the_best_score_is_drawn_last() -> None:
    boxes = torch.tensor([[20.0, 30, 60, 110], [20, 30, 60, 110]])
    for scores, top in (([0.9, 0.3], 0), ([0.3, 0.9], 1)):
        picture = draw_detections(_grey(), boxes, torch.tensor([0, 1]), torch.tensor(scores), classes=["", ""])
        assert tuple(picture[:, 109, 40].tolist()) == class_color(top)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([-50.0, -50, -10, -10], id="outside"),
        pytest.param([float("nan"), 0, 10, 10], id="nan"),
        pytest.param([200.0, 10, 300, 20], id="right-of-it"),
    ],
)
def test_boxes_that_cannot_be_seen_draw_nothing(box: list[float]) -> None:
    picture = draw_detections(_grey(), torch.tensor([box]), torch.tensor([0]))
    assert torch.equal(picture, _grey())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (24, 300), (300, 24), (64, 48)])
def test_any_size_of_image(height: int, width: int) -> None:
    box = torch.tensor([[0.2 * width, 0.1 * height, 2.0 * width, float("inf")]])
    picture = draw_detections(
        _grey(height, width), box, torch.tensor([3]), torch.tensor([0.5]), classes=["a", "b", "c", "d"]
    )
    assert picture.shape == (3, height, width)
    assert _is(picture, class_color(3)).any()


def test_plates_stay_inside_and_apart() -> None:
    rects = [(0, 0, 60, 40), (2, 3, 60, 44), (300, 200, 320, 240), (298, 205, 320, 240), (0, 230, 90, 240)]
    captions = [(rect, f"class {i} 0.50", (0, 0, 0)) for i, rect in enumerate(rects)]
    plates = _place_plates(captions, (320, 240))
    assert len(plates) == 5
    assert all(p.rect[0] >= 0 and p.rect[1] >= 0 and p.rect[2] <= 320 and p.rect[3] <= 240 for p in plates)
    assert [_overlap(a.rect, b.rect) for i, a in enumerate(plates) for b in plates[:i]] == [0] * 10


def test_a_crowd_leaves_out_plates_instead_of_piling_them_up() -> None:
    captions = [((50, 50, 90, 80), f"class {i} 0.50", (0, 0, 0)) for i in range(40)]
    plates = _place_plates(captions, (320, 240))
    assert 4 <= len(plates) < 20
    assert not any(_overlap(a.rect, b.rect) for i, a in enumerate(plates) for b in plates[:i])
    assert plates[0].text == "class 0 0.50"


@pytest.mark.parametrize("name", ["boxes", "scores", "masks"])
def test_lengths_that_do_not_fit_are_refused(name: str) -> None:
    values = {
        "boxes": torch.zeros(2, 4),
        "scores": torch.zeros(2),
        "masks": torch.zeros(2, 120, 160, dtype=torch.bool),
    }
    values[name] = values[name][:1]
    with pytest.raises(ValueError, match=f"{name}: expected"):
        draw_detections(_grey(), values["boxes"], torch.zeros(2).long(), values["scores"], values["masks"])


def test_contact_sheet_places_the_pictures_in_rows() -> None:
    images = [torch.full((3, 10, 20), 10 * i, dtype=torch.uint8) for i in range(1, 4)]
    sheet = contact_sheet(images, 2, cell=40, gap=4)
    assert sheet.shape == (3, 4 + 2 * (20 + 4), 4 + 2 * (40 + 4))
    assert [int(sheet[0, y, x]) for y, x in ((5, 5), (5, 50), (30, 5), (30, 50))] == [10, 20, 30, 255]


def test_contact_sheet_makes_room_for_captions() -> None:
    images = [torch.zeros(3, 100, 50, dtype=torch.uint8)] * 5
    plain = contact_sheet(images, cell=80)
    titled = contact_sheet(images, cell=80, captions=["one", "two", "three", "four", "a name that is too long to fit"])
    assert titled.shape[1] > plain.shape[1]
    assert titled.shape[2] == plain.shape[2] == 8 + 3 * 88
    below = titled[:, 88 : titled.shape[1] // 2 - 4, 8:88]
    assert (below < 100).any()


@pytest.mark.parametrize(("count", "captions"), [(0, None), (2, ["one"])], ids=["none", "captions"])
def test_contact_sheet_refuses_what_does_not_fit(count: int, captions: list[str] | None) -> None:
    with pytest.raises(ValueError, match="images: expected"):
        contact_sheet([_grey()] * count, captions=captions)


@pytest.mark.parametrize("count", [3, 40, 200])
@pytest.mark.parametrize("size", [(64, 64), (320, 240), (1000, 600)], ids=str)
def test_no_plate_covers_another_or_leaves_the_image(size: tuple[int, int], count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor(size)
    rects = [
        (int(a[0]), int(a[1]), int(b[0]) + 1, int(b[1]) + 1)
        for a, b in ((pair.amin(0), pair.amax(0)) for pair in corners)
    ]
    plates = _place_plates([(rect, f"class {i}", (0, 0, 0)) for i, rect in enumerate(rects)], size)
    assert plates or size == (64, 64)
    for index, plate in enumerate(plates):
        x1, y1, x2, y2 = plate.rect
        assert 0 <= x1 < x2 <= size[0]
        assert 0 <= y1 < y2 <= size[1]
        assert not any(_overlap(plate.rect, other.rect) for other in plates[:index])
