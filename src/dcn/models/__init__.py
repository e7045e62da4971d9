"""Whole models. :func:`build` makes one by name; :data:`MODELS` is the table of names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch

from dcn.models.options import flat_options, make_model
from dcn.models.zoo import MODELS, Model
from dcn.suggest import suggest

__all__ = ["MODELS", "Model", "build", "build_default", "default_test_size", "is_segmentation", "options_of"]


def options_of(name: str) -> dict[str, object]:
    """The options of a model with their defaults, those of its backbone among them.

    Raises:
        ValueError: for an unknown name, with near ones.
    """
    _check_name(name)
    return flat_options(MODELS[name])


def build(name: str, classes: Sequence[str], **options: object) -> Model:
    """Makes a model with random weights.

    Args:
        name: a key of :data:`MODELS`.
        classes: names of the classes in the order of the labels; they become ``model.classes``.
        options: see :func:`options_of`; or ``backbone``, a spec such as ``ResNetSpec(depth=18)``, a module of your own
            (:func:`dcn.models.backbones.make_backbone`), or one of another library (``{"timm": "resnet50d"}``).

    Raises:
        ValueError: for an unknown name or option (with near ones), no classes, or a class named twice.

    Example:
        >>> from dcn.models import build
        >>> model = build("faster_rcnn_r18_fpn", ["ace", "king"], width=0.25)
        >>> model.classes
        ('ace', 'king')
    """
    _check_name(name)
    if isinstance(classes, str):
        raise ValueError(f"classes: expected a list of names, got the text {classes!r}; write [{classes!r}]")
    if not isinstance(classes, Iterable):
        raise ValueError(
            f"classes: expected the names of the classes, got {classes!r}; without names write "
            "[str(i) for i in range(number)]"
        )
    names = tuple(classes)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"classes: expected at least one name and none twice, got {list(names[:20])}")
    try:
        model = make_model(MODELS[name], len(names), **options)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    model.classes = names
    return model


def build_default(name: str, num_classes: int | None = None) -> Model:
    """A model with default options and random weights.

    Args:
        name: a key of :data:`MODELS`.
        num_classes: ``None``: the default of its builder, or 80 where that has none.

    Raises:
        ValueError: for an unknown name, with near ones.
    """
    _check_name(name)
    builder = MODELS[name]
    if num_classes is None:
        first = next(iter(inspect.signature(builder).parameters.values()), None)
        num_classes = 80 if first is not None and first.default is inspect.Parameter.empty else None
    return builder() if num_classes is None else builder(num_classes)


def default_test_size(name: str) -> tuple[int, int]:
    """Shorter and largest longer side of the test images of a model with default options.

    Raises:
        ValueError: for an unknown name, with near ones.
    """
    size: Any = options_of(name).get("test_size")
    if size is None:  # a builder without this option
        with torch.device("meta"):
            size = build_default(name).test_size
    return int(size[0]), int(size[1])


@lru_cache(maxsize=128)
def is_segmentation(name: str) -> bool:
    """Whether a model classifies pixels; otherwise it is a detector.

    Raises:
        ValueError: for an unknown name, with near ones.
    """
    with torch.device("meta"):
        return build_default(name).task == "segmentation"


def _check_name(name: str) -> None:
    if name not in MODELS:
        raise ValueError(f"model: expected the name of a model, got {name!r}; {suggest(name, MODELS, '`dcn models`')}")
