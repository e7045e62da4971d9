"""The options of a builder as one flat table, the form of recipes and weights files.

Where a builder takes a spec of a backbone, the parameters of the spec stand among its own options: ``depth=18`` for
``backbone=ResNetSpec(depth=18)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from torch import nn

from dcn.models.backbones.libraries import library_spec
from dcn.models.backbones.specs import AlignedInceptionResNetSpec, BackboneSpec, DeformableSpec, architecture_spec
from dcn.suggest import suggest

M = TypeVar("M", bound=nn.Module)

# Names that files of earlier versions have.
_OLD_NAMES = {"deform_stages": "deform_layers"}
# Stated in files although the one form of Aligned-Inception-ResNet leaves no choice.
_ALIGNED_FORM = {"depth": 101, "style": "caffe", "pool": "ceil"}


def flat_options(builder: Callable[..., nn.Module]) -> dict[str, object]:
    """The keyword options of a builder with their defaults, those of its backbone among them."""
    own = _keywords(builder)
    spec = own.pop("backbone", None)
    return (_values(spec) if isinstance(spec, BackboneSpec) else {}) | own


def make_model(builder: Callable[..., M], num_classes: int, **options: object) -> M:
    """Calls a builder with flat options.

    Args:
        builder: such as :func:`dcn.models.detection.rcnn_fpn`.
        num_classes: its first argument.
        options: see :func:`flat_options`; or ``backbone``, a spec, a module or a mapping such as
            ``{"timm": "resnet50d"}`` (:func:`dcn.models.backbones.library_spec`), and no parameter of a
            backbone. Names of earlier versions (``deform_stages``, ``architecture``) are understood.

    Raises:
        ValueError: an unknown option, both ``backbone`` and a parameter of it, or a value that the model does not
            exist with.
    """
    own = _keywords(builder)
    spec = own.get("backbone")
    given: dict[str, Any] = {_OLD_NAMES.get(name, name): value for name, value in options.items()}
    if "backbone" in given or not isinstance(spec, BackboneSpec):
        _check_names(given, own, "; parameters of a backbone belong into its spec" if "backbone" in given else "")
        if isinstance(given.get("backbone"), Mapping):
            given["backbone"] = library_spec(given["backbone"])
        return builder(num_classes, **given)
    spec, given = _with_architecture(spec, given)
    of_spec = _values(spec).keys()
    _check_names(given, own.keys() | of_spec, "")
    chosen: dict[str, Any] = {name: value for name, value in given.items() if name in of_spec}
    rest = {name: value for name, value in given.items() if name not in of_spec}
    return builder(num_classes, backbone=replace(spec, **chosen), **rest)


def _keywords(builder: Callable[..., nn.Module]) -> dict[str, object]:
    parameters = inspect.signature(builder).parameters
    return {name: p.default for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _values(spec: BackboneSpec) -> dict[str, object]:
    return {field.name: getattr(spec, field.name) for field in fields(spec)}


def _with_architecture(spec: BackboneSpec, given: Mapping[str, object]) -> tuple[BackboneSpec, dict[str, object]]:
    """The spec that ``architecture`` asks for, and the other options."""
    rest = dict(given)
    if not isinstance(spec, DeformableSpec):
        return spec, rest
    if "architecture" in rest:
        spec = architecture_spec(str(rest.pop("architecture")), spec)
    if isinstance(spec, AlignedInceptionResNetSpec):
        got = _ALIGNED_FORM | {name: rest.pop(name) for name in _ALIGNED_FORM if name in rest}
        if got != _ALIGNED_FORM:
            raise ValueError(
                "architecture: aligned_inception_resnet exists in one form; expected depth, style and pool as they are "
                f"by default (101, 'caffe', 'ceil'), got {', '.join(map(repr, got.values()))}"
            )
    return spec, rest


def _check_names(given: Mapping[str, object], known: Mapping[str, object] | set[str], remark: str) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"expected an option of the model, got {name!r}; {suggest(name, known)}{remark}")
