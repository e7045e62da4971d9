"""Backbones, and the specs that describe them."""

from __future__ import annotations

from dcn.models.backbones.aligned_inception_resnet import AlignedInceptionResNet
from dcn.models.backbones.libraries import LibraryBackbone, TimmSpec, TransformersSpec, library_spec
from dcn.models.backbones.resnet import ResNet, deformable_positions
from dcn.models.backbones.specs import (
    ORIGINAL_BACKBONE,
    ORIGINAL_PYRAMID_BACKBONE,
    RESNET50,
    AlignedInceptionResNetSpec,
    BackboneSpec,
    DeformableSpec,
    ResNetSpec,
    make_backbone,
)

__all__ = [
    "ORIGINAL_BACKBONE",
    "ORIGINAL_PYRAMID_BACKBONE",
    "RESNET50",
    "AlignedInceptionResNet",
    "AlignedInceptionResNetSpec",
    "BackboneSpec",
    "DeformableSpec",
    "LibraryBackbone",
    "ResNet",
    "ResNetSpec",
    "TimmSpec",
    "TransformersSpec",
    "deformable_positions",
    "library_spec",
    "make_backbone",
]
