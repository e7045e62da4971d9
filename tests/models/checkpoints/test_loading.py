from __future__ import annotations

import pytest
import torch
from torch import nn

from dcn.models.checkpoints import load_state


def _module() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_everything_is_copied() -> None:
    module, state = _module(), {k: torch.rand_like(v.float()) for k, v in _module().state_dict().items()}
    del state["1.num_batches_tracked"]
    assert load_state(module, state, "file") == []
    for name, value in state.items():
        torch.testing.assert_close(module.state_dict()[name], value)


def test_problems_are_listed_by_name_and_nothing_is_loaded() -> None:
    module = _module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = {name: torch.full_like(value, 7) for name, value in before.items()}
    del state["0.bias"]
    state["0.weight"] = torch.zeros(5, 2)
    state["fc.weight"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"file: expected the tensors of the model, got 3 differences; nothing was loaded"
    ) as info:
        load_state(module, state, "file")
    for line in (
        "missing: 0.bias [3]",
        "unexpected: fc.weight [1]",
        "misshapen: 0.weight: expected [3, 2], got [5, 2]",
    ):
        assert line in str(info.value)
    torch.testing.assert_close(dict(module.state_dict()), before)


@pytest.mark.parametrize(
    ("unusual", "word"),
    [
        (torch.zeros(3).to_sparse(), "sparse"),
        (torch.zeros(3, device="meta"), "without values"),
        (torch.zeros(3, dtype=torch.complex64), "complex"),
        (torch.tensor([1.0, float("nan"), 2]), "NaN or infinite"),
        (torch.tensor([1.0, 2, -float("inf")]), "NaN or infinite"),
    ],
    ids=["sparse", "meta", "complex", "nan", "inf"],
)
def test_values_that_are_no_plain_numbers_are_refused_before_any_is_copied(unusual: torch.Tensor, word: str) -> None:
    module = _module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = {name: torch.full_like(value, 7) for name, value in before.items()} | {"1.running_var": unusual}
    with pytest.raises(ValueError, match=f"got 1 differences; nothing was loaded:\n  {word}: 1.running_var"):
        load_state(module, state, "file")
    torch.testing.assert_close(dict(module.state_dict()), before)


def test_optional_names_keep_their_values() -> None:
    module = _module()
    state = {name: value for name, value in module.state_dict().items() if name != "0.bias"}
    assert load_state(module, state, "file", optional=lambda name: name == "0.bias") == ["0.bias"]
