from __future__ import annotations

import itertools

import pytest
import torch

from dcn.formats.masks import decode_mask, extent, rectangle
from dcn.formats.yolo_writer import inner_parts, joined, lines_of

SIZE = (40, 60)
SQUARE = [2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]
OTHER = [20.0, 10.0, 32.0, 10.0, 32.0, 22.0, 20.0, 22.0]
TRIANGLE = [40.0, 20.0, 55.5, 35.25, 25.0, 38.0]


def test_boxes_and_polygons_in_shares_of_the_image() -> None:
    text = lines_of([3, 0], [[6.0, 4.0, 30.0, 20.0], [6.0, 4.0, 60.0, 4.0, 60.0, 40.0]], SIZE)
    assert text.splitlines() == [
        "3 0.30000000 0.30000000 0.40000000 0.40000000",
        "0 0.10000000 0.10000000 1.00000000 0.10000000 1.00000000 1.00000000",
    ]


def test_a_box_is_the_extent_of_its_rectangle() -> None:
    assert rectangle([1.0, 2.0, 5.0, 9.0]) == [1.0, 2.0, 5.0, 2.0, 5.0, 9.0, 1.0, 9.0]
    assert extent(rectangle([1.0, 2.0, 5.0, 9.0])) == [1.0, 2.0, 5.0, 9.0]


def test_parts_are_joined_at_the_nearest_corners() -> None:
    assert joined([SQUARE]) == SQUARE
    loop = [12.0, 12.0, 20.0, 10.0, 32.0, 10.0, 32.0, 22.0, 20.0, 22.0, 20.0, 10.0, 12.0, 12.0]
    assert joined([SQUARE, OTHER]) == [2.0, 2.0, 12.0, 2.0, *loop, 2.0, 12.0]


@pytest.mark.parametrize(
    "parts",
    list(itertools.permutations([SQUARE, OTHER, TRIANGLE])),
    ids=["-".join(names) for names in itertools.permutations(["square", "other", "triangle"])],
)
def test_joined_parts_cover_the_same_pixels(parts: tuple[list[float], ...]) -> None:
    polygon = joined(parts)
    assert torch.equal(decode_mask([polygon], SIZE), decode_mask(list(parts), SIZE))
    assert extent(polygon) == [2.0, 2.0, 55.5, 38.0]


@pytest.mark.parametrize(
    ("parts", "inside"),
    [
        ([SQUARE, OTHER], [SQUARE, OTHER]),
        ([[50.0, 30.0, 70.0, 30.0, 70.0, 50.0, 50.0, 50.0]], [rectangle([50.0, 30.0, 60.0, 40.0])]),
        ([[-9.0, 1.0, -2.0, 1.0, -5.0, 8.0], SQUARE], [SQUARE]),
        ([[3.0, 3.0, 8.0, 3.0, 5.0, 3.0], SQUARE], [SQUARE]),
        ([[-9.0, 1.0, -2.0, 1.0, -5.0, 8.0]], []),
    ],
    ids=["inside", "over a corner", "one part outside", "one part a line", "outside"],
)
def test_parts_inside_of_the_image(parts: list[list[float]], inside: list[list[float]]) -> None:
    got = inner_parts(parts, SIZE)
    assert [sorted(zip(part[::2], part[1::2], strict=True)) for part in got] == [
        sorted(zip(part[::2], part[1::2], strict=True)) for part in inside
    ]
