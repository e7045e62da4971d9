"""The Triton kernels of deformable convolution against the plain PyTorch ones in float64.

Without a GPU they run in Triton's interpreter, on the smallest shapes that have a second block along every axis; on a
machine with a GPU the same tests run on the card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import pytest
import torch
from torch import Tensor

from dcn.kernels.reference import deform_conv as reference
from dcn.kernels.triton import _deform_conv_call, _runtime, _tiles, deform_conv
from dcn.ops import deform_conv2d

# Largest error over largest value, against float64. float32: sums in another order; half: samples and results are each
# rounded once (2^-12, 2^-9), and the interpreter cuts bfloat16 off instead of rounding it: twice the error.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 1e-3}
TOLERANCE[torch.bfloat16] = 1.6e-2 if _runtime.interpreted() else 8e-3
NEEDS = (
    (True, False, False, False),
    (False, True, False, False),
    (False, False, True, False),
    (False, False, False, True),
)
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Case:
    channels: int = 4
    outputs: int = 3
    size: tuple[int, ...] = (4, 5)
    kernel: tuple[int, ...] = (1, 2)
    batch: int = 2
    groups: int = 1
    offset_groups: int = 1
    stride: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    spread: float = 1.5
    mask: bool = True
    boundary: str = "v2"
    channels_last: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]:
        return self.stride, tuple(k // 2 for k in self.kernel), self.dilation, self.boundary

    @property
    def out(self) -> tuple[int, ...]:
        axes = zip(self.size, self.kernel, self.stride, self.dilation, strict=True)
        return tuple((size + 2 * (k // 2) - d * (k - 1) - 1) // s + 1 for size, k, s, d in axes)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """input, offset, weight, bias, mask, grad_output."""
        random = torch.Generator().manual_seed(0)

        def make(*shape: int) -> Tensor:
            tensor = torch.randn(*shape, generator=random, dtype=torch.float64).to(self.dtype)
            reorder = self.channels_last and len(shape) > 2
            return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if reorder else tensor

        taps = prod(self.kernel) * self.offset_groups
        return (
            make(self.batch, self.channels, *self.size),
            make(self.batch, taps * len(self.size), *self.out) * self.spread,
            make(self.outputs, self.channels // self.groups, *self.kernel),
            make(self.outputs),
            make(self.batch, taps, *self.out) if self.mask else None,
            make(self.batch, self.outputs, *self.out),
        )


# Interpreted tiles are 32 locations, 16 columns, 16 terms: 2 x 24 locations, 17 channels, 18 outputs go beyond each.
CASES = {
    "many-blocks": Case(channels=17, outputs=18),
    "many-blocks-even": Case(channels=32, outputs=32, batch=1, kernel=(1, 1), channels_last=True, mask=False),
    # 11 rows are a strip of 8 and one of 3, in each of two images; 2 x 33 locations end within a block.
    "patches": Case(channels=8, outputs=4, size=(11, 3), kernel=(2, 1), channels_last=True, spread=3.0),
    "many-patches": Case(size=(6, 11), batch=1),  # interpreted patches are 4 x 8 pixels, 32, or 4 x 4 x 2
    "many-taps": Case(size=(3, 3), kernel=(3, 6), batch=1, channels=2, outputs=2),  # lists are counted 16 taps at once
    "v1": Case(boundary="v1", size=(3, 4)),
    "strided": Case(kernel=(3, 2), stride=(2, 1), dilation=(1, 2), size=(5, 4), batch=1),
    "integer-offsets": Case(spread=0.0, boundary="v1", size=(3, 4)),
    "one-axis": Case(size=(40,), kernel=(3,), stride=(1,), dilation=(1,)),
    "one-axis-v1": Case(size=(20,), kernel=(3,), stride=(1,), dilation=(1,), boundary="v1"),
    "three-axes": Case(size=(2, 3, 3), kernel=(2, 1, 1), stride=(1, 1, 1), dilation=(1, 1, 1), batch=1),
    "three-axes-v1": Case(
        size=(3, 3, 3),
        kernel=(1, 1, 2),
        stride=(1, 1, 1),
        dilation=(1, 1, 1),
        batch=1,
        boundary="v1",
        channels_last=True,
    ),
    "float64": Case(dtype=torch.float64, mask=False),
    "float16": Case(dtype=torch.float16),
    "bfloat16": Case(dtype=torch.bfloat16),
    "bfloat16-channels-last": Case(dtype=torch.bfloat16, channels_last=True),
    "groups": Case(channels=12, outputs=6, groups=3, offset_groups=2, size=(3, 4)),
    "wide-groups": Case(channels=68, outputs=66, groups=2, offset_groups=2, size=(2, 3), kernel=(1, 1), batch=1),
    "straddling-groups": Case(  # a group's 44 channels belong to two offset groups: 22 of each
        channels=132, outputs=3, groups=3, offset_groups=2, size=(2, 3), kernel=(1, 1), batch=1
    ),
    # Two groups of 48 channels lie in three offset groups of 32: 32 and 16 channels of each are whole blocks.
    "uneven-runs": Case(channels=96, outputs=32, groups=2, offset_groups=3, size=(3, 4), kernel=(1, 1), batch=1),
    # A block of 16 channels from 36 on feeds two groups.
    "crossing-groups": Case(channels=144, outputs=60, groups=3, offset_groups=4, size=(2, 3), kernel=(1, 1), batch=1),
    "depthwise": Case(channels=6, outputs=6, groups=6, offset_groups=2, size=(3, 4)),
    "depthwise-many-blocks": Case(channels=18, outputs=18, groups=18, size=(3, 4), batch=3, kernel=(1, 1)),
    "depthwise-channels-last": Case(channels=16, outputs=16, groups=16, channels_last=True, size=(3, 4), batch=1),
    "depthwise-two-outputs": Case(channels=4, outputs=8, groups=4, dtype=torch.float64, size=(3, 4)),
}


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _expected(case: Case) -> tuple[Tensor, Gradients]:
    x, offset, weight, bias, mask, grad = (_double(tensor) for tensor in case.tensors())
    assert x is not None
    assert offset is not None
    assert weight is not None
    assert grad is not None
    needs = (True, True, True, case.mask)
    output = reference.forward(x, offset, weight, bias, mask, *case.geometry)
    return output, reference.backward(grad, x, offset, weight, mask, *case.geometry, needs)


def _moved(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    x, offset, weight, bias, mask, grad = case.tensors()
    mask = None if mask is None else mask.to(device)
    return x.to(device), offset.to(device), weight.to(device), bias.to(device), mask, grad.to(device)


def _forward(case: Case, device: torch.device) -> Tensor:
    x, offset, weight, bias, mask, _ = _moved(case, device)
    assert deform_conv.unsupported(x, offset, weight, bias, mask, *case.geometry) is None
    return deform_conv.forward(x, offset, weight, bias, mask, *case.geometry)


def _backward(case: Case, device: torch.device, needs: tuple[bool, bool, bool, bool] | None = None) -> Gradients:
    x, offset, weight, _, mask, grad = _moved(case, device)
    needs = needs or (True, True, True, case.mask)
    return deform_conv.backward(grad, x, offset, weight, mask, *case.geometry, needs)


def _error(actual: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max().clamp_min(1e-30)
    return float((actual.cpu().double() - expected).abs().max() / scale)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "offset_groups", "forward", "weight"),
    [
        (64, 64, 1, 4, True, True),
        (96, 32, 2, 3, False, False),  # groups cross the border of an offset group
        (96, 96, 3, 1, False, True),  # two groups share a tile forward, and the third has one alone
        (48, 64, 2, 1, True, False),  # a block of 16 channels from 16 on feeds both groups
        (128, 128, 4, 2, True, True),
    ],
    ids=["offset groups", "crossing", "last one alone", "merged", "whole"],
)
def test_only_whole_blocks_are_read_without_a_mask(
    channels: int, outputs: int, groups: int, offset_groups: int, forward: bool, weight: bool, device: torch.device
) -> None:
    case = Case(channels, outputs, (4, 4), (1, 1), groups=groups, offset_groups=offset_groups, mask=False)
    x, offset, kernel, _, mask, _ = _moved(case, device)
    call, _ = _deform_conv_call.describe(x, offset, kernel, mask, *case.geometry)
    assert deform_conv._forward_plan(call).variant["EVEN"] == forward
    assert deform_conv._weight_plan(call)[0].variant["EVEN_OUTPUTS"] == weight


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values_and_gradients_agree_with_the_reference(case: Case, device: torch.device) -> None:
    expected, gradients = _expected(case)
    output = _forward(case, device)
    x, offset, weight, _, mask, grad = case.tensors()
    assert (output.dtype, output.stride()) == (case.dtype, grad.stride())
    assert _error(output, expected) < TOLERANCE[case.dtype]
    answer = _backward(case, device)
    assert answer[0] is not None
    assert answer[0].stride() == x.stride()
    for ours, theirs, of in zip(answer, gradients, (x, offset, weight, mask), strict=True):
        if ours is None or theirs is None or of is None:
            assert ours is theirs is None
            continue
        assert (ours.dtype, ours.shape) == (of.dtype, of.shape)
        assert _error(ours, theirs) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
def test_sixty_four_bit_addresses_change_nothing(
    channels_last: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(channels_last=channels_last, size=(3, 4))
    narrow = [_forward(case, device), *_backward(case, device)]
    monkeypatch.setattr(_deform_conv_call, "_NARROW", 0)
    deform_conv.forget_plans()
    wide = [_forward(case, device), *_backward(case, device)]
    deform_conv.forget_plans()
    assert all(_same(a, b) for a, b in zip(narrow, wide, strict=True))


@pytest.mark.parametrize("needs", NEEDS, ids=["input", "offset", "weight", "mask"])
def test_a_gradient_alone_is_the_same_as_with_the_others(
    needs: tuple[bool, bool, bool, bool], device: torch.device
) -> None:
    case = Case(size=(3, 4), batch=1)
    alone, together = _backward(case, device, needs), _backward(case, device)
    assert [grad is not None for grad in alone] == list(needs)
    assert all(_same(a, b) for a, b, need in zip(alone, together, needs, strict=True) if need)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30, 3e9], ids=str)
@pytest.mark.parametrize("boundary", ["v1", "v2"])
def test_wild_offsets_sample_nothing(value: float, boundary: str, device: torch.device) -> None:
    case = Case(mask=False, boundary=boundary, size=(2, 3), batch=1)
    x, offset, weight, bias, _, grad = _moved(case, device)
    wild = torch.full_like(offset, value)
    output = deform_conv.forward(x, wild, weight, bias, None, *case.geometry)
    assert torch.equal(output, bias.reshape(1, -1, 1, 1).expand_as(output))
    grads = deform_conv.backward(grad, x, wild, weight, None, *case.geometry, (True, True, True, False))
    assert [None if g is None else bool(g.any()) for g in grads] == [False, False, False, None]


def test_an_infinite_value_outside_the_taps_does_not_spread(device: torch.device) -> None:
    """A corner outside the image counts as 0, it is not read as 0 times some other location."""
    x = torch.ones(1, 16, 4, 4, device=device)
    x[..., 3, 0] = float("inf")  # the row below it is outside
    offset = torch.zeros(1, 2, 4, 4, device=device)
    offset[:, 1] = 0.5  # halfway to the right neighbour; the last column reads outside
    weight = torch.ones(1, 16, 1, 1, device=device)
    output = deform_conv.forward(x, offset, weight, None, None, (1, 1), (0, 0), (1, 1), "v2")
    assert output[0, 0, 3].tolist() == [float("inf"), 16.0, 16.0, 8.0]


def test_a_mask_of_nan_propagates(device: torch.device) -> None:
    case = Case(size=(3, 4), batch=1)
    x, offset, weight, bias, mask, _ = _moved(case, device)
    assert mask is not None
    mask[0, 1, 2, 3] = float("nan")
    output = deform_conv.forward(x, offset, weight, bias, mask, *case.geometry)
    assert output.isnan().nonzero()[:, [0, 2, 3]].unique(dim=0).tolist() == [[0, 2, 3]]


@pytest.mark.parametrize("how", ["transposed", "strided", "slice-of-channels", "other-format"])
def test_memory_layout_does_not_matter(how: str, device: torch.device) -> None:
    case = Case(size=(3, 4), batch=1)
    x, offset, weight, bias, mask, grad = _moved(case, device)
    assert mask is not None
    plain = _results(case, x, offset, weight, bias, mask, grad)
    x, offset, weight, mask, grad = (_permuted(tensor, how) for tensor in (x, offset, weight, mask, grad))
    changed = _results(case, x, offset, weight, bias, mask, grad)
    for a, b in zip(plain, changed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_an_axis_of_one_location_has_any_stride(device: torch.device) -> None:
    case = Case(size=(9, 1), kernel=(1, 1), batch=1)
    x, offset, weight, bias, mask, grad = _moved(case, device)
    assert mask is not None
    odd = [torch.empty_strided(t.shape, (*t.stride()[:3], 7), dtype=t.dtype, device=device) for t in (x, offset, mask)]
    for strange, tensor in zip(odd, (x, offset, mask), strict=True):
        strange.copy_(tensor)
    plain = _results(case, x, offset, weight, bias, mask, grad)
    for a, b in zip(plain, _results(case, odd[0], odd[1], weight, bias, odd[2], grad), strict=True):
        assert torch.equal(a, b)


def _results(
    case: Case, x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, grad: Tensor
) -> list[Tensor]:
    gradients = deform_conv.backward(grad, x, offset, weight, mask, *case.geometry, (True, True, True, True))
    output = deform_conv.forward(x, offset, weight, bias, mask, *case.geometry)
    return [output, *(gradient for gradient in gradients if gradient is not None)]


def _permuted(tensor: Tensor, how: str) -> Tensor:
    if how == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if how == "strided":
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]
    if how == "slice-of-channels":
        return torch.cat([tensor, tensor], dim=1)[:, : tensor.shape[1]]
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(device: torch.device) -> None:
    case = Case(batch=0)
    x, offset, weight, bias, mask, grad = _moved(case, device)
    assert deform_conv.forward(x, offset, weight, bias, mask, *case.geometry).shape == grad.shape
    grads = deform_conv.backward(grad, x, offset, weight, mask, *case.geometry, (True,) * 4)
    assert all(g is not None and not g.any() for g in grads)


def test_many_samples_in_one_cell(device: torch.device) -> None:
    """More than the 64 that are taken at once: all locations look at one pixel, and the order of the sum is theirs."""
    case = Case(channels=2, outputs=2, size=(9, 10), kernel=(1, 1), batch=1, mask=False)
    x, offset, weight, _, _, grad = _moved(case, device)
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(10.0), indexing="ij")
    offset = torch.stack([2.25 - rows, 3.5 - columns])[None].to(device)
    needs = (True, True, True, False)
    answer = deform_conv.backward(grad, x, offset, weight, None, *case.geometry, needs)
    exact = (grad.double(), x.double(), offset.double(), weight.double())
    gradients = reference.backward(*exact, None, *case.geometry, needs)
    for ours, theirs in zip(answer[:3], gradients[:3], strict=True):
        assert ours is not None
        assert theirs is not None
        assert _error(ours, theirs.cpu()) < TOLERANCE[torch.float32]
    again = deform_conv.backward(grad, x, offset, weight, None, *case.geometry, needs)
    assert all(_same(a, b) for a, b in zip(answer, again, strict=True))


def test_shares_of_the_weights_gradient_add_up(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(size=(6, 7), kernel=(1, 1), batch=2)
    whole = _backward(case, device, NEEDS[2])[2]
    monkeypatch.setattr(deform_conv, "_shares", lambda call, steps: 2)
    deform_conv.forget_plans()
    divided = _backward(case, device, NEEDS[2])[2]
    deform_conv.forget_plans()
    assert whole is not None
    assert divided is not None
    torch.testing.assert_close(whole, divided, rtol=1e-5, atol=1e-5)


def test_offsets_in_float32_beside_data_in_half(device: torch.device) -> None:
    case = Case(dtype=torch.float16, size=(3, 4), batch=1)
    x, offset, weight, bias, mask, grad = _moved(case, device)
    fine = offset.float() + 1e-3
    assert mask is not None
    output = deform_conv.forward(x, fine, weight, bias, mask, *case.geometry)
    exact = (x.double(), fine.double(), weight.double(), bias.double(), mask.double())
    expected = reference.forward(*exact, *case.geometry)
    assert _error(output, expected.cpu()) < TOLERANCE[torch.float16]
    by_offset = deform_conv.backward(grad, x, fine, weight, mask, *case.geometry, NEEDS[1])[1]
    assert by_offset is not None
    assert by_offset.dtype == torch.float32


def test_the_operator_takes_it_by_name_and_under_autograd(device: torch.device) -> None:
    case = Case(size=(3, 4), batch=1, mask=False)
    x, offset, weight, bias, _, grad = _moved(case, device)
    leaves = [tensor.requires_grad_() for tensor in (x, offset, weight, bias)]
    output = deform_conv2d(x, offset, weight, bias, padding=(0, 1), backend="triton")
    answer = torch.autograd.grad(output, leaves, grad)
    expected = deform_conv2d(x, offset, weight, bias, padding=(0, 1), backend="reference")
    gradients = torch.autograd.grad(expected, leaves, grad)
    for a, b in zip((output, *answer), (expected, *gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_launches_are_planned_once_for_calls_alike(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(size=(3, 4), batch=1)
    first = _backward(case, device)

    def planned(*args: object, **kwargs: object) -> None:
        raise AssertionError("an equal second call was planned again")

    monkeypatch.setattr(_tiles, "choose", planned)
    assert all(_same(a, b) for a, b in zip(first, _backward(case, device), strict=True))


def test_the_gradient_of_an_offset_that_images_share_is_urled_with_64_bits() -> None:
    """Its own elements are few, those of its gradient are 2 * 9 * 128 * 128 for each image."""
    x, offset, weight = torch.zeros(2, 1, 4, 4), torch.zeros(1, 18, 4, 4).expand(2, -1, -1, -1), torch.zeros(1, 1, 3, 3)
    call, _ = _deform_conv_call.describe(x, offset, weight, None, (1, 1), (1, 1), (1, 1), "v2")
    large = replace(call, size=(1, 128, 128), out=(1, 128, 128))
    assert not replace(large, batch=7000).wide
    assert replace(large, batch=7500).wide
