"""More than 2^31 elements in one tensor: addresses must be 64-bit numbers everywhere. About 14 GB, minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcn.ops import deform_conv2d, deform_roi_pool, ms_deform_attn, roi_align

_MORE = 2**31 + 2**20


def _available() -> float:
    """Gigabytes that can still be taken (Linux), else 0."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable")), 0.0)


def _needs(gigabytes: float) -> None:
    if _available() < gigabytes:
        pytest.skip(f"needs {gigabytes:g} GB of free memory, {_available():.1f} GB are there")


def _images(channels: int, height: int, width: int) -> int:
    return _MORE // (channels * height * width) + 1


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_deform_conv2d_reads_and_writes_beyond_2_31_elements(channels_last: bool) -> None:
    _needs(11)
    channels, height, width = 8, 1024, 2048
    batch = _images(channels, height, width)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(batch, channels, height, width, dtype=torch.bfloat16, memory_format=layout).zero_()
    torch.manual_seed(0)
    x[-1] = torch.randn(channels, height, width)
    weight, stride = torch.randn(4, channels, 3, 3).bfloat16().requires_grad_(), 64
    offset = torch.randn(batch, 18, height // stride, width // stride).mul(3).bfloat16().requires_grad_()
    x.requires_grad_()
    output = deform_conv2d(x, offset, weight, None, stride, 1, backend="cpu")
    output.sum().backward()
    last = [t.detach()[-1:].clone().requires_grad_() for t in (x, offset)]
    kernel = weight.detach().clone().requires_grad_()
    expected = deform_conv2d(last[0], last[1], kernel, None, stride, 1, backend="cpu")
    expected.sum().backward()
    assert torch.equal(output[-1:], expected)
    assert x.grad is not None
    assert offset.grad is not None
    assert last[0].grad is not None
    assert last[1].grad is not None
    assert torch.equal(x.grad[-1:], last[0].grad)
    assert torch.equal(offset.grad[-1:], last[1].grad)


def test_the_output_of_deform_conv2d_has_more_than_2_31_elements() -> None:
    _needs(9)
    size, outputs = 1024, 2100
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, size, size).bfloat16(), torch.randn(outputs, 2, 1, 1).bfloat16()
    offset = torch.randn(1, 2, size, size).bfloat16()
    output = deform_conv2d(x, offset, weight, backend="cpu")
    assert output.numel() > 2**31
    part = deform_conv2d(x, offset, weight[-16:], backend="cpu")
    assert torch.equal(output[:, -16:], part)


def test_roi_pooling_reads_beyond_2_31_elements() -> None:
    _needs(14)
    channels, height, width = 8, 1024, 2048
    batch = _images(channels, height, width)
    x = torch.empty(batch, channels, height, width, dtype=torch.bfloat16, memory_format=torch.channels_last).zero_()
    x[-1] = torch.randn(channels, height, width)
    boxes = torch.tensor([[batch - 1.0, 100.3, 50.2, 1900.7, 1000.1]])
    alone = torch.cat([torch.zeros(1, 1), boxes[:, 1:]], 1)
    assert torch.equal(roi_align(x, boxes, 7, backend="cpu"), roi_align(x[-1:], alone, 7, backend="cpu"))
    moved = torch.randn(1, 2, 7, 7)
    assert torch.equal(
        deform_roi_pool(x, boxes, moved, 7, backend="cpu"), deform_roi_pool(x[-1:], alone, moved, 7, backend="cpu")
    )


def test_ms_deform_attn_reads_and_writes_beyond_2_31_elements() -> None:
    _needs(14)
    heads, channels, levels = 8, 32, [(1024, 1024), (512, 512)]
    pixels = sum(height * width for height, width in levels)
    batch = _MORE // (heads * channels * pixels) + 1
    torch.manual_seed(0)
    value = torch.empty(batch, pixels, heads, channels, dtype=torch.bfloat16).zero_()
    value[-1] = torch.randn(pixels, heads, channels)
    locations = torch.rand(batch, 20, heads, 2, 4, 2).requires_grad_()
    weights = torch.rand(batch, 20, heads, 2, 4).bfloat16().requires_grad_()
    value.requires_grad_()
    output = ms_deform_attn(value, levels, None, locations, weights, backend="cpu")
    output.sum().backward()
    last = [t.detach()[-1:].clone().requires_grad_() for t in (value, locations, weights)]
    expected = ms_deform_attn(last[0], levels, None, last[1], last[2], backend="cpu")
    expected.sum().backward()
    assert torch.equal(output[-1:], expected)
    for whole, part in zip((value, locations, weights), last, strict=True):
        assert whole.grad is not None
        assert part.grad is not None
        assert torch.equal(whole.grad[-1:], part.grad)
