"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Before anything imports Triton: without a GPU its kernels are tested in its interpreter, with one on the card.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

_ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and golden files that are too large for the repository."""
    folder = Path(os.environ.get("DCN_SHARED", _ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; name one with the environment variable DCN_SHARED")
    return folder


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """In tests of operators ``torch.empty`` is full of NaN, so that memory which nobody wrote is seen.

    Torch's deterministic mode does that (``torch.utils.deterministic.fill_uninitialized_memory``, on by default).
    """
    if "ops" not in request.path.relative_to(_ROOT).parts:
        yield
        return
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
