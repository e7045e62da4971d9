"""The formulas that the operators are measured against compute the same."""

from __future__ import annotations

import pytest
import torch
from benchmarks.cases import ATTENTION
from benchmarks.family import CASES, FamilyCase, run


@pytest.mark.parametrize("train", [False, True], ids=["forward", "train"])
@pytest.mark.parametrize("case", [case.tiny for case in CASES if case.tiny], ids=lambda case: case.label)
def test_implementations_agree(case: FamilyCase, train: bool) -> None:
    tensors = tuple(t.float() for t in case.tensors())
    reference = run(case.reference, tensors, train)
    for function in case.implementations.values():
        for actual, expected in zip(run(function, tensors, train), reference, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_no_sample_lies_on_a_pixels_centre() -> None:
    """There the slope may go either way, and implementations could not be compared."""
    case = ATTENTION[1]
    sizes = torch.tensor([(width, height) for height, width in case.levels])[:, None]
    position = case.tensors()[1].double() * sizes - 0.5
    assert (position - position.round()).abs().min() > 5e-5
