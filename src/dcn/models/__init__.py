"""Whole networks. :func:`build` makes one by name; :data:`MODELS` is the table of names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Sequence

from dcn.models.zoo import MODELS, Model

__all__ = ["MODELS", "Model", "build", "options_of"]


def options_of(name: str) -> dict[str, object]:
    """The options of a model with their defaults.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    _check_name("model", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters
    return {key: p.default for key, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(name: str, classes: Sequence[str], **options: object) -> Model:
    """Makes a network.

    Args:
        name: a key of :data:`MODELS`.
        classes: names of the classes in the order of the labels; they become ``model.classes``.
        options: keyword options of the builder, see :func:`options_of`.

    Raises:
        ValueError: for an unknown name or option (with the nearest one), no classes, or a class named twice.
    """
    known = options_of(name)
    for option in options:
        _check_name(f"option of {name}", option, known)
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes: expected at least one name and none twice, got {list(classes)}")
    model = MODELS[name](len(classes), **options)
    model.classes = tuple(classes)
    return model


def _check_name(what: str, name: str, known: Collection[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {what}: {name!r}{hint} (valid: {', '.join(sorted(known))})")
