"""Modules that stand in for other people's packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Contents = Mapping[str, Mapping[str, Any]]
"""From the full name of a module to what it holds; a package stands before its modules."""


def works(name: str, attribute: str) -> bool:
    """Whether a module is there, loads and has an attribute."""
    try:
        return hasattr(importlib.import_module(name), attribute)
    except (ImportError, OSError, AttributeError):
        return False


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
