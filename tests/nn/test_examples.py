"""The examples in the docstrings of the layers run and give what they say."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

import dcn.nn

WITH_EXAMPLES = (
    *("DCNv3", "DCNv4", "DeformConv2d", "DeformConvTranspose2d", "DeformDepthwiseConv2d", "DeformPSRoIPool"),
    *("DeformRoIPool", "MultiScaleDeformableAttention"),
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name: str) -> None:
    layer = getattr(dcn.nn, name)
    known = {"torch": torch, name: layer}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    test = parser.get_doctest(inspect.getdoc(layer) or "", known, name, None, None)
    assert test.examples
    said: list[str] = []
    runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
