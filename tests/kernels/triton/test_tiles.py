"""Tile tables: complete, within what the matrix units take, and narrowed to the problem."""

from __future__ import annotations

import pytest

from dcn.kernels.triton._tiles import TABLES, Tile, choose, patch, samples, spread, table

KERNELS = ("forward", "offset", "input", "weight", "depthwise")


@pytest.mark.parametrize("generation", [*TABLES, "sm_120", "gfx1100"])
def test_a_table_has_every_kernel_and_size_in_powers_of_two(generation: str) -> None:
    found = table(generation)
    assert set(found) == {(kernel, size) for kernel in KERNELS for size in (2, 4, 8)}
    numbers = [number for tile in found.values() for number in (tile.rows, tile.columns, tile.inner)]
    assert all(number >= 16 and number.bit_count() == 1 for number in numbers)


def test_a_tile_is_no_wider_than_the_problem_and_no_narrower_than_the_matrix_units() -> None:
    assert choose("sm_90", "forward", 2, columns=100, inner=3) == Tile(64, 128, 16, 8, 2)
    assert choose("sm_90", "weight", 2, columns=9, inner=40, rows=20) == Tile(32, 16, 64, 8, 2)


def test_columns_are_divided_until_every_multiprocessor_has_work() -> None:
    tile = Tile(64, 256, 64, 8, 2)
    assert spread(tile, 256, 132, 132).columns == 256
    assert spread(tile, 256, 66, 132).columns == 128  # C4 of 50 x 84 places
    assert spread(tile, 512, 17, 132).columns == 64  # C5 of 25 x 42 places


@pytest.mark.parametrize(("count", "side"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (10**9, 256)])
def test_a_side_holds_the_count_in_a_power_of_two(count: int, side: int) -> None:
    assert choose("sm_90", "forward", 2, columns=count, inner=16).columns == side


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
