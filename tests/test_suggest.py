"""The one "did you mean"."""

from __future__ import annotations

import math

import pytest

from dcn.suggest import cells_of, counted, measured, padded, suggest, summary_of

MANY = [f"name_{index:02d}" for index in range(20)]


@pytest.mark.parametrize(
    ("name", "names", "lists", "message"),
    [
        pytest.param("lt", ["lr", "momentum"], None, "did you mean 'lr'?", id="one-near"),
        pytest.param("abcd", ["abce", "abcf"], None, "did you mean 'abcf' or 'abce'?", id="two-near"),
        pytest.param(
            "flipp",
            ["flip", "flips", "clip", *MANY],
            "`list`",
            "did you mean 'flip', 'flips' or 'clip'? `list` lists all names",
            id="three",
        ),
        pytest.param("zzz", ["lr", "momentum"], None, "valid: lr, momentum", id="few-names"),
        pytest.param("zzz", MANY, None, f"valid: {', '.join(MANY[:10])}, ...", id="ten-of-many"),
        pytest.param("zzz", [], None, "none is valid", id="no-names"),
    ],
)
def test_the_message_ends_with_near_names(name: str, names: list[str], lists: str | None, message: str) -> None:
    assert suggest(name, names, lists) == message


@pytest.mark.parametrize(
    ("number", "words"), [pytest.param(n, w, id=w) for n, w in ((0, "0 images"), (1, "1 image"), (2, "2 images"))]
)
def test_a_number_and_its_noun_agree(number: int, words: str) -> None:
    assert counted(number, "image") == words


def test_the_line_of_a_log_leaves_out_what_was_not_measured() -> None:
    metrics = {"AP": 0.25, "APs": -1.0, "AP50": math.nan, "AP75": 0.0, "AR1": None, "AP/cat": 0.5}
    masks = {"mask/AP": 0.125, "mask/APs": 0.5, "mask/AP75": -1.0, "mask/AP/cat": 0.5}
    assert summary_of(metrics | masks) == {"AP": "0.2500", "AP75": "0.0000", "mask/AP": "0.1250"}
    assert [measured(value) for value in (-1.0, math.nan, None, -0.5)] == ["-", "-", "-", "-0.5000"]


@pytest.mark.parametrize(
    ("text", "cells"), [("cat é", 5), ("e\u0301", 1), ("猫", 2), ("ねこ 2", 6), ("고양이", 6), ("ｶﾅ", 2)]
)
def test_letters_take_one_cell_or_two(text: str, cells: int) -> None:
    assert cells_of(text) == cells
    assert padded(text, 8) == text + " " * (8 - cells)
