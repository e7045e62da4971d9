"""How evenly the passes of deformable convolutions are shared out, for more threads than this machine may have.

The library goes through its own bands, passes and pieces and adds up the multiplications of every task instead of doing
them, each task being taken by the thread that is free first.
"""

from __future__ import annotations

import ctypes

import pytest
import torch

from dcn.kernels.cpu import _library
from dcn.kernels.cpu import deform_conv as cpu

LAYERS = {
    "C2": (1, 64, 200, 334, 1),
    "C3-first": (1, 128, 200, 334, 2),
    "C3": (1, 128, 100, 167, 1),
    "C4-first": (1, 256, 100, 167, 2),
    "C4": (1, 256, 50, 84, 1),
    "C5-first": (1, 512, 50, 84, 2),
    "C5": (1, 512, 25, 42, 1),
    "C3-of-4-images": (4, 128, 100, 167, 1),
    "C5-of-4-images": (4, 512, 25, 42, 1),
}
"""The 3x3 layers of ResNet-50 on an image of 800x1333: batch, channels, height, width, stride."""


def _over_mean(
    layer: tuple[int, int, int, int, int], depthwise: bool, threads: list[int], backward: bool = False
) -> list[float]:
    """The time of the pass over that of an even share, for every number of threads."""
    batch, channels, height, width, stride = layer
    out = [(size - 1) // stride + 1 for size in (height, width)]
    random = torch.Generator().manual_seed(0)
    input, output = torch.empty(batch, channels, height, width), torch.empty(batch, channels, *out)
    offset = torch.randn(batch, 18, *out, generator=random) * 2
    weight = torch.empty(channels, 1 if depthwise else channels, 3, 3)
    given = (input.data_ptr(), offset.data_ptr(), 0, weight.data_ptr(), 0)
    grads = [torch.empty_like(tensor) for tensor in (input, offset, weight)]
    wanted = (output.data_ptr(), 0, *(grad.data_ptr() for grad in grads), 0)
    pointers = (*given, *wanted) if backward else (*given, 0, output.data_ptr(), 0, 0, 0, 0)
    function = _library.library().dcn_deform_conv_shares
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    results = []
    for count in threads:
        shapes = (input.shape, offset.shape, weight.shape)
        steps = (cpu._steps(input), cpu._steps(offset), cpu._NO_STEPS, cpu._steps(output))
        rule = ((stride,) * 2, (1, 1), (1, 1), False)
        fields = cpu._fields(*shapes, steps, (0, 0, 0), rule, count)
        result = ctypes.c_double()
        assert function(cpu._POINTERS.pack(*pointers) + fields, ctypes.byref(result)) == 0
        results.append(result.value)
    return results


@pytest.mark.parametrize("name", LAYERS)
def test_no_thread_has_a_tenth_more_than_the_mean(name: str) -> None:
    shares = _over_mean(LAYERS[name], False, list(range(1, 65)))
    assert shares[0] == pytest.approx(1.0)
    assert max(shares) < 1.1


@pytest.mark.parametrize("name", LAYERS)
def test_the_backward_pass_is_shared_as_evenly(name: str) -> None:
    """Blocks of 16 channels where they come out even, else parts of their products and stripes of the gradient."""
    assert max(_over_mean(LAYERS[name], False, list(range(1, 65)), backward=True)) < 1.1


@pytest.mark.parametrize("name", [name for name in LAYERS if "first" not in name])
def test_depthwise_layers_are_shared_evenly_too(name: str) -> None:
    """A small map of many channels is the least even: to share them, its samples are prepared again."""
    assert max(_over_mean(LAYERS[name], True, list(range(1, 65)))) < 1.1


ROUNDS_OF_FOUR = range(1, 5)
"""No more threads than blocks of 16 channels at a time: four of 64 channels, or as few as memory leaves."""


@pytest.mark.parametrize("name", LAYERS)
def test_depthwise_blocks_become_chains_where_they_do_not_come_out_even(name: str) -> None:
    """Three threads and four blocks: a thread without a block takes the next tiles of one that rests."""
    assert max(_over_mean(LAYERS[name], True, list(ROUNDS_OF_FOUR), backward=True)) < 1.1


@pytest.mark.parametrize("name", LAYERS)
def test_more_threads_than_depthwise_blocks_divide_them_before_they_cost_twice_the_mean(name: str) -> None:
    """To divide a block finely takes 1.5 to 1.7 times as long, so up to there a thread may rest instead."""
    assert max(_over_mean(LAYERS[name], True, list(range(5, 65)), backward=True)) < 1.75
