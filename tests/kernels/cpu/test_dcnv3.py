"""The CPU kernels of DCNv3 and DCNv4: instruction sets, threads, blocks of awkward sizes, memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from dcn.kernels.cpu import _library, dcnv3
from dcn.kernels.dcnv3_geometry import Geometry
from dcn.kernels.reference import dcnv3 as reference
from tests.ops.cases import close
from tests.ops.dcnv3_cases import CASES, Case, gradients, run_v3, run_v4

pytestmark = pytest.mark.skipif(_library.reason() is not None, reason=str(_library.reason()))

# Numbers of channels per group around the widths of all vectors, and runs of four and two of them.
DEPTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65, 100]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

_OTHER_ISA = """
import sys
from dcn.kernels.cpu import _library
from tests.kernels.cpu.test_dcnv3 import *
assert _library.isa() == sys.argv[1], _library.isa()
for depth in DEPTHS:
    for dtype in DTYPES:
        compare(Case((4, 5), groups=2, depth=depth, batch=1, softmax=depth % 2 == 0), dtype)
print("agrees")
"""


def compare(case: Case, dtype: torch.dtype) -> None:
    """Output and gradients against those of the reference on the same numbers in float64."""
    tensors = case.tensors(dtype)
    actual = gradients(lambda t: run_v3(case, t, "cpu"), tensors)
    expected = gradients(lambda t: run_v3(case, t, "reference"), [t.double() for t in tensors])
    for a, b in zip(actual, expected, strict=True):
        close(a, b, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("depth", DEPTHS)
def test_any_number_of_channels(depth: int, dtype: torch.dtype) -> None:
    compare(Case((4, 5), groups=2, depth=depth, batch=1, softmax=depth % 2 == 0), dtype)


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_other_instruction_sets_agree_with_the_reference(isa: str) -> None:
    before = _library.isa()
    if _library.library().dcn_set_isa(isa.encode()) != 0:
        pytest.skip(f"this processor has no {isa}")
    _library.library().dcn_set_isa(before.encode())
    environment = {**os.environ, "DCN_CPU_ISA": isa}
    command = [sys.executable, "-c", _OTHER_ISA, isa]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "agrees", done.stderr


LARGE = {
    "one-block-is-not-enough": Case((31, 17), groups=3, depth=2, batch=2),
    "more-taps-than-a-block": Case((21, 20), (19, 19), padding=(9, 9), groups=1, depth=1, batch=1),
    "more-groups-than-a-block": Case((2, 3), groups=101, depth=1, batch=2, softmax=True),
}


@pytest.mark.parametrize("name", LARGE)
def test_calls_of_many_blocks(name: str) -> None:
    compare(LARGE[name], torch.float64)


MANY = {
    "stripes": Case((150, 130), groups=1, depth=16, batch=1, softmax=True),
    "groups": Case((60, 50), groups=7, depth=16, batch=2),
    "few-rows": Case((3, 3000), groups=1, depth=33, batch=1),
}


@pytest.mark.parametrize("threads", [2, 3, 6, 64])
@pytest.mark.parametrize("name", MANY)
def test_the_same_bits_for_any_number_of_threads(name: str, threads: int) -> None:
    """Enough work for ten threads: small calls are done by one. Six of them have one copy of a map each, not two."""
    before, tensors = torch.get_num_threads(), MANY[name].tensors(torch.float32)
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            results.append(gradients(lambda t: run_v4(MANY[name], t, "cpu"), tensors))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_infinite_numbers_spread_alike_for_any_number_of_threads() -> None:
    """One thread works on copies of maps between zeros, 64 on the map itself."""
    case, before = MANY["groups"], torch.get_num_threads()
    tensors = case.tensors(torch.float32)
    for tensor, step in zip(tensors, (9973, 9967, 9949), strict=True):  # primes: of different taps
        tensor.flatten()[::step] = math.inf
        tensor.flatten()[step // 2 :: step] = math.nan
    results = []
    try:
        for count in (1, 64):
            torch.set_num_threads(count)
            results.append(gradients(lambda t: run_v3(case, t, "cpu"), tensors))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert a.isnan().any()
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_positions_round_as_in_the_reference() -> None:
    """Offsets that lead to one rounding beside an edge: a fused multiply-add would decide otherwise there."""
    geometry = Geometry((1, 3), (1, 1), (0, 1), (1, 1), 1, 0.3, False, False)
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(1, 1, 5, 1, generator=generator)
    # centre + 0.3 * (shift + offset) = -1 for the first location and tap, within a few roundings.
    exact = torch.tensor([(-1 - 0) / 0.3 + 1])
    steps = torch.arange(-40, 40, dtype=torch.int32)
    near = (exact.view(torch.int32) + steps).view(torch.float32)
    mask = torch.ones(1, 1, 5, 3)
    for value in near:
        offset = torch.zeros(1, 1, 5, 6)
        offset[0, 0, 0, 0] = value
        grad = torch.ones(1, 1, 5, 1)
        ours = dcnv3.backward(grad, input, offset, mask, geometry, (True, True, True))
        theirs = reference.backward(grad, input, offset, mask, geometry, (True, True, True))
        for a, b in zip(ours, theirs, strict=True):
            assert a is not None
            assert b is not None
            close(a, b, torch.float32)


def test_an_image_of_too_many_pixels_is_refused_with_a_reason() -> None:
    case = CASES["3x3"]
    _, offset, mask = case.tensors()
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 2, 1.0, False, False)
    huge = torch.empty(1).expand(1, 2**15, 2**14, 6)
    assert "too large" in str(dcnv3.unsupported(huge, offset, mask, geometry))
