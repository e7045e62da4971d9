from __future__ import annotations

from tests.formats.fault_table import PAGE, render, split_page


def test_the_page_shows_what_the_tests_hold() -> None:
    """Where this fails: run ``python -m tests.formats.fault_table``."""
    assert split_page(PAGE.read_text(encoding="utf-8"))[1] == render()
