from __future__ import annotations

import pytest

from dcn.engine.recipe import RECIPES
from dcn.models import MODELS
from dcn.models.published import PUBLISHED

LATER = [name for name, row in PUBLISHED.items() if row.source.startswith("mmdetection")]


def test_every_row_is_a_model() -> None:
    assert PUBLISHED.keys() <= MODELS.keys()


@pytest.mark.parametrize("name", LATER)
def test_the_recipe_of_a_row_promises_the_same_figure(name: str) -> None:
    first_line = (RECIPES / f"{name}_1x.yaml").read_text().splitlines()[0]
    assert f"Published: {PUBLISHED[name].figure} on val2017." in first_line
