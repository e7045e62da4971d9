"""Tile tables: complete, within what the matrix units take, and narrowed to the problem."""

from __future__ import annotations

import pytest

from dcn.kernels.triton._tiles import (
    TABLES,
    Tile,
    choose,
    divide,
    halved,
    lowered,
    narrower,
    patch,
    samples,
    shorter,
    spread,
    table,
)

KERNELS = ("forward", "offset", "input", "weight", "depthwise")


@pytest.mark.parametrize("generation", [*TABLES, "sm_120", "gfx1100"])
def test_a_table_has_every_kernel_and_size_in_powers_of_two(generation: str) -> None:
    actual = table(generation)
    assert set(actual) == {(kernel, size) for kernel in KERNELS for size in (2, 4, 8)}
    numbers = [number for tile in actual.values() for number in (tile.rows, tile.columns, tile.inner)]
    assert all(number >= 16 and number.bit_count() == 1 for number in numbers)


def test_a_tile_is_no_wider_than_the_problem_and_no_narrower_than_the_matrix_units() -> None:
    assert choose("sm_90", "forward", 2, columns=100, inner=3) == Tile(128, 128, 16, 8, 2)
    assert choose("sm_90", "weight", 2, columns=9, inner=40, rows=20) == Tile(32, 16, 64, 8, 2)


def test_columns_are_divided_until_every_multiprocessor_has_work() -> None:
    tile = Tile(64, 256, 64, 8, 2)
    assert spread(tile, 256, 132, 132).columns == 256
    assert spread(tile, 256, 66, 132).columns == 128  # C4 of 50 x 84 locations
    assert spread(tile, 512, 17, 132).columns == 64  # C5 of 25 x 42 locations
    assert spread(tile, 256, 128, 132).columns == 256  # C4 of 64 x 128 locations: nearly all have work


def test_a_tile_of_few_columns_is_one_of_two_on_a_multiprocessor() -> None:
    whole = Tile(128, 256, 64, 8, 2)
    assert halved(whole, whole) == whole
    assert halved(whole._replace(columns=128), whole) == Tile(64, 128, 64, 4, 2)
    assert halved(Tile(64, 128, 64, 8, 2), whole).rows == 64  # no fewer than the matrix units take
    assert halved(Tile(128, 64, 64, 4, 2), whole).warps == 4


@pytest.mark.parametrize(
    ("rows", "programs", "left"),
    [(33600, 1, 128), (8400, 1, 64), (8400, 2, 128), (12800, 1, 128), (10, 1, 64)],
    ids=["C4 in 8", "C4 in 2", "twice as many columns", "three quarters", "nothing to divide"],
)
def test_rows_are_divided_until_every_multiprocessor_has_work(rows: int, programs: int, left: int) -> None:
    assert lowered(Tile(128, 256, 64, 8, 2), rows, programs, 132).rows == left


@pytest.mark.parametrize(("count", "side"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (10**9, 256)])
def test_a_side_holds_the_count_in_a_power_of_two(count: int, side: int) -> None:
    assert choose("sm_90", "forward", 2, columns=count, inner=16).columns == side


def test_few_programs_of_the_offsets_gradient_take_half_the_locations() -> None:
    tile = Tile(128, 128, 64, 8, 3)
    assert shorter(tile, 33 * 9, 132).rows == 64  # C4 of 50 x 84 locations
    assert shorter(tile, 66 * 9, 132).rows == 128
    assert shorter(tile._replace(rows=64), 9, 132).rows == 64


def test_the_gradient_of_the_weight_may_take_fewer_channels_or_half_the_outputs() -> None:
    sides = [(tile.rows, tile.columns) for tile in narrower(Tile(256, 128, 64, 8, 2))]
    assert sides == [(256, 128), (256, 64), (256, 32), (128, 128), (128, 64), (128, 32)]
    assert narrower(Tile(32, 16, 16, 4, 1)) == [Tile(32, 16, 16, 4, 1)]


# 3x3 layers: channels and outputs, shares that memory allows; the tile's outputs and channels, and shares taken.
LAYERS = {
    "C3 batch 1": (128, 2, (128, 32, 2)),
    "C3 batch 8": (128, 23, (128, 128, 14)),
    "C4 batch 1": (256, 1, (256, 32, 1)),
    "C4 batch 8": (256, 3, (256, 64, 3)),
    "C4, no bound": (256, 32, (256, 128, 7)),
    "C5": (512, 1, (256, 128, 1)),
}


@pytest.mark.parametrize(("channels", "most", "expected"), LAYERS.values(), ids=LAYERS.keys())
def test_multiprocessors_get_work_by_shares_of_locations_or_by_fewer_channels(
    channels: int, most: int, expected: tuple[int, int, int]
) -> None:
    tiles = narrower(choose("sm_90", "weight", 2, columns=channels, inner=10**6, rows=channels))
    programs = [9 * -(-channels // tile.columns) * -(-channels // tile.rows) for tile in tiles]
    actual, parts = divide(tiles, programs, most, 132)
    assert (tiles[actual].rows, tiles[actual].columns, parts) == expected


@pytest.mark.parametrize(
    ("axes", "rows", "sides"),
    [(1, 64, (1, 1, 64)), (2, 64, (1, 4, 16)), (2, 16, (1, 4, 4)), (3, 64, (4, 4, 4)), (3, 16, (4, 4, 1))],
)
def test_a_patch_has_as_many_pixels_as_a_tile_has_rows(axes: int, rows: int, sides: tuple[int, int, int]) -> None:
    assert patch(axes, rows) == sides


@pytest.mark.parametrize(
    ("sides", "axes", "stride", "count"),
    [
        ((1, 4, 16), 2, (1, 1, 1), 128),  # 85 cells
        ((1, 4, 16), 2, (1, 2, 2), 32),
        ((1, 1, 64), 1, (1, 1, 1), 128),
        ((4, 4, 4), 3, (1, 1, 1), 128),
        ((4, 4, 4), 3, (2, 2, 2), 16),
    ],
)
def test_a_block_holds_the_samples_that_a_patch_gets_on_average(
    sides: tuple[int, int, int], axes: int, stride: tuple[int, int, int], count: int
) -> None:
    assert samples(sides, axes, stride) == count
