"""Act on a module of torch when it is imported, without importing it before its time."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _Watcher(MetaPathFinder):
    """Sees one module being imported, and is gone."""

    def __init__(self, name: str, act: Callable[[ModuleType], None]) -> None:
        self.name, self.act = name, act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Nothing for all modules but one, whose loader then acts."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.act(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def when_imported(name: str, act: Callable[[ModuleType], None]) -> None:
    """Call ``act`` with a module now if it is there, and otherwise when it comes. Further calls change nothing.

    Args:
        name: of the module.
        act: changes the module; where it is there already, it is called each time.
    """
    module = sys.modules.get(name)
    if module is not None:
        act(module)
    elif not any(isinstance(finder, _Watcher) and (finder.name, finder.act) == (name, act) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher(name, act))
