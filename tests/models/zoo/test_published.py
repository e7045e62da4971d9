from __future__ import annotations

import re

import pytest

from dcn.engine.recipe import RECIPES, load_recipe, recipe_names
from dcn.models import MODELS
from dcn.models.zoo.published import PUBLISHED, Published

ROWS = [(name, row) for name, rows in PUBLISHED.items() for row in rows]
IDS = [f"{row.recipe}-{row.source}-{row.metrics}" for _, row in ROWS]


def test_every_network_of_the_table_exists() -> None:
    assert PUBLISHED.keys() <= MODELS.keys()


@pytest.mark.parametrize(("name", "row"), ROWS, ids=IDS)
def test_a_row_has_a_recipe_for_its_network_and_its_data(name: str, row: Published) -> None:
    recipe = load_recipe(row.recipe)
    assert recipe.model.name == name
    formats = {"COCO": "coco", "VOC 2007": "voc", "VOC 2012": "voc_segmentation", "Cityscapes": "cityscapes"}
    assert recipe.data.format == next(value for start, value in formats.items() if row.data.startswith(start))
    assert ("multi-scale" in row.metrics) == bool(recipe.tta.scales)
    assert ("soft-NMS" in row.metrics) == (recipe.tta.suppression == "soft_nms_gaussian")
    assert ("box average" in row.metrics) == (recipe.tta.box_voting is not None)


@pytest.mark.parametrize("recipe", sorted({row.recipe for _, row in ROWS}))
def test_a_recipe_says_what_was_published(recipe: str) -> None:
    """Every number in the comment of a recipe is one of its rows; one row at least is told."""
    comment = "".join(line for line in (RECIPES / f"{recipe}.yaml").read_text().splitlines() if line[0] == "#")
    told = re.findall(r"(?<![\d.])[2-9]\d\.\d(?!\d)", comment)
    published = {number for _, row in ROWS if row.recipe == recipe for number in re.findall(r"\d\d\.\d", row.metrics)}
    assert told
    assert set(told) <= published


# The tables themselves: the number of rows that each has for the networks of this package.
TABLES = {"table 1": 15 + 10, "table 3": 7 + 7 + 5 + 10, "table 5": 14, "README": 4 + 2 + 4 + 4, "mmdetection": 17}


@pytest.mark.parametrize("table", TABLES)
def test_no_row_of_a_table_is_missing(table: str) -> None:
    numbers = table.removeprefix("table ")
    both = "tables 1 and 3" if numbers in "13" else table
    rows = [row for _, row in ROWS if table in row.source or both in row.source]
    assert len(rows) == TABLES[table]


def test_every_recipe_with_a_published_metric_is_a_row() -> None:
    told = {name for name in recipe_names() if "Published: " in (RECIPES / f"{name}.yaml").read_text()}
    assert told <= {row.recipe for _, row in ROWS}
