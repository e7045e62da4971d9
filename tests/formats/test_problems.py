from __future__ import annotations

from pathlib import Path

import pytest

from dcn.formats.problems import Problem, attempt, refuse


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem(Path("a.xml"), "object 3 (dog)", "is wrong"), "a.xml: object 3 (dog): is wrong"),
        (Problem(Path("a.xml"), "", "is wrong"), "a.xml: is wrong"),
    ],
    ids=["entry", "file"],
)
def test_one_line(problem: Problem, line: str) -> None:
    assert str(problem) == line
    with pytest.raises(ValueError) as caught:
        refuse(problem)
    assert str(caught.value) == line


def test_attempt_reports_value_errors_alone() -> None:
    problems: list[Problem] = []
    assert attempt(lambda: 5, problems.append, Path("f"), "e") == 5
    assert attempt(lambda: int("x"), problems.append, Path("f"), "e") is None
    assert [str(problem) for problem in problems] == ["f: e: invalid literal for int() with base 10: 'x'"]
    with pytest.raises(KeyError):
        attempt(lambda: {"a": 1}["x"], problems.append, Path("f"), "e")
