"""Add this package's translations to torch's table of ONNX translations, without importing either before its time.

torch builds that table anew for every export (``ONNXRegistry.from_torchlib``) and has no public way to add to it but an
argument of ``torch.onnx.export``. :func:`watch` waits for torch to import the module with the table, which happens with
the first use of ``torch.onnx``, and wraps the method that fills it. The wrapper adds entries for operators named
``dcn::`` and, where torch has none, for the few of its own that this package's models need. Exports of other models
stay as they are, and a ``custom_translation_table`` of the caller goes before it.
"""

from __future__ import annotations

import functools
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

MODULE = "torch.onnx._internal.exporter._registration"
"""Where torch keeps its table."""


class _Watcher(MetaPathFinder):
    """Sees one module being imported, and is gone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Nothing for all modules but one, whose loader then calls :func:`extend`."""
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            extend(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def extend(module: ModuleType) -> None:
    """Wrap the method that fills torch's table; leave a module alone that does not look as expected."""
    registry = getattr(module, "ONNXRegistry", None)
    fill = getattr(registry, "from_torchlib", None)
    if registry is None or fill is None or hasattr(fill, "extended_by_dcn"):
        return
    inner = fill.__func__

    @functools.wraps(inner)
    def from_torchlib(cls: Any, *args: Any, **kwargs: Any) -> Any:
        table = inner(cls, *args, **kwargs)
        from dcn.export.operators import register

        register(table)
        return table

    from_torchlib.extended_by_dcn = True  # type: ignore[attr-defined]
    registry.from_torchlib = classmethod(from_torchlib)


def watch() -> None:
    """Extend torch's table now if it is there, and otherwise when it comes. Further calls change nothing."""
    module = sys.modules.get(MODULE)
    if module is not None:
        extend(module)
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
