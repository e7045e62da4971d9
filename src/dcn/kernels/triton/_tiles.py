"""Tile tables of deformable convolution: what a program computes at once, per generation of devices.

The numbers follow from the compiler's reports (registers without spills, shared memory below the limit of a
multiprocessor); no row has been measured on a card yet. ``python -m benchmarks.gpu --suite tune`` sweeps around them.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

_SMALLEST = 16  # what tl.dot takes along every axis
_NARROWEST = 64  # columns below which more programs are not worth sampling again
_LOWEST = 64  # rows below which the matrix units of sm_90 are not full
_FEWEST_CHANNELS = 32  # columns of the gradient of the weight: their samples are made once, however narrow they are
_LOCATION_COST = 24  # what finding the samples of a location costs, in channels of it to read and multiply
_SHARE_COST = 0.01  # of the whole, for writing a share and reading it again


class Tile(NamedTuple):
    """What a program works on, and how.

    Attributes:
        rows: locations of a map, a patch of pixels for the gradient of the input, outputs for that of the weight.
        columns: outputs in the forward kernel, channels in the others.
        inner: terms of the product per step: channels forward, outputs backward, locations for that of the weight.
        warps: warps of a program.
        stages: depth of the software pipeline of loads.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


# By kernel and bytes of an element: 2 half, 4 float32, 8 float64.
Table = dict[tuple[str, int], Tile]

_LARGE: Table = {
    ("forward", 2): Tile(128, 256, 64, 8, 2),
    ("forward", 4): Tile(64, 128, 32, 8, 2),
    ("forward", 8): Tile(32, 32, 16, 4, 1),
    ("offset", 2): Tile(128, 128, 64, 8, 3),
    ("offset", 4): Tile(64, 64, 32, 8, 2),
    ("offset", 8): Tile(16, 32, 16, 4, 1),
    ("input", 2): Tile(64, 256, 64, 4, 2),
    ("input", 4): Tile(32, 128, 32, 4, 2),
    ("input", 8): Tile(32, 32, 16, 4, 1),
    ("weight", 2): Tile(256, 128, 64, 8, 2),
    ("weight", 4): Tile(128, 128, 32, 8, 2),
    ("weight", 8): Tile(16, 32, 32, 4, 1),
    ("depthwise", 2): Tile(32, 64, 32, 4, 2),
    ("depthwise", 4): Tile(32, 64, 32, 4, 2),
    ("depthwise", 8): Tile(16, 64, 16, 4, 1),
}
"""227 KiB of shared memory, matrix instructions of 64 rows: H100, H200, B200.

Forward, 64 x 256 tiles would read 32 KiB of weights for every 512 cycles of the matrix units, 64 bytes a cycle, where
the second-level cache gives a multiprocessor about 40. With 128 rows it is half of that, and two stages are enough.

The gradient of the input has two products in a chain, which the compiler divides among warps by rows: 64 rows are work
for 4 warps, and 8 would do the first product twice. Two such programs share a multiprocessor. In float32, 64 rows would
spill.
"""

_SMALL: Table = {
    ("forward", 2): Tile(64, 128, 64, 4, 2),
    ("forward", 4): Tile(64, 64, 32, 8, 2),
    ("offset", 2): Tile(64, 64, 64, 4, 2),
    ("offset", 4): Tile(32, 64, 32, 4, 2),
    ("input", 2): Tile(64, 128, 64, 4, 2),
    ("input", 4): Tile(32, 64, 32, 4, 2),
    ("weight", 2): Tile(128, 64, 64, 8, 2),
    ("weight", 4): Tile(64, 64, 32, 4, 2),
    **{key: tile for key, tile in _LARGE.items() if key[1] == 8 or key[0] == "depthwise"},
}
"""99 KiB: the desktop cards of the 30, 40 and 50 series and all that is not in the table. With 4 warps the float32
tile of forward would spill."""

_AMPERE: Table = _LARGE | {
    ("forward", 2): Tile(64, 256, 64, 8, 2),
    ("forward", 4): _SMALL["forward", 4],
    ("offset", 2): Tile(64, 128, 64, 8, 2),
    ("offset", 4): Tile(32, 64, 32, 8, 2),
    ("weight", 2): Tile(128, 128, 64, 8, 2),
    ("weight", 4): _SMALL["weight", 4],
}
"""163 KiB, matrix instructions of 16 rows: A100. The larger tiles would spill registers."""

_CDNA: Table = {key: tile._replace(columns=min(tile.columns, 64), inner=32, stages=1) for key, tile in _SMALL.items()}
"""64 KiB and warps of 64 threads: AMD Instinct."""

_INTERPRETER: Table = {
    (kernel, size): Tile(32, 16, 16, 4, 1)
    for kernel in ("forward", "offset", "input", "weight", "depthwise")
    for size in (2, 4, 8)
}
TABLES: dict[str, Table] = {
    "sm_80": _AMPERE,
    "sm_86": _SMALL,
    "sm_89": _SMALL,
    "sm_90": _LARGE,
    "sm_100": _LARGE,
    "sm_120": _SMALL,
    "gfx90a": _CDNA,
    "gfx942": _CDNA,
    "gfx950": _CDNA,
    "interpreter": _INTERPRETER,
}
"""One table per generation."""


def table(generation: str) -> Table:
    """The table of a generation; one that every card can hold for a generation without its own."""
    return TABLES.get(generation, _CDNA if generation.startswith("gfx") else _SMALL)


def choose(generation: str, kernel: str, itemsize: int, *, columns: int, inner: int, rows: int | None = None) -> Tile:
    """The tile of a kernel, no wider than the problem.

    Args:
        generation: as named by ``_runtime.generation``.
        kernel: ``"forward"``, ``"offset"``, ``"input"`` or ``"weight"``; ``"depthwise"`` for all four.
        itemsize: bytes of an element.
        columns: how many there are.
        inner: length of one run of the product.
        rows: how many there are; None for many.
    """
    tile = table(generation)[kernel, itemsize]
    return tile._replace(
        rows=tile.rows if rows is None else _narrowed(tile.rows, rows),
        columns=_narrowed(tile.columns, columns),
        inner=_narrowed(tile.inner, inner),
    )


def _narrowed(side: int, count: int) -> int:
    """The least side that holds ``count``, no wider than ``side``. Only comparisons: ``count`` may be a symbol."""
    found = _SMALLEST
    while found < side and found < count:
        found *= 2
    return found


def halved(tile: Tile, whole: Tile) -> Tile:
    """Half the rows and half the warps for a tile that needs at most half of the columns of ``whole``.

    Two such programs share a multiprocessor and wait at different times; a thread has as much to do as before.
    """
    if 2 * tile.columns > whole.columns or tile.rows <= _LOWEST or tile.warps < 8:
        return tile
    return tile._replace(rows=tile.rows // 2, warps=tile.warps // 2)


def lowered(tile: Tile, rows: int, programs: int, multiprocessors: int) -> Tile:
    """Fewer rows while a launch would leave a quarter of the device idle: no sample is made twice for it.

    Args:
        tile: as :func:`choose` gave it.
        rows: how many there are.
        programs: for each block of rows.
        multiprocessors: of the device.
    """
    while tile.rows > _LOWEST and _idle(programs * -(-rows // tile.rows), multiprocessors):
        tile = tile._replace(rows=tile.rows // 2)
    return tile


def _idle(programs: int, multiprocessors: int) -> bool:
    """Whether a quarter of the device or more has nothing to do; 128 programs on 132 are no reason to sample twice."""
    return 4 * programs <= 3 * multiprocessors


def spread(tile: Tile, columns: int, programs: int, multiprocessors: int) -> Tile:
    """Narrower columns while a launch would leave a quarter of the device idle.

    Samples are then made again for every block of columns, by programs that had nothing to do otherwise: the 50 x 84
    locations of C4 are 66 blocks of 64, on 132 multiprocessors.

    Args:
        tile: as :func:`choose` gave it.
        columns: how many there are.
        programs: of a launch with one block of columns.
        multiprocessors: of the device.
    """
    while tile.columns > _NARROWEST and _idle(programs * -(-columns // tile.columns), multiprocessors):
        tile = tile._replace(columns=tile.columns // 2)
    return tile


def shorter(tile: Tile, programs: int, multiprocessors: int) -> Tile:
    """Half the locations for the gradient of the offset where programs are few: the last leave less of the card idle.

    Weights are then read twice as often: ``programs`` of the whole tile beyond four for each multiprocessor keep it.
    """
    few = tile.rows > _NARROWEST and programs < 4 * multiprocessors
    return tile._replace(rows=tile.rows // 2) if few else tile


def narrower(tile: Tile) -> list[Tile]:
    """The tile of the gradient of the weight, those with fewer channels, and all of them with half the outputs."""
    found = [tile]
    while found[-1].columns > _FEWEST_CHANNELS:
        found.append(found[-1]._replace(columns=found[-1].columns // 2))
    return found + [each._replace(rows=each.rows // 2) for each in found if each.rows > _NARROWEST]


def divide(tiles: list[Tile], programs: list[int], most: int, multiprocessors: int) -> tuple[int, int]:
    """Which tile, and into how many shares the locations are divided, so that the weight's gradient is soonest there.

    A step of a program costs about as much as its channels and ``_LOCATION_COST`` more, by the instructions that the
    compiler makes: 956 of 128 channels by 256 outputs, 605 of 64, 444 of 32, on 64 locations; outputs cost next to
    nothing until the matrix units are full. What counts is the multiprocessor with most programs.

    Args:
        tiles: to choose from, the best first among equals.
        programs: of each tile for one share.
        most: shares that memory allows.
        multiprocessors: of the device.
    """

    def cost(choice: tuple[int, int]) -> float:
        index, parts = choice
        busiest = -(-programs[index] * parts // multiprocessors)
        return busiest * (tiles[index].columns + _LOCATION_COST) * (1 / parts + _SHARE_COST)

    return min(((index, parts) for index in range(len(tiles)) for parts in range(1, most + 1)), key=cost)


def patch(axes: int, rows: int) -> tuple[int, int, int]:
    """Depth, height and width of a patch of so many pixels.

    Four rows of pixels touch five rows of cells, whose lists are read one by one; 64 pixels touch 85 cells, and 81 if
    the patch were a square.
    """
    heights = (1, 1) if axes == 1 else (1, 4) if axes == 2 else (4, 4)
    return *heights, rows // prod(heights)


def samples(sides: tuple[int, int, int], axes: int, stride: tuple[int, int, int]) -> int:
    """How many samples of a tap are taken at once: a power of two that holds those which a patch gets on average."""
    cells = prod(side + 1 for side in sides[3 - axes :])
    found = _SMALLEST
    while found * prod(stride) < cells:
        found *= 2
    return found
