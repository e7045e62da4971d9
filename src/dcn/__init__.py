"""Deformable convolutional networks: operators, networks, training, evaluation and pictures.

The operators live in :mod:`dcn.ops`, modules with parameters in :mod:`dcn.nn`, networks in :mod:`dcn.models`.
:func:`dcn.load` gives a network ready to predict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dcn.api import load as load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # `import dcn` stays light: the whole system is imported when it is asked for.
    if name == "load":
        from dcn.api import load

        return load
    raise AttributeError(f"module 'dcn' has no attribute {name!r}")
