"""What of a backbone is trained: fixed parameters, and batch norm whose statistics stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

NormRule = Literal["eval", "frozen", "train"]
"""See :class:`dcn.models.backbones.DeformableSpec`."""


def freeze(backbone: nn.Module, frozen: Iterable[nn.Module], norm: NormRule) -> None:
    """Fix the parameters of the ``frozen`` parts, and those of every batch norm where ``norm`` is ``"frozen"``."""
    norms = batch_norms([backbone]) if norm == "frozen" else []
    for part in (*frozen, *norms):
        part.requires_grad_(False)


def keep_statistics(backbone: nn.Module, frozen: Iterable[nn.Module], norm: NormRule) -> None:
    """Set batch norm to evaluation where its statistics are fixed: in the ``frozen`` parts, or everywhere."""
    for module in batch_norms(frozen if norm == "train" else [backbone]):
        module.eval()


def batch_norms(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """Every batch norm in these parts."""
    return [module for part in parts for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
