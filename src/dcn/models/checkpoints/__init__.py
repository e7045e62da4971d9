"""Weights of other programs into our networks; one reader per format."""

from __future__ import annotations

from dcn.models.checkpoints.backbone import BackboneFacts, export_backbone, load_backbone, read_backbone
from dcn.models.checkpoints.loading import load_state
from dcn.models.checkpoints.mmdet import is_detector, read_detector
from dcn.models.checkpoints.mxnet import (
    export_mxnet,
    is_network,
    load_mxnet,
    network_of,
    read_params,
    write_params,
)
from dcn.models.checkpoints.reading import StateFile, read_state

__all__ = [
    "BackboneFacts",
    "StateFile",
    "export_backbone",
    "export_mxnet",
    "is_detector",
    "is_network",
    "load_backbone",
    "load_mxnet",
    "load_state",
    "network_of",
    "read_backbone",
    "read_detector",
    "read_params",
    "read_state",
    "write_params",
]
