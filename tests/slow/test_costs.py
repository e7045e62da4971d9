"""The table of costs against the counts of all networks: a minute."""

from __future__ import annotations

import pytest

from dcn.analysis import model_costs
from dcn.models import MODELS
from dcn.models.zoo.costs import COSTS


@pytest.mark.parametrize("name", MODELS)
def test_costs_are_counted(name: str) -> None:
    parameters, count = model_costs(name)
    actual = (parameters, round(count.total / 1e9, 1))
    assert COSTS.get(name) == actual, f'write "{name}": {actual}, into the table'
