from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: it guards against power cuts, which no test makes, and takes seconds on a busy one."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
