"""Modules that stand in for other people's packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from dcn.compat._layers import Refused

Contents = Mapping[str, Mapping[str, Any]]
"""From the full name of a module to what it holds; a package stands before its modules."""


def works(name: str, attribute: str) -> bool:
    """Whether a module is there, loads and has an attribute."""
    try:
        return hasattr(importlib.import_module(name), attribute)
    except (ImportError, OSError, AttributeError):
        return False


class Stub(ModuleType):
    """A compiled extension that is missing: every function that is asked for is there, and refuses to be called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> Any:
            raise Refused(
                f"{self.__name__}.{name}: expected a compiled extension, got none; dcn.compat computes what deformable "
                "layers, RoI pooling, suppression and attention need, not this: build the extension"
            )

        return missing


def put_stub(name: str) -> None:
    """Let imports find a :class:`Stub`."""
    stub = Stub(name)
    stub.__file__ = __file__
    sys.modules[name] = stub


def fill(contents: Contents) -> tuple[str, ...]:
    """Put the modules where imports find them; returns their names."""
    for name, held in contents.items():
        package = any(other.startswith(f"{name}.") for other in contents)
        module = ModuleType(name, f"{name} by dcn.compat")
        module.__spec__ = ModuleSpec(name, loader=None, is_package=package)
        if package:
            module.__path__ = []
        vars(module).update(held)
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent in sys.modules and not hasattr(sys.modules[parent], last):
            setattr(sys.modules[parent], last, module)
    return tuple(contents)
