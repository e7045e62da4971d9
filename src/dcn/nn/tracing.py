"""Symbolic tracing by ``torch.fx``: a layer becomes one call, as the layers of ``torch.nn`` do."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


def is_traced(module: nn.Module, value: object) -> bool:
    """Whether ``value`` stands for a tensor of a trace in which the module is a part of another one."""
    return isinstance(value, Proxy) and _path(module, value) != ""


def recorded(module: nn.Module, first: Any, *others: Any) -> Any:
    """The call of a module as a node of the graph.

    Args:
        module: the layer.
        first: its first argument, for which :func:`is_traced` holds.
        others: those that follow.
    """
    return first.tracer.create_proxy("call_module", _path(module, first), (first, *others), {})


def _path(module: nn.Module, value: Proxy) -> str:
    tracer: Any = value.tracer
    path: str = tracer.path_of_module(module) if hasattr(tracer, "path_of_module") else ""
    return path
