"""Parameter groups, the learning rate as a function of the step, SGD in both published forms, and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dcn.engine.config import ScheduleConfig


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    decay_bias: bool = True,
    lr_multipliers: Mapping[str, float] | None = None,
    own_multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters gathered by what the optimizer must do with them.

    Args:
        named: ``model.named_parameters()``.
        weight_decay: L2 penalty.
        decay_bias: ``True``: every parameter decays (mmdetection). ``False``: only names that end in ``weight``, norm
            scales included; biases and shifts do not (rule of the original MXNet code; its norm scales are ``gamma``).
        lr_multipliers: glob pattern on the name -> factor on the learning rate; the first match counts.
        own_multipliers: name -> factor, for parameters that no pattern matches: the published ones of the model.

    Returns:
        Groups for an optimizer with ``params``, ``names``, ``weight_decay`` and ``lr_multiplier``.

    Raises:
        ValueError: a pattern matches no trainable parameter, or nothing is trainable.
    """
    patterns = dict(lr_multipliers or {})
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    used: set[str] = set()
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        pattern = next((p for p in patterns if fnmatchcase(name, p)), None)
        used.update(p for p in patterns if fnmatchcase(name, p))
        multiplier = (own_multipliers or {}).get(name, 1.0) if pattern is None else patterns[pattern]
        decay = weight_decay if decay_bias or name.endswith(("weight", "gamma")) else 0.0
        empty: dict[str, Any] = {"params": [], "names": [], "weight_decay": decay, "lr_multiplier": multiplier}
        group = groups.setdefault((multiplier, decay), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    if unused := [pattern for pattern in patterns if pattern not in used]:
        names = ", ".join(map(repr, unused))
        raise ValueError(
            f"lr_multipliers: expected parts of names of trainable parameters, got {names}, which none has"
        )
    if not groups:
        raise ValueError("model: expected trainable parameters, got none; is everything frozen?")
    return list(groups.values())


def make_optimizer(model: nn.Module, schedule: ScheduleConfig) -> Optimizer:
    """The optimizer that the recipe describes; the learning rate is set before each step by :func:`set_learning_rate`.

    A model may carry ``lr_multipliers`` (parameter name -> factor); patterns of the recipe come before them.
    """
    named = list(model.named_parameters())
    own: Mapping[str, float] | None = getattr(model, "lr_multipliers", None)
    groups = parameter_groups(named, schedule.weight_decay, schedule.decay_bias, schedule.lr_multipliers, own)
    if schedule.optimizer == "adamw":
        return AdamW(groups, schedule.scaled_lr, betas=(schedule.momentum, 0.999))
    if schedule.momentum_form == "mxnet":
        return MxnetSGD(groups, schedule.scaled_lr, schedule.momentum)
    return SGD(groups, schedule.scaled_lr, schedule.momentum)


_MARKS = {"betas": "adamw", "nesterov": "sgd, momentum_form=torch"}  # in the groups of one kind of optimizer only


def check_same_kind(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Refuse the saved state of another kind of optimizer, which torch would load and then stumble over in a step.

    Raises:
        ValueError: names both kinds.
    """
    expected, got = (_kind(groups) for groups in (optimizer.param_groups, saved["param_groups"]))
    if expected != got:
        raise ValueError(f"optimizer: expected the state of {expected}, got that of {got}")


def _kind(groups: list[dict[str, Any]]) -> str:
    return next((kind for mark, kind in _MARKS.items() if mark in groups[0]), "sgd, momentum_form=mxnet")


class MxnetSGD(Optimizer):
    """SGD with the learning rate inside the momentum: ``m = momentum * m - lr * (g + wd * w); w = w + m``.

    Rule of the original MXNet code. ``torch.optim.SGD`` keeps the rate outside, so that a drop of the rate also shrinks
    what the momentum has gathered before; here it does not.

    Args:
        groups: as :func:`parameter_groups` gives them.
        lr: learning rate.
        momentum: of the gradient.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.9) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient; ``closure`` is not used."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, weights: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum"] for weight in weights]
        gradients = torch._foreach_add([w.grad for w in weights if w.grad is not None], weights, alpha=weight_decay)
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients, alpha=-lr)
        torch._foreach_add_(weights, buffers)


def lr_factor(step: int, schedule: ScheduleConfig, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied by at ``step`` (from 0): warm-up times the drops passed.

    During a constant warm-up the factor is ``warmup.factor``; a linear one rises from it to 1 (mmdetection:
    ``1 - (1 - step / steps) * (1 - factor)``). From the milestone's own step on the rate is multiplied by ``gamma``.
    """
    warmup = schedule.warmup
    factor = 1.0
    if step < warmup.steps:
        climbed = step / warmup.steps if warmup.kind == "linear" else 0.0
        factor = 1 - (1 - climbed) * (1 - warmup.factor)
    passed = sum(step >= schedule.in_steps(milestone, steps_per_epoch) for milestone in schedule.milestones)
    return factor * schedule.gamma**passed


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Give every group ``lr`` times its multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_multiplier"]


def gradient_norm(parameters: Iterable[Tensor], largest: float | None = None) -> float:
    """The norm of the whole gradient; where it is longer than ``largest``, the gradient is scaled down to that."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    if largest is not None:
        return float(nn.utils.clip_grad_norm_(trained, largest))
    return float(nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
