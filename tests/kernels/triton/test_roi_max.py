"""RoI max pooling in Triton against the plain PyTorch one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcn.kernels.reference import roi_max as reference
from dcn.kernels.triton import roi_max
from dcn.ops import roi_pool as operator
from tests.kernels.triton.test_roi_mean import ROIS, SIZE, WILD
from tests.ops.roi_cases import SCALE

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def make(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A map with many equal values, RoIs and a gradient of the output."""
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (2, 3, 9, 11), generator=random).to(dtype)
    grad = torch.randn(len(ROIS), 3, *SIZE, generator=random).to(dtype)
    return x.to(device), ROIS.to(device), grad.to(device)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients_are_those_of_the_reference(
    dtype: torch.dtype, channels_last: bool, device: torch.device
) -> None:
    x, rois, grad = make(dtype, device)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert roi_max.unsupported(x, rois, SIZE, SCALE) is None
    assert torch.equal(roi_max.forward(x, rois, SIZE, SCALE), reference.forward(x, rois, SIZE, SCALE))
    actual, expected = (module.backward(grad, x, rois, SIZE, SCALE) for module in (roi_max, reference))
    assert actual.stride() == x.stride()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_same_bits_in_deterministic_mode(device: torch.device) -> None:
    x, rois, grad = make(torch.float32, device)
    torch.use_deterministic_algorithms(True)
    try:
        actual = roi_max.backward(grad, x, rois, SIZE, SCALE)
        again = roi_max.backward(grad.flip(0), x, rois.flip(0), SIZE, SCALE)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(actual, again)
    torch.testing.assert_close(actual, reference.backward(grad, x, rois, SIZE, SCALE), rtol=1e-5, atol=1e-5)


def test_nan_and_infinity_in_the_map(device: torch.device) -> None:
    x, rois, _ = make(torch.float32, device)
    x[:, 0, :4], x[:, 1, 2:5, 3] = -torch.inf, torch.nan
    expected = reference.forward(x, rois, SIZE, SCALE)
    torch.testing.assert_close(roi_max.forward(x, rois, SIZE, SCALE), expected, rtol=0, atol=0, equal_nan=True)


def test_boxes_that_are_no_boxes(device: torch.device) -> None:
    x, *_ = make(torch.float32, device)
    actual = roi_max.forward(x, WILD.to(device), SIZE, SCALE)
    assert torch.equal(actual, reference.forward(x, WILD.to(device), SIZE, SCALE))
    assert not actual[:7].any()


@pytest.mark.parametrize(("images", "rois"), [(0, 0), (2, 0)], ids=["no-image", "no-roi"])
def test_nothing_to_do(images: int, rois: int, device: torch.device) -> None:
    x, boxes, grad = make(torch.float32, device)
    assert roi_max.forward(x[:images], boxes[:rois], SIZE, SCALE).shape == (0, 3, *SIZE)
    actual = roi_max.backward(grad[:rois], x[:images], boxes[:rois], SIZE, SCALE)
    assert actual.shape == (images, 3, 9, 11)
    assert not actual.any()


def test_the_operator_takes_it_by_name_and_under_autograd(device: torch.device) -> None:
    x, rois, grad = make(torch.float32, device)
    x.requires_grad_()
    actual = torch.autograd.grad(operator(x, rois, SIZE, SCALE, backend="triton"), x, grad)
    expected = torch.autograd.grad(operator(x, rois, SIZE, SCALE, backend="reference"), x, grad)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
