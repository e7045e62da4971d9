"""Literal tables: models by name, their costs, and what was published with them."""

from __future__ import annotations

from dcn.models.zoo.models import MODELS, Model

__all__ = ["MODELS", "Model"]
