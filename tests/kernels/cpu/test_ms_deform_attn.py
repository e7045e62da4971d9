"""The CPU kernels of multi-scale deformable attention: instruction sets, widths around those of vectors, threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from dcn.kernels.cpu import _library
from dcn.kernels.cpu import ms_deform_attn as cpu
from dcn.kernels.reference import ms_deform_attn as reference
from tests.ops.attn_cases import Attn, make, output_gradient
from tests.ops.cases import TOLERANCE

pytestmark = pytest.mark.skipif(_library.reason() is not None, reason=str(_library.reason()))

# Numbers of channels around the widths of all vectors, and runs of four and two of them.
CHANNELS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65, 100]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# Numbers of samples of a query around them: the last vector is partly filled.
POINTS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17]
NEEDS = (True, True, True)

_OTHER_ISA = """
import sys
from dcn.kernels.cpu import _library
from tests.kernels.cpu.test_ms_deform_attn import *
assert _library.isa() == sys.argv[1], _library.isa()
for dtype in DTYPES:
    for channels in CHANNELS:
        compare(Attn(((3, 4), (2, 2)), batch=1, heads=2, channels=channels), dtype)
    for points in POINTS:
        compare(Attn(((3, 4),), batch=1, heads=2, points=points), dtype)
print("agrees")
"""


def compare(case: Attn, dtype: torch.dtype) -> None:
    """Output and gradients against those of the reference on the same numbers in float64."""
    args, grad = make(case, dtype=torch.float32).to(dtype), output_gradient(case, dtype)
    exact = args.to(torch.float64)
    actual = [cpu.forward(*args), *cpu.backward(grad, *args, NEEDS)]
    expected = [reference.forward(*exact), *reference.backward(grad.double(), *exact, NEEDS)]
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours is not None
        assert theirs is not None
        # Gradients of locations carry the factor of the level's size: up to one digit less.
        limit = TOLERANCE[dtype] * 10 * max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_any_number_of_channels(channels: int, dtype: torch.dtype) -> None:
    compare(Attn(((3, 4), (2, 2)), batch=1, heads=2, channels=channels), dtype)


@pytest.mark.parametrize("points", POINTS)
def test_any_number_of_points(points: int) -> None:
    compare(Attn(((3, 4),), batch=1, heads=2, points=points), torch.float64)


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_other_instruction_sets_agree_with_the_reference(isa: str) -> None:
    before = _library.isa()
    if _library.library().dcn_set_isa(isa.encode()) != 0:
        pytest.skip(f"this processor has no {isa}")
    _library.library().dcn_set_isa(before.encode())
    environment = {**os.environ, "DCN_CPU_ISA": isa}
    command = [sys.executable, "-c", _OTHER_ISA, isa]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "agrees", done.stderr


def test_every_instruction_set_takes_the_same_side_at_a_pixels_centre() -> None:
    """``location * width - 0.5`` rounds to a whole number everywhere or nowhere: all weights are 0 or 1, or none is."""
    height, width = 7, 11
    image = torch.zeros(1, height * width, 1, 4)
    image[0, :, 0, 0] = torch.arange(height * width)
    x, y = (torch.arange(n, dtype=torch.float32) for n in (width, height))
    locations = torch.stack(torch.meshgrid((x + 0.5) / width, (y + 0.5) / height, indexing="ij"), -1).view(
        1, -1, 1, 1, 1, 2
    )
    weights = torch.ones(locations.shape[:-1])
    call = (image, torch.tensor([[height, width]]), torch.tensor([0]), locations, weights)
    grad = torch.ones(1, locations.shape[1], 4)
    _, expected, _ = reference.backward(grad, *call, NEEDS)
    library, before = _library.library(), _library.isa()
    for isa in ("generic", "avx2", "avx512"):
        if library.dcn_set_isa(isa.encode()) == 0:
            _, actual, _ = cpu.backward(grad, *call, NEEDS)
            assert actual is not None
            assert expected is not None
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)
    library.dcn_set_isa(before.encode())


def test_few_and_many_threads_share_levels_alike() -> None:
    """With many heads per thread a task takes all levels of one, with few a single level: the bits are the same."""
    case = Attn(((9, 8), (5, 4), (2, 3)), heads=8, channels=8, queries=200)
    args, grad = make(case, dtype=torch.float32), output_gradient(case, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 5, 64):
            torch.set_num_threads(threads)
            results.append(cpu.backward(grad, *args, NEEDS))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert ours is not None
            assert theirs is not None
            assert torch.equal(ours, theirs)
