"""The options of a builder as one flat table, the form of recipes and weights files.

Where a builder takes a spec, such as that of its backbone, the parameters of the spec stand among its own options:
``depth=18`` for ``backbone=ResNetSpec(depth=18)``, ``test_size=(600, 1000)`` for
``detections=DetectionSpec(test_size=(600, 1000))``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
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
    """The keyword options of a builder with their defaults, those of its specs among them."""
    options: dict[str, object] = {}
    for name, default in _keywords(builder).items():
        options |= _values(default) if _is_spec(default) else {} if name == "backbone" else {name: default}
    return options


def make_model(builder: Callable[..., M], num_classes: int, **options: object) -> M:
    """Calls a builder with flat options.

    Args:
        builder: such as :func:`dcn.models.detection.rcnn_fpn`.
        num_classes: its first argument.
        options: see :func:`flat_options`; or a spec as a whole and none of its parameters. ``backbone`` may also be a
            module, or a mapping such as ``{"timm": "resnet50d"}`` (:func:`dcn.models.backbones.library_spec`). Names of
            earlier versions (``deform_stages``, ``architecture``) are understood.

    Raises:
        ValueError: an unknown option, both a spec and a parameter of it, or a value that the model does not exist
            with.
    """
    own = _keywords(builder)
    given: dict[str, Any] = {_OLD_NAMES.get(name, name): value for name, value in options.items()}
    specs: dict[str, Any] = {
        name: default for name, default in own.items() if _is_spec(default) and not _is_whole(name, default, given)
    }
    if isinstance(specs.get("backbone"), BackboneSpec):
        specs["backbone"], given = _with_architecture(specs["backbone"], given)
    if isinstance(given.get("backbone"), Mapping):
        given["backbone"] = library_spec(given["backbone"])
    spec_of = {name: key for key, spec in specs.items() for name in _values(spec)}
    known = (own.keys() - specs.keys()) | spec_of.keys()
    _check_names(given, known, "; parameters of a backbone belong into its spec" if "backbone" in given else "")
    arguments = {name: value for name, value in given.items() if name not in spec_of}
    for key, spec in specs.items():
        arguments[key] = replace(spec, **{name: value for name, value in given.items() if spec_of.get(name) == key})
    return builder(num_classes, **arguments)


def _is_spec(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _is_whole(name: str, default: object, given: Mapping[str, object]) -> bool:
    """Whether a spec is given as a whole; a module is a whole backbone."""
    return name in given and (name == "backbone" or isinstance(given[name], type(default)))


def _keywords(builder: Callable[..., nn.Module]) -> dict[str, object]:
    parameters = inspect.signature(builder).parameters
    return {name: p.default for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _values(spec: Any) -> dict[str, object]:
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


def _check_names(given: Mapping[str, object], known: set[str], remark: str) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"expected an option of the model, got {name!r}; {suggest(name, known)}{remark}")
