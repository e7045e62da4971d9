"""A module, or what wraps one: functions that look into a model accept a predictor too."""

from __future__ import annotations

from typing import Protocol

from torch import nn


class HasModel(Protocol):
    """Anything with a ``model``, such as what :func:`dcn.load` returns."""

    @property
    def model(self) -> nn.Module:
        """The module."""


def module_of(model: nn.Module | HasModel) -> nn.Module:
    """The module itself, or that of a predictor.

    Raises:
        ValueError: neither.
    """
    if isinstance(model, nn.Module):
        return model
    module = getattr(model, "model", None)
    if isinstance(module, nn.Module):
        return module
    raise ValueError(f"model: expected a torch.nn.Module or a predictor of dcn.load, got {type(model).__name__}")
