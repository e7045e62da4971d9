"""A model made ready for inference: prepared, compiled, or recorded as CUDA graphs."""

from __future__ import annotations

from dcn.models.inference.cuda_graphs import accelerate
from dcn.models.inference.prepare import PRECISIONS, Precision, prepare

__all__ = ["PRECISIONS", "Precision", "accelerate", "prepare"]
