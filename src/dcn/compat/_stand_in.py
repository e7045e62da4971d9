"""Packages without their compiled extension: their own classes, over this package's operators."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from dcn.compat._layers import Refused
from dcn.compat._packages import works


class _Extension(ModuleType):
    """Has every function that is asked for, so that its users can be imported; calling one says what is missing."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> Any:
            raise Refused(
                f"{self.__name__}.{name}: expected a compiled function, got none; dcn.compat has those of deformable "
                f"layers, RoI pooling, suppression and attention: build {self.__name__} for the others"
            )

        return missing


def pretend(extension: str) -> None:
    """Let imports find an extension that is missing."""
    module = _Extension(extension)
    module.__file__ = __file__
    sys.modules[extension] = module


def put(module: str, names: Iterable[str], functions: Mapping[str, Any]) -> set[str]:
    """Put functions into an imported module and into its package, where these have them; what is new in the module."""
    filled = set()
    user, package = sys.modules.get(module), sys.modules.get(module.rpartition(".")[0])
    for name in names:
        if user is not None and hasattr(user, name) and getattr(user, name) is not functions[name]:
            setattr(user, name, functions[name])
            filled.add(name)
        if package is not None and hasattr(package, name):
            setattr(package, name, functions[name])
    return filled


def stand_in(
    extension: str, users: Mapping[str, Sequence[str]], functions: Mapping[str, Any], *, replace: bool
) -> tuple[str, ...]:
    """Put functions into the modules of a package where its extension is missing; the names of the functions, sorted.

    Args:
        extension: full name of the compiled module.
        users: names of functions by the full name of the module that calls them; the packages of these modules have
            the functions too.
        functions: by name.
        replace: where the extension works too.
    """
    if importlib.util.find_spec(extension.partition(".")[0]) is None:
        return ()
    if not works(extension, "__file__"):
        pretend(extension)
    elif not replace and not isinstance(sys.modules[extension], _Extension):
        return ()
    filled: set[str] = set()
    for module, names in users.items():
        importlib.import_module(module.rpartition(".")[0])
        filled |= put(module, names, functions)
    return tuple(sorted(filled))
