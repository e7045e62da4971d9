from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dcn.engine.config import ScheduleConfig, WarmupConfig
from dcn.engine.optim import lr_factor, make_optimizer, parameter_groups, set_learning_rate

Floats = NDArray[np.float64]


def _network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()


@pytest.mark.parametrize("form", ["torch", "mxnet"])
@pytest.mark.parametrize("decay_bias", [True, False], ids=["decay-all", "decay-weights"])
def test_updates_follow_the_written_rule(form: str, decay_bias: bool) -> None:
    """Against the formulas in NumPy, with a rate that drops: there the two forms differ."""
    network = _network()
    schedule = ScheduleConfig(steps=6, momentum_form=form, weight_decay=0.1, decay_bias=decay_bias)  # type: ignore[arg-type]  # parametrised
    optimizer = make_optimizer(network, schedule)
    values: dict[str, Floats] = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
    moments = {name: np.zeros_like(value) for name, value in values.items()}
    rng = np.random.default_rng(0)
    for rate in (0.5, 0.5, 0.05, 0.05):
        set_learning_rate(optimizer, rate)
        for name, parameter in network.named_parameters():
            gradient = rng.normal(size=values[name].shape)
            parameter.grad = torch.from_numpy(gradient)
            decay = 0.1 if decay_bias or name.endswith("weight") else 0.0
            full = gradient + decay * values[name]
            inside, outside = (rate, 1.0) if form == "mxnet" else (1.0, rate)
            moments[name] = 0.9 * moments[name] - inside * full
            values[name] = values[name] + outside * moments[name]
        optimizer.step()
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=1e-12, atol=1e-12)


def test_adamw_follows_the_formula_of_its_paper() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in NumPy, with a factor on one group's rate."""
    network = _network()
    schedule = ScheduleConfig(steps=6, optimizer="adamw", lr=0.1, weight_decay=0.1, lr_multipliers={"0.*": 0.5})
    optimizer = make_optimizer(network, schedule)
    values: dict[str, Floats] = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    rng = np.random.default_rng(0)
    for step, rate in enumerate((0.1, 0.1, 0.01), 1):
        set_learning_rate(optimizer, rate)
        for name, parameter in network.named_parameters():
            gradient = rng.normal(size=values[name].shape)
            parameter.grad = torch.from_numpy(gradient)
            own = rate * (0.5 if name.startswith("0.") else 1.0)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            change = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            values[name] = values[name] - own * (0.1 * values[name] + change)
        optimizer.step()
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), values[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{"momentum_form": "mxnet"}, {"momentum": 1.0}], ids=["mxnet", "momentum-1"])
def test_adamw_refuses_what_it_cannot_follow(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="adamw expects momentum_form=torch and a momentum below 1, got"):
        ScheduleConfig(steps=6, optimizer="adamw", **options)


@pytest.mark.parametrize("named", ["mxnet", "adamw"])
def test_the_state_of_an_optimizer_is_restored(named: str) -> None:
    form: dict[str, Any] = {"momentum_form": "mxnet"} if named == "mxnet" else {"optimizer": "adamw"}
    schedule = ScheduleConfig(steps=6, lr=0.1, **form)

    def run(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            for parameter in network.parameters():
                parameter.grad = torch.full_like(parameter, float(step))
            optimizer.step()

    whole, halves = _network(), _network()
    run(whole, make_optimizer(whole, schedule), range(4))
    first = make_optimizer(halves, schedule)
    run(halves, first, range(2))
    second = make_optimizer(halves, schedule)
    second.load_state_dict(first.state_dict())
    run(halves, second, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


@pytest.mark.parametrize(
    ("step", "kind", "expected"),
    [
        (0, "linear", 0.1),
        (2, "linear", 0.1 + 0.9 * 2 / 4),
        (3, "constant", 0.1),
        (4, "linear", 1.0),
        (4, "constant", 1.0),
        (19, "linear", 1.0),
        (20, "linear", 0.5),
        (34, "linear", 0.5),
        (35, "linear", 0.25),
    ],
)
def test_the_rate_over_time(step: int, kind: str, expected: float) -> None:
    warmup = WarmupConfig(4, 0.1, kind)  # type: ignore[arg-type]  # parametrised
    schedule = ScheduleConfig(epochs=5, warmup=warmup, milestones=(2.0, 3.5), gamma=0.5)
    assert lr_factor(step, schedule, steps_per_epoch=10) == pytest.approx(expected)


def test_milestones_of_a_schedule_in_steps_are_steps() -> None:
    schedule = ScheduleConfig(steps=50, milestones=(7.0,))
    assert [lr_factor(step, schedule, 10) for step in (6, 7)] == [1.0, pytest.approx(0.1)]


def test_groups_by_pattern_and_kind() -> None:
    groups = parameter_groups(_network().named_parameters(), 0.1, False, {"0.*": 3.0, "*.bias": 9.0})
    actual = {name: (g["lr_multiplier"], g["weight_decay"]) for g in groups for name in g["names"]}
    assert actual == {"0.weight": (3.0, 0.1), "0.bias": (3.0, 0.0), "1.weight": (1.0, 0.1), "1.bias": (9.0, 0.0)}


def test_frozen_parameters_are_left_out() -> None:
    network = _network()
    network[0].requires_grad_(False)  # type: ignore[index]  # a Sequential
    groups = parameter_groups(network.named_parameters(), 0.1)
    assert [name for g in groups for name in g["names"]] == ["1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("frozen", "patterns", "message"),
    [
        (False, {"2.*": 1.0}, "expected parts of names of trainable parameters, got '2"),
        (True, {}, "is everything frozen"),
    ],
    ids=["pattern", "frozen"],
)
def test_groups_without_parameters_are_refused(frozen: bool, patterns: dict[str, float], message: str) -> None:
    network = _network().requires_grad_(not frozen)
    with pytest.raises(ValueError, match=message):
        parameter_groups(network.named_parameters(), 0.1, True, patterns)


def test_the_factors_of_a_network_count_where_the_recipe_says_nothing() -> None:
    network = _network()
    network.lr_multipliers = {"0.bias": 3.0, "1.weight": 0.01}  # type: ignore[assignment]
    optimizer = make_optimizer(network, ScheduleConfig(steps=1, lr_multipliers={"1.*": 0.5}))
    factors = {name: group["lr_multiplier"] for group in optimizer.param_groups for name in group["names"]}
    assert factors == {"0.weight": 1.0, "0.bias": 3.0, "1.weight": 0.5, "1.bias": 0.5}
