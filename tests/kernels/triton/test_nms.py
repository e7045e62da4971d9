"""Greedy and soft suppression in Triton against the plain PyTorch ones; greedy decisions must be the same ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dcn.kernels.reference import nms as reference
from dcn.kernels.reference import soft_nms as reference_soft
from dcn.kernels.triton import nms, soft_nms
from dcn.ops import nms as operator
from dcn.ops import nms_keep
from dcn.ops import soft_nms as soft_operator
from tests.ops.test_nms import random_boxes

PLAIN, STRICT = (False, False), (True, True)  # plus_one, suppress_equal
COUNT = 150  # three words of 64 boxes


def make(device: torch.device, count: int = COUNT, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Boxes, scores with many ties and two that are NaN, labels."""
    boxes, scores, labels = random_boxes(count, seed=5)
    scores[3], boxes[7, 2] = torch.nan, torch.nan
    return boxes.to(device, dtype), scores.to(device, dtype), labels.to(device)


@pytest.mark.parametrize("labelled", ["one-label", "three-labels", "a-label-over-two-words"])
@pytest.mark.parametrize("rule", [PLAIN, STRICT], ids=["plain", "strict"])
def test_the_same_boxes_stay(rule: tuple[bool, bool], labelled: str, device: torch.device) -> None:
    boxes, scores, labels = make(device)
    chosen = {"one-label": None, "three-labels": labels, "a-label-over-two-words": torch.arange(COUNT).to(device) // 80}
    call = (boxes, scores, chosen[labelled], 0.4, *rule)
    assert nms.unsupported(*call, -1) is None
    expected = reference.forward(*call, -1)
    assert torch.equal(nms.forward(*call, -1), expected)
    assert 2 < expected.shape[0] < COUNT - 2


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.45], ids=["one-in-three", "every-other", "all"])
def test_boxes_that_drop_each_other_in_a_chain(threshold: float, device: torch.device) -> None:
    """Each overlaps its neighbours alone or those one further: whether the last stays depends on all before it."""
    left = torch.arange(140.0, device=device) * 4
    boxes = torch.stack((left, torch.zeros_like(left), left + 10, torch.ones_like(left)), 1)
    scores = torch.linspace(1, 0, 140, device=device)
    kept = nms.forward(boxes, scores, None, threshold, *PLAIN, -1)
    step = {0.05: 3, 0.3: 2, 0.45: 1}[threshold]
    assert torch.equal(kept, torch.arange(0, 140, step, device=device))


@pytest.mark.parametrize("labelled", [False, True])
def test_more_words_than_are_read_at_a_time(
    labelled: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nms, "_CHUNKS", (1,))
    boxes, scores, labels = make(device, 260)
    call = (boxes, scores, labels // 2 if labelled else None, 0.4, *PLAIN, -1)
    assert torch.equal(nms.forward(*call), reference.forward(*call))


def test_chunk_of_words() -> None:
    assert [nms.chunk_of(words) for words in (1, 16, 17, 4096)] == [16, 16, 128, 128]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_types(dtype: torch.dtype, device: torch.device) -> None:
    boxes, scores, labels = make(device, 70, dtype)
    call = (boxes, scores, labels, 0.4, *PLAIN, -1)
    assert torch.equal(nms.forward(*call), reference.forward(*call))


@pytest.mark.parametrize("suppress_equal", [False, True])
def test_tie_at_the_threshold(suppress_equal: bool, device: torch.device) -> None:
    """Overlap exactly 1/2: 2 x 2 in 2 x 4; and 0.3, which neither float32 nor float64 holds exactly."""
    boxes = torch.tensor([[0, 0, 4, 2], [0, 0, 2, 2], [50, 0, 60, 1], [50, 0, 53, 1]], device=device).double()
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6], device=device)
    half = nms.forward(boxes, scores, None, 0.5, False, suppress_equal, -1).tolist()
    assert half == ([0, 2, 3] if suppress_equal else [0, 1, 2, 3])
    third = nms.forward(boxes, scores, None, 0.3, False, suppress_equal, -1).tolist()
    assert third == ([0, 2] if suppress_equal else [0, 2, 3])


@pytest.mark.parametrize("most", [0, 3, 70])
def test_at_most_so_many(most: int, device: torch.device) -> None:
    boxes, scores, labels = make(device, 70)
    for chosen in (None, labels):
        call = (boxes, scores, chosen, 0.4, *PLAIN, most)
        assert torch.equal(nms.forward(*call), reference.forward(*call))


@pytest.mark.parametrize("labelled", [False, True])
def test_many_sets_with_padding(labelled: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, labels = (t.view(3, 50, *t.shape[1:]) for t in make(device))
    valid = (torch.rand(3, 50, generator=torch.Generator().manual_seed(1)) < 0.7).to(device)
    call = (boxes, scores, labels if labelled else None, valid, 0.4, *PLAIN)
    expected = reference.keep(*call)
    assert torch.equal(nms.keep(*call), expected)
    monkeypatch.setattr(nms, "_MEMORY", 1)  # set by set
    assert torch.equal(nms.keep(*call), expected)


@pytest.mark.parametrize("labelled", [False, True])
def test_hardly_any_valid_box(labelled: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows without a valid box nothing is written; memory that holds anything must not matter."""
    made = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **kind: made(*size, **kind).fill_(-1))
    boxes, scores, labels = (t.view(2, 75, *t.shape[1:]) for t in make(device))
    valid = (scores > 0.9) & (torch.arange(2, device=device) == 0)[:, None]
    call = (boxes, scores, labels if labelled else None, valid, 0.1, *PLAIN)
    expected = reference.keep(*call)
    assert torch.equal(nms.keep(*call), expected)
    assert 0 < int(expected.sum()) <= int(valid.sum()) - (not labelled)


def test_the_operators_take_it_by_name(device: torch.device) -> None:
    boxes, scores, labels = make(device, 40)
    expected = operator(boxes, scores, 0.4, labels, backend="reference")
    assert torch.equal(operator(boxes, scores, 0.4, labels, backend="triton"), expected)
    keep = nms_keep(boxes, scores, 0.4, labels, scores > 0.2, backend="triton")
    assert torch.equal(keep, nms_keep(boxes, scores, 0.4, labels, scores > 0.2, backend="reference"))


def test_no_boxes(device: torch.device) -> None:
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    assert nms.forward(boxes, scores, scores.long(), 0.5, *PLAIN, -1).shape == (0,)
    assert nms.keep(boxes.view(2, 0, 4), scores.view(2, 0), None, None, 0.5, *PLAIN).shape == (2, 0)
    assert [t.shape[0] for t in soft_nms.forward(boxes, scores, None, True, 0.5, 0.3, 0.0, -1, False)] == [0, 0]


def test_too_many_boxes_are_refused() -> None:
    many = torch.empty(1, device="meta").expand(nms._LARGEST + 1, 4)
    assert "boxes at most" in str(nms.unsupported(many, many[:, 0], None, 0.5, *PLAIN, -1))


@pytest.mark.parametrize("gaussian", [True, False], ids=["gaussian", "linear"])
@pytest.mark.parametrize("by_class", [False, True], ids=["one-label", "three-labels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_soft_suppression(dtype: torch.dtype, by_class: bool, gaussian: bool, device: torch.device) -> None:
    boxes, _, labels = make(device, 24, dtype)
    scores = torch.linspace(1, 0.1, 24, dtype=dtype, device=device).flip(0)  # no ties
    scores[5] = torch.nan
    call = (boxes, scores, labels if by_class else None, gaussian, 0.3, 0.2)
    assert soft_nms.unsupported(*call, 0.0, -1, False) is None
    for least, most, plus_one in ((0.0, -1, False), (0.25, 7, True)):
        actual = soft_nms.forward(*call, least, most, plus_one)
        expected = reference_soft.forward(*call, least, most, plus_one)
        assert torch.equal(actual[0], expected[0])
        torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=0)


def test_soft_suppression_in_chunks(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_nms, "_CHUNK", 8)
    boxes, scores, labels = make(device, 20)
    rule = {"sigma": 0.4, "labels": labels, "max_output": 6}
    actual, expected = (soft_operator(boxes, scores, backend=b, **rule) for b in ("triton", "reference"))  # type: ignore[arg-type]
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1])
