"""Add this package's translations to torch's table of ONNX translations, without importing either before its time.

torch builds that table anew for every export (``ONNXRegistry.from_torchlib``) and has no public way to add to it but an
argument of ``torch.onnx.export``. :func:`watch` waits for torch to import the module with the table, which happens with
the first use of ``torch.onnx``, and wraps the method that fills it. The wrapper adds entries for operators named
``dcn::`` and, where torch has none, for the few of its own that this package's models need. Exports of other models
stay as they are, and a ``custom_translation_table`` of the caller goes before it.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from dcn.on_import import when_imported

MODULE = "torch.onnx._internal.exporter._registration"
"""Where torch keeps its table."""


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
    when_imported(MODULE, extend)
