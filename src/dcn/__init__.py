"""Deformable convolutional networks: operators, models, training, evaluation, prediction and pictures.

The operators live in :mod:`dcn.ops`, modules with parameters in :mod:`dcn.nn`, models in :mod:`dcn.models`.

>>> run = dcn.train("bccd_deformable", data="data/bccd")
>>> metrics = dcn.evaluate(run, split="test")
>>> detections = dcn.load(run).predict("photo.jpg", min_score=0.5)
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from dcn.export import hook as _onnx

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dcn import analysis as analysis
    from dcn import compat as compat
    from dcn import data as data
    from dcn import metrics as metrics
    from dcn import models as models
    from dcn import nn as nn
    from dcn import ops as ops
    from dcn import report as report
    from dcn import runs as runs
    from dcn import structures as structures
    from dcn import vis as vis
    from dcn.plugins import use_plugins as use_plugins
    from dcn.runs.compare import compare as compare
    from dcn.runs.evaluate import evaluate as evaluate
    from dcn.runs.explore import explore as explore
    from dcn.runs.export import export as export
    from dcn.runs.load import load as load
    from dcn.runs.predictor import Predictor as Predictor
    from dcn.runs.train import Run as Run
    from dcn.runs.train import train as train
    from dcn.tta import TTA as TTA

# `import dcn` stays light: the whole system is imported when it is used.
_PUBLIC = {
    "Predictor": "dcn.runs.predictor",
    "Run": "dcn.runs.train",
    "TTA": "dcn.tta",
    "compare": "dcn.runs.compare",
    "evaluate": "dcn.runs.evaluate",
    "explore": "dcn.runs.explore",
    "load": "dcn.runs.load",
    "train": "dcn.runs.train",
    "use_plugins": "dcn.plugins",
}
_MODULES = ("analysis", "compat", "data", "metrics", "models", "nn", "ops", "report", "runs", "structures", "vis")
__all__ = [
    "TTA",
    "Predictor",
    "Run",
    "__version__",
    "compare",
    "evaluate",
    "explore",
    "export",
    "load",
    "train",
    "use_plugins",
]


# torch.onnx.export learns this package's operators when it is first used; nothing is imported before.
_onnx.watch()


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        try:
            return getattr(importlib.import_module(_PUBLIC[name]), name)
        except ModuleNotFoundError as error:
            from dcn.extras import EXTRAS, missing_package

            if (error.name or "").partition(".")[0] in EXTRAS:
                raise missing_package(str(error.name)) from error
            raise
    if name in _MODULES:
        return importlib.import_module(f"dcn.{name}")
    raise AttributeError(f"module 'dcn' has no attribute {name!r}{_hint(name)}")


def _hint(name: str) -> str:
    """Where a layer or an operator is that was looked for here."""
    if name.startswith("_") or importlib.util.find_spec(f"dcn.{name}") is not None:
        return ""  # asked for by inspect and others; a file of the package, whose import asks here first
    parts = ("dcn.nn", "dcn.ops")
    return next((f"; it is {part}.{name}" for part in parts if name in importlib.import_module(part).__all__), "")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_MODULES})
