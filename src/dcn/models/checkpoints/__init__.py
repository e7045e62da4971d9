"""Weights of other programs into our models; one reader per format."""

from __future__ import annotations

from dcn.models.checkpoints.backbone import export_backbone, load_backbone, read_backbone
from dcn.models.checkpoints.facts import BackboneFacts
from dcn.models.checkpoints.loading import load_state
from dcn.models.checkpoints.mmdet import is_backbone_alone, is_detector, read_detector
from dcn.models.checkpoints.mxnet import (
    export_mxnet,
    is_model,
    load_mxnet,
    model_of,
    read_params,
    write_params,
)
from dcn.models.checkpoints.reading import StateFile, read_state

__all__ = [
    "BackboneFacts",
    "StateFile",
    "export_backbone",
    "export_mxnet",
    "is_backbone_alone",
    "is_detector",
    "is_model",
    "load_backbone",
    "load_mxnet",
    "load_state",
    "model_of",
    "read_backbone",
    "read_detector",
    "read_params",
    "read_state",
    "write_params",
]
