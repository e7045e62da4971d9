"""Deformable convolutional networks: operators, networks, training, evaluation and pictures.

The operators live in :mod:`dcn.ops`, modules with parameters in :mod:`dcn.nn`, networks in :mod:`dcn.models`.
:func:`dcn.load` gives a detector ready to predict, :func:`dcn.load_segmenter` a network for label maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcn.export import hook as _onnx

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dcn.api import load as load
    from dcn.api import load_segmenter as load_segmenter

__all__ = ["__version__", "load", "load_segmenter"]


# torch.onnx.export learns this package's operators when it is first used; nothing is imported before.
_onnx.watch()


def __getattr__(name: str) -> Any:
    # `import dcn` stays light: the whole system is imported when it is asked for.
    if name in ("load", "load_segmenter"):
        from dcn import api

        return getattr(api, name)
    raise AttributeError(f"module 'dcn' has no attribute {name!r}")
