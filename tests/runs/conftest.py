"""A small detector that several tests of predictions share, made once for each file."""

from __future__ import annotations

from pathlib import Path

import pytest

import dcn
from dcn.runs.predictor import Predictor
from tests.runs.small import write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return dcn.load(weights, device="cpu")
