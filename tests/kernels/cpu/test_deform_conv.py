"""The CPU kernels against the plain PyTorch ones: paths that only this backend has.

Values of the operator itself are tested in tests/ops for every backend; here are the tilings, passes, windows, memory
formats, instruction sets and thread counts between which the C++ code chooses.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dcn.kernels.cpu import _library
from dcn.kernels.cpu import deform_conv as cpu
from dcn.kernels.reference import deform_conv as reference
from dcn.kernels.reference.deform_conv import _taps

# Largest error over largest value. float32: sums of up to 6,000 products in another order; half: one rounding of the
# result (2^-11, 2^-8), doubled.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@dataclass(frozen=True)
class Case:
    channels: int = 6
    outputs: int = 4
    size: tuple[int, ...] = (11, 9)
    kernel: tuple[int, ...] = (3, 3)
    batch: int = 2
    groups: int = 1
    offset_groups: int = 1
    stride: int = 1
    spread: float = 2.0
    mask: bool = True
    boundary: str = "v2"
    channels_last: bool = False
    dtype: torch.dtype = torch.float32

    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]:
        axes = len(self.size)
        return (self.stride,) * axes, tuple(k // 2 for k in self.kernel), (1,) * axes, self.boundary

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
        """input, offset, weight, bias, mask, grad_output."""
        random = torch.Generator().manual_seed(0)

        def make(*shape: int) -> Tensor:
            tensor = torch.randn(*shape, generator=random, dtype=torch.float64).to(self.dtype)
            return (
                tensor.movedim(1, -1).contiguous().movedim(-1, 1) if self.channels_last and len(shape) > 2 else tensor
            )

        taps = torch.Size(self.kernel).numel() * self.offset_groups
        out = [(s + 2 * (k // 2) - k) // self.stride + 1 for s, k in zip(self.size, self.kernel, strict=True)]
        return (
            make(self.batch, self.channels, *self.size),
            make(self.batch, taps * len(self.size), *out) * self.spread,
            make(self.outputs, self.channels // self.groups, *self.kernel).contiguous(),
            make(self.outputs),
            make(self.batch, taps, *out) if self.mask else None,
            make(self.batch, self.outputs, *out),
        )


CASES = {
    "plain": Case(),
    "v1": Case(boundary="v1"),
    "integer-offsets": Case(spread=0.0, boundary="v1"),
    "far-offsets": Case(spread=30.0, size=(40, 33)),
    "one-axis": Case(size=(150,), kernel=(5,)),
    "three-axes": Case(size=(5, 6, 7), kernel=(3, 1, 3)),
    "float64": Case(dtype=torch.float64, channels=24, outputs=20),
    "float16": Case(dtype=torch.float16, channels=24),
    "bfloat16": Case(dtype=torch.bfloat16, channels=24),
    "bfloat16-odd": Case(dtype=torch.bfloat16, channels=23),
    "bfloat16-groups": Case(dtype=torch.bfloat16, channels=72, outputs=34, groups=2, offset_groups=24),
    "bfloat16-wide": Case(dtype=torch.bfloat16, channels=72, outputs=34, size=(9, 53)),
    "bfloat16-channels-last": Case(dtype=torch.bfloat16, channels=24, channels_last=True),
    "channels-last": Case(channels_last=True, channels=40, outputs=33),
    "channels-last-3d": Case(channels_last=True, size=(4, 5, 6), kernel=(2, 2, 2)),
    "groups": Case(channels=24, outputs=18, groups=3, offset_groups=2),
    "wide-groups": Case(channels=160, outputs=34, groups=2, offset_groups=4),
    "depthwise": Case(channels=70, outputs=70, groups=70, offset_groups=7),
    "depthwise-channels-last": Case(channels=70, outputs=70, groups=70, channels_last=True),
    "depthwise-large-kernel": Case(channels=70, outputs=70, groups=70, kernel=(7, 7)),
    "depthwise-two-outputs": Case(channels=12, outputs=24, groups=12),
    "many-passes": Case(channels=608, outputs=41, size=(20, 13), batch=3, mask=False),
    "many-passes-outputs": Case(channels=512, outputs=512, size=(14, 14), batch=1, mask=False),
    "many-passes-float64": Case(
        channels=64, outputs=300, size=(13, 26), kernel=(5, 3), batch=1, mask=False, dtype=torch.float64
    ),
    "many-passes-groups": Case(channels=1216, outputs=66, groups=2, size=(12, 13), mask=False),
    "many-passes-bfloat16": Case(channels=608, outputs=200, size=(20, 13), batch=3, dtype=torch.bfloat16),
    "many-passes-float16-channels-last": Case(
        channels=1216, outputs=66, groups=2, size=(12, 13), dtype=torch.float16, channels_last=True
    ),
    "many-bands": Case(channels=20, outputs=20, size=(150, 70), spread=1.0, batch=2),
    "many-outputs": Case(channels=16, outputs=300, size=(25, 42)),
    "many-images": Case(channels=20, outputs=20, size=(7, 8), spread=1.0, batch=33),
    "large-kernel": Case(channels=20, kernel=(7, 7), size=(14, 13)),
    "pointwise": Case(channels=300, kernel=(1, 1)),
    "stride": Case(stride=2, size=(64, 50), channels=33, outputs=50),
    "few-blocks": Case(channels=48, outputs=40, offset_groups=4, size=(40, 37), spread=4.0),
    "few-blocks-of-groups": Case(channels=96, outputs=96, groups=2, size=(21, 30), dtype=torch.float64),
    "few-blocks-channels-last": Case(channels=32, outputs=33, size=(31, 30), channels_last=True, mask=False),
    "few-blocks-depthwise": Case(channels=40, outputs=40, groups=40, size=(50, 60), dtype=torch.bfloat16),
    "few-blocks-three-axes": Case(channels=20, outputs=70, size=(6, 9, 11), kernel=(3, 3, 3), boundary="v1"),
    "one-row": Case(size=(1, 200)),
    "one-column": Case(size=(200, 1)),
}


def _error(actual: Tensor, expected: Tensor) -> float:
    scale = expected.double().abs().max().clamp_min(1e-30)
    return float((actual.double() - expected.double()).abs().max() / scale)


def _forward(kernels: Any, case: Case) -> Tensor:
    *tensors, _ = case.tensors()
    return kernels.forward(*_as_computed(kernels, case, tensors), *case.geometry())


def _backward(kernels: Any, case: Case, needs: tuple[bool, ...] | None = None) -> tuple[Tensor | None, ...]:
    x, offset, weight, _, mask, grad = case.tensors()
    tensors = _as_computed(kernels, case, [grad, x, offset, weight, mask])
    return kernels.backward(*tensors, *case.geometry(), needs or (True, True, True, case.mask))


def _as_computed(kernels: Any, case: Case, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Half precision is read into float32; the reference gets the same values."""
    widen = kernels is reference and case.dtype.itemsize == 2
    return [t.float() if t is not None and widen else t for t in tensors]


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_forward_agrees_with_the_reference(case: Case) -> None:
    x, offset, weight, bias, mask, grad = case.tensors()
    assert cpu.unsupported(x, offset, weight, bias, mask, *case.geometry()) is None
    output = _forward(cpu, case)
    assert (output.dtype, output.stride()) == (case.dtype, cpu._new(x, case.outputs, grad.shape[2:]).stride())
    assert _error(output, _forward(reference, case)) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gradients_agree_with_the_reference(case: Case) -> None:
    x, offset, weight, _, mask, _ = case.tensors()
    for ours, theirs, of in zip(
        _backward(cpu, case), _backward(reference, case), (x, offset, weight, mask), strict=True
    ):
        if ours is None or theirs is None or of is None:
            assert ours is theirs is None
            continue
        assert (ours.dtype, ours.stride()) == (of.dtype, of.stride())
        assert _error(ours, theirs) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("needed", range(4), ids=["input", "offset", "weight", "mask"])
def test_a_gradient_alone_is_the_same_as_with_the_others(needed: int) -> None:
    needs = tuple(i == needed for i in range(4))
    alone, together = _backward(cpu, Case(), needs), _backward(cpu, Case())
    assert [grad is not None for grad in alone] == list(needs)
    assert _same(alone[needed], together[needed])


_BFLOAT16_PRODUCTS = ("avx512bf16", "amx")


@pytest.fixture
def without_bfloat16_products() -> Iterator[None]:
    """The instruction set in use, without products of bfloat16."""
    before = _library.isa()
    if before in _BFLOAT16_PRODUCTS:
        assert _library.library().dcn_set_isa(b"avx512") == 0
    yield
    _library.library().dcn_set_isa(before.encode())


@pytest.mark.usefixtures("without_bfloat16_products")
@pytest.mark.parametrize("name", ["many-passes-bfloat16", "float16", "bfloat16"])
def test_half_precision_is_rounded_once(name: str) -> None:
    case = CASES[name]
    kernels: Any = cpu
    x, offset, weight, bias, mask, grad = (None if t is None else t.float() for t in case.tensors())
    output = kernels.forward(x, offset, weight, bias, mask, *case.geometry())
    grads = kernels.backward(grad, x, offset, weight, mask, *case.geometry(), (True,) * 4)
    expected = [None if t is None else t.to(case.dtype) for t in (output, *grads)]
    assert all(_same(a, b) for a, b in zip([_forward(cpu, case), *_backward(cpu, case)], expected, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "many-passes",
        "many-passes-outputs",
        "many-passes-float64",
        "many-passes-bfloat16",
        "bfloat16-wide",
        "many-bands",
        "many-outputs",
        "depthwise",
        "groups",
        "channels-last",
        *(name for name in CASES if name.startswith("few-blocks")),
    ],
)
def test_the_number_of_threads_does_not_change_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2, 5, 7, 64):
        monkeypatch.setattr(_library, "threads", lambda threads=threads: threads)
        results.append([_forward(cpu, CASES[name]), *_backward(cpu, CASES[name])])
    one, *others = results
    assert all(_same(a, b) for other in others for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30], ids=str)
@pytest.mark.parametrize("boundary", ["v1", "v2"])
def test_wild_offsets_sample_nothing(value: float, boundary: str) -> None:
    case = Case(mask=False, boundary=boundary)
    x, offset, weight, bias, _, grad = case.tensors()
    wild = torch.full_like(offset, value)
    output = cpu.forward(x, wild, weight, bias, None, *case.geometry())
    assert bias is not None
    assert torch.equal(output, bias.reshape(1, -1, 1, 1).expand_as(output))
    grads = cpu.backward(grad, x, wild, weight, None, *case.geometry(), (True, True, True, False))
    assert all(g is None or not g.any() for g in grads)


@pytest.mark.parametrize("groups", [1, 16], ids=["dense", "depthwise"])
def test_an_infinite_value_outside_the_taps_does_not_spread(groups: int) -> None:
    """A corner outside the image counts as 0, it is not read as 0 times some other location."""
    x = torch.ones(1, 16, 4, 4)
    x[..., 3, 0] = float("inf")  # the row below it is outside
    offset = torch.zeros(1, 2, 4, 4)
    offset[:, 1] = 0.5  # halfway to the right neighbour; the last column reads outside
    weight = torch.ones(groups, 16 // groups, 1, 1)
    output = cpu.forward(x, offset, weight, None, None, (1, 1), (0, 0), (1, 1), "v2")
    each = 16.0 / groups
    assert torch.equal(output[0, 0, 3], torch.tensor([float("inf"), each, each, each / 2]))


def test_a_mask_of_nan_propagates() -> None:
    x, offset, weight, bias, mask, _ = Case().tensors()
    assert mask is not None
    mask[0, 4, 3, 2] = float("nan")
    output = cpu.forward(x, offset, weight, bias, mask, *Case().geometry())
    assert output.isnan().nonzero()[:, [0, 2, 3]].unique(dim=0).tolist() == [[0, 3, 2]]


def test_offsets_in_float32_beside_data_in_bfloat16() -> None:
    x, offset, weight, bias, mask, _ = Case(dtype=torch.bfloat16, channels=24).tensors()
    fine = offset.float() + 1e-3
    output = cpu.forward(x, fine, weight, bias, mask, *Case().geometry())
    assert bias is not None
    assert mask is not None
    tensors = (x.float(), fine, weight.float(), bias.float(), mask.float())
    assert _error(output, reference.forward(*tensors, *Case().geometry())) < TOLERANCE[torch.bfloat16]


def test_an_empty_batch_gives_an_empty_output_and_zero_gradients() -> None:
    case = Case(batch=0)
    x, offset, weight, bias, mask, grad = case.tensors()
    assert cpu.forward(x, offset, weight, bias, mask, *case.geometry()).shape == grad.shape
    grads = cpu.backward(grad, x, offset, weight, mask, *case.geometry(), (True,) * 4)
    assert all(g is not None and not g.any() for g in grads)


_OTHER_ISA = """
import sys
from tests.kernels.cpu.test_deform_conv import *
from tests.kernels.cpu.test_deform_conv import _backward, _error, _forward, _library
assert _library.isa() == sys.argv[1], _library.isa()
for name in ("plain", "float64", "channels-last", "groups", "depthwise", "many-passes", "three-axes", "v1"):
    case = CASES[name]
    ours = [_forward(cpu, case), *_backward(cpu, case)]
    theirs = [_forward(reference, case), *_backward(reference, case)]
    worst = max(_error(a, b) for a, b in zip(ours, theirs) if a is not None)
    assert worst < TOLERANCE[case.dtype], (name, worst)
print("agrees")
"""


@pytest.fixture(params=_BFLOAT16_PRODUCTS)
def bfloat16_products(request: pytest.FixtureRequest) -> Iterator[None]:
    """An instruction set with products of bfloat16."""
    before = _library.isa()
    if _library.library().dcn_set_isa(request.param.encode()) != 0:
        pytest.skip(f"this processor has no {request.param}")
    yield
    _library.library().dcn_set_isa(before.encode())


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize(
    "name", ["many-passes-bfloat16", "bfloat16", "bfloat16-groups", "bfloat16-wide", "bfloat16-channels-last"]
)
def test_products_of_bfloat16_round_samples_once_more(name: str) -> None:
    """Samples are rounded as the weights are, and the sum is not: both together are the exact product of these."""
    case = CASES[name]
    x, offset, weight, bias, mask, _ = case.tensors()
    taps = _taps(x, offset, weight, mask, *case.geometry())
    samples, errors = taps.masked(taps.sample()), []
    ours = _forward(cpu, case).double()
    for read in (samples.bfloat16(), samples):
        exact = weight.double().reshape(taps.matrix(weight).shape) @ taps.rows(read.double())
        output = exact.reshape(x.shape[0], weight.shape[0], *taps.out)
        if bias is not None:
            output = output + bias.double().reshape(-1, *[1] * len(taps.out))
        errors.append((ours - output).abs())
        if read is not samples:
            # Half a step of the result; a few samples fall on the other side of a rounding.
            assert (errors[0] <= 2.0**-8 * output.abs() + 1e-3 * output.abs().mean()).double().mean() > 0.98
    assert errors[0].mean() < 0.75 * errors[1].mean()


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512bf16"])
def test_other_instruction_sets_agree_with_the_reference(isa: str) -> None:
    before = _library.isa()
    if _library.library().dcn_set_isa(isa.encode()) != 0:
        pytest.skip(f"this processor has no {isa}")
    _library.library().dcn_set_isa(before.encode())
    environment = {**os.environ, "DCN_CPU_ISA": isa}
    command = [sys.executable, "-c", _OTHER_ISA, isa]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "agrees", done.stderr
