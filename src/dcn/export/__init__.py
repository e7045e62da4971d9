"""The way out: ONNX. ``dcn.export(...)``, the module itself as a function, is :func:`dcn.runs.export.export`.

``import dcn`` is enough for ``torch.onnx.export`` to know every operator of this package: :mod:`dcn.export.hook` adds
the translations of :mod:`dcn.export.operators` when torch builds its table of them. Nothing of ONNX is imported before.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The translations as the argument ``custom_translation_table`` of ``torch.onnx.export`` takes them.

    They are added by themselves; this is for a program that builds its own table, and for versions of torch in which
    the table cannot be reached.

    Returns:
        From operator to translation.

    Raises:
        ImportError: onnxscript is not installed.
    """
    from dcn.export.operators import translations

    return translations()


class _Verb(ModuleType):
    """This package and the verb have one name: the package can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``dcn.export(source, output, ...)``, see :func:`dcn.runs.export.export`."""
        return importlib.import_module("dcn.runs.export").export(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
