"""The averaging RoI poolings in Triton against the plain PyTorch ones in float64.

Without a GPU they run in Triton's interpreter; on a machine with a GPU the same tests run on the card.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.kernels.reference import roi_mean as reference
from dcn.kernels.roi_grid import Form, RoiRule
from dcn.kernels.triton import roi_mean
from dcn.ops import deform_ps_roi_pool, ps_roi_pool
from tests.ops.roi_cases import SCALE

GOLDEN = Path(__file__).parents[2] / "golden"
# Largest error over largest value. float32: sums in another order; half: results are rounded once (2^-12, 2^-9).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
# Fractions, a RoI that leaves the map, one turned inside out, one outside. Exact in binary with SCALE and SIZE: whether
# a sample lies at the limit of the map, where the value jumps, must not depend on the type.
ROIS = torch.tensor([[0, 1, 2, 7.25, 6.125], [1, -3, -2.5, 20, 4.5], [1, 5, 5, 3, 3], [0, 14, 3, 17, 5]]).double()
SIZE = (4, 2)
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
Call = tuple[Tensor, Tensor, Tensor | None, Tensor | None, RoiRule]


@dataclass(frozen=True)
class Case:
    form: Form
    samples: int = 2
    group: tuple[int, int] = (1, 1)
    depth: int = 3
    classes: int = 0  # of the offsets; 0: no offsets
    parts: tuple[int, int] = SIZE
    mask: bool = False
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    @property
    def rule(self) -> RoiRule:
        return RoiRule(self.form, SIZE, self.group, SCALE, self.samples, 0.3 if self.classes else 0.0)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
        """input, boxes, offset, mask, grad_output."""
        random = torch.Generator().manual_seed(0)
        locations = torch.float64 if self.dtype == torch.float64 else torch.float32

        def make(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        channels = self.depth * max(self.classes, 1)
        x = make(2, channels * self.group[0] * self.group[1], 9, 11).to(self.dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        rois = ROIS.shape[0]
        offset = make(rois, 2 * self.classes, *self.parts).to(locations) if self.classes else None
        mask = make(rois, 1, *SIZE).sigmoid().to(self.dtype) if self.mask else None
        return x, ROIS.to(locations), offset, mask, make(rois, channels, *SIZE).to(self.dtype)


CASES = {
    "align": Case("align"),
    "align-adaptive": Case("align", samples=0, channels_last=True),
    "half-pixel-adaptive": Case("half_pixel", samples=0, dtype=torch.float64),
    "ps-align": Case("half_pixel", group=SIZE, depth=2),
    "cells-first": Case("cells_first", samples=0, group=SIZE, depth=2),
    "cells-after": Case("cells_after", samples=0, group=(2, 2), depth=1, dtype=torch.float64),
    "deformable": Case("half_pixel", samples=0, classes=1, mask=True),
    "deformable-float16": Case("half_pixel", classes=1, mask=True, dtype=torch.float16),
    "parts": Case("parts", samples=4, classes=1, mask=True),
    "parts-bfloat16": Case("parts", samples=3, classes=1, dtype=torch.bfloat16, channels_last=True),
    "parts-without-offsets": Case("parts", samples=4, group=SIZE, depth=2),
    "parts-by-class": Case("parts", samples=3, group=SIZE, classes=3, depth=1, dtype=torch.float64),
    "parts-by-class-channels-last": Case("parts", samples=3, group=SIZE, classes=2, depth=1, channels_last=True),
    "many-channels": Case("half_pixel", samples=0, classes=1, depth=33, mask=True, channels_last=True),
    "parts-by-class-masked": Case("parts", samples=3, group=(2, 1), classes=2, depth=2, mask=True),
    "shared-parts": Case("parts", samples=3, classes=2, depth=1, parts=(3, 1)),
    "one-sample": Case("parts", samples=1, classes=1),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def _moved(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    x, boxes, offset, mask, grad = case.tensors()
    offset, mask = (None if t is None else t.to(device) for t in (offset, mask))
    return x.to(device), boxes.to(device), offset, mask, grad.to(device)


def _call(case: Case, device: torch.device) -> tuple[Call, Tensor]:
    """The arguments that both directions share, and the gradient of the output."""
    x, boxes, offset, mask, grad = _moved(case, device)
    return (x, boxes, offset, mask, case.rule), grad


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _forward(case: Case, device: torch.device) -> Tensor:
    call, _ = _call(case, device)
    assert roi_mean.unsupported(*call) is None
    return roi_mean.forward(*call)


def _backward(case: Case, device: torch.device, needs: tuple[bool, bool, bool] | None = None) -> Gradients:
    call, grad = _call(case, device)
    return roi_mean.backward(grad, *call, needs or (True, case.classes > 0, case.mask))


def _expected(case: Case) -> tuple[Tensor, Gradients]:
    x, boxes, offset, mask, grad = case.tensors()
    call = (x.double(), boxes.double(), _double(offset), _double(mask), case.rule)
    needs = (True, case.classes > 0, case.mask)
    return reference.forward(*call), reference.backward(grad.double(), *call, needs)


def _error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.cpu().double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _compare(case: Case, answer: Gradients, correct: Gradients) -> None:
    x, _, offset, mask, _ = case.tensors()
    for ours, theirs, of in zip(answer, correct, (x, offset, mask), strict=True):
        if ours is None or theirs is None or of is None:
            assert ours is theirs is None
            continue
        assert (ours.dtype, ours.shape) == (of.dtype, of.shape)
        assert _error(ours, theirs) < TOLERANCE[ours.dtype]


@EVERY
def test_values_and_gradients_agree_with_the_reference(case: Case, device: torch.device) -> None:
    expected, gradients = _expected(case)
    output = _forward(case, device)
    assert output.dtype == case.dtype
    assert output.is_contiguous()
    assert _error(output, expected) < TOLERANCE[case.dtype]
    answer = _backward(case, device)
    assert answer[0] is not None
    assert answer[0].stride() == case.tensors()[0].stride()
    _compare(case, answer, gradients)


def test_more_channels_than_a_tile_has(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared among programs, or all in one where sums over channels are needed."""
    monkeypatch.setattr(roi_mean, "_MOST_CHANNELS", 4)
    for classes in (0, 1):
        case = Case("half_pixel", classes=classes, depth=7, channels_last=True)
        expected, gradients = _expected(case)
        assert _error(_forward(case, device), expected) < TOLERANCE[case.dtype]
        _compare(case, _backward(case, device), gradients)


@pytest.mark.parametrize("name", ["align", "parts-by-class", "deformable-float16"])
def test_deterministic_gradients(name: str, device: torch.device) -> None:
    """Right, and the same to the last bit when the RoIs, and with them the additions, come in another order."""
    case = CASES[name]
    call, grad = _call(case, device)
    needs = (True, False, False)
    offset, mask = (None if t is None else t.flip(0) for t in call[2:4])
    with _deterministic():
        answer = roi_mean.backward(grad, *call, needs)[0]
        again = roi_mean.backward(grad.flip(0), call[0], call[1].flip(0), offset, mask, case.rule, needs)[0]
    assert answer is not None
    assert again is not None
    assert torch.equal(answer, again)
    expected = _expected(case)[1][0]
    assert expected is not None
    assert _error(answer, expected) < TOLERANCE[case.dtype]


def test_a_gradient_that_is_not_finite_shows_in_deterministic_mode(device: torch.device) -> None:
    case = CASES["align"]
    call, grad = _call(case, device)
    grad[0, 0, 0, 0] = float("inf")
    with _deterministic():
        answer = roi_mean.backward(grad, *call, (True, False, False))[0]
    assert answer is not None
    assert bool(answer.isnan().all())


@pytest.mark.parametrize("need", range(3), ids=["input", "offset", "mask"])
def test_a_gradient_alone_is_the_same_as_with_the_others(need: int, device: torch.device) -> None:
    case = Case("parts", classes=1, mask=True)
    alone = _backward(case, device, (need == 0, need == 1, need == 2))
    assert [grad is not None for grad in alone] == [need == i for i in range(3)]
    one, both = alone[need], _backward(case, device)[need]
    assert one is not None
    assert both is not None
    torch.testing.assert_close(one, both, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", ["transposed", "strided", "slice-of-channels"])
def test_memory_layout_does_not_matter(how: str, device: torch.device) -> None:
    case = Case("parts", classes=1, mask=True)
    x, boxes, offset, mask, grad = _moved(case, device)
    changed = {
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": x.repeat_interleave(2, dim=-1)[..., ::2],
        "slice-of-channels": torch.cat([x, x], dim=1)[:, : x.shape[1]],
    }[how]
    assert changed.stride() != x.stride()
    call = (changed, boxes, offset, mask, case.rule)
    assert torch.equal(roi_mean.forward(*call), _forward(case, device))
    answer = roi_mean.backward(grad, *call, (True, True, True))
    for a, b in zip(answer, _backward(case, device), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("images", "rois"), [(0, 0), (2, 0)], ids=["no-image", "no-roi"])
def test_nothing_to_do(images: int, rois: int, device: torch.device) -> None:
    x, boxes, offset, mask, grad = _moved(CASES["parts"], device)
    assert offset is not None
    assert mask is not None
    call = (x[:images], boxes[:rois], offset[:rois], mask[:rois], CASES["parts"].rule)
    assert roi_mean.forward(*call).shape == (0, *grad.shape[1:])
    answer = roi_mean.backward(grad[:rois], *call, (True, True, True))
    assert [None if g is None else g.shape for g in answer] == [t.shape for t in call[:1] + call[2:4]]
    assert all(g is not None and not g.any() for g in answer)


NAN, INF = float("nan"), float("inf")
NO_ROI = [
    [0, NAN, 0, 3, 3],
    [0, 0, 0, INF, 3],
    [1, -INF, 0, 3, 3],
    [1, 0, 0, -INF, 3],
    [7, 0, 0, 3, 3],
    [-1, 0, 0, 3, 3],
    [NAN, 0, 0, 3, 3],
]
FAR = [[0, -1e30, -1e30, 1e30, 1e30], [1, 1e9, 1e9, -1e9, -1e9], [0, 1e20, 1e20, 1e20, 1e20]]
WILD = torch.tensor([*NO_ROI, *FAR])


@pytest.mark.parametrize("name", ["align-adaptive", "cells-first", "parts"])
def test_boxes_that_are_no_boxes(name: str, device: torch.device) -> None:
    case = replace(CASES[name], classes=0, mask=False, dtype=torch.float32)
    x, *_ = _moved(case, device)
    out = roi_mean.forward(x, WILD.to(device), None, None, case.rule)
    assert bool(torch.isfinite(out).all())
    assert not out[:7].any()
    expected = reference.forward(x.cpu(), WILD, None, None, case.rule)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_a_huge_roi_reads_each_pixel_once(device: torch.device) -> None:
    """A bin over the whole map: adaptive sampling skips what lies outside; many chunks of columns, few samples near."""
    x = Case("half_pixel", dtype=torch.float64).tensors()[0]
    rois = torch.tensor([[0, -5.0, -4, 15, 13]], dtype=torch.float64)
    rule = RoiRule("half_pixel", (1, 1), (1, 1), SCALE, 0, 0.0)
    answer = roi_mean.forward(x.to(device), rois.to(device), None, None, rule)
    assert _error(answer, reference.forward(x, rois, None, None, rule)) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("value", [NAN, INF, -1e30], ids=str)
def test_a_wild_offset_empties_its_bin_only(value: float, device: torch.device) -> None:
    case = CASES["parts"]
    x, boxes, *others = _moved(case, device)
    boxes, offset, mask, grad = boxes[:1], *(t[:1] for t in others if t is not None)
    plain = roi_mean.forward(x, boxes, offset, mask, case.rule)
    offset[0, 0, 1, 1] = value
    out = roi_mean.forward(x, boxes, offset, mask, case.rule)
    assert not out[0, :, 1, 1].any()
    out[0, :, 1, 1] = plain[0, :, 1, 1]
    assert torch.equal(out, plain)
    answer = roi_mean.backward(grad, x, boxes, offset, mask, case.rule, (True, False, True))
    assert all(g is None or bool(torch.isfinite(g).all()) for g in answer)


def test_nan_stays_where_it_is(device: torch.device) -> None:
    x = torch.zeros(1, 2, 9, 11, device=device)
    x[0, :, 0, 0] = NAN
    rois = torch.tensor([[0, 6.0, 6, 8, 8], [0, 0, 0, 5, 5]], device=device)
    out = roi_mean.forward(x, rois, None, None, Case("align").rule)
    assert not out[0].isnan().any()
    assert out[1].isnan().nonzero().tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("name", "samples"), [("dpsroi_classaware_p7g7_od3_s4", 4), ("dpsroi_s1_notrans_g1", 1), ("psroi_p7g7_od3", 0)]
)
def test_vectors_of_the_original_implementation(name: str, samples: int, device: torch.device) -> None:
    """The first RoIs of the files."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        data = {key: torch.from_numpy(file[key]).to(device) for key in file.files}
    x, offset, rois = data["x"], data.get("trans"), data["rois"][:3]
    size = data["out"].shape[2]
    group = round((x.shape[1] / data["out"].shape[1]) ** 0.5)
    if samples:
        moves = None if offset is None else offset[:3]
        out = deform_ps_roi_pool(
            *(x, rois, moves, size, 1 / 16), group_size=group, sample_per_part=samples, backend="triton"
        )
    else:
        out = ps_roi_pool(x, rois, size, 1 / 16, backend="triton")
    torch.testing.assert_close(out, data["out"][:3], rtol=2e-5, atol=2e-5)


def test_gradient_of_the_original_implementation(device: torch.device) -> None:
    with np.load(GOLDEN / "dpsroi_p3g3_part3_demo.npz") as file:
        data = {key: torch.from_numpy(file[key]).to(device) for key in file.files}
    x, offset = data["x"].requires_grad_(), data["trans"].requires_grad_()
    out = deform_ps_roi_pool(x, data["rois"], offset, 3, 1 / 16, group_size=3, backend="triton")
    answer = torch.autograd.grad(out, (x, offset), data["grad_out"])
    for ours, theirs in zip(answer, (data["grad_x"], data["grad_trans"]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * float(theirs.abs().max().clamp_min(1)))
