"""Plain YAML data into frozen dataclasses: every unknown key and every wrong type is an error that names its place."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def nearest(name: str, names: Iterable[str]) -> str:
    """``"did you mean 'lr'?"`` where a valid name is near, else the list of valid names."""
    names = sorted(names)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names)}"


def parse(cls: type[T], value: Any, where: str = "") -> T:
    """Build the dataclass ``cls`` from a mapping, checking keys and types all the way down.

    Args:
        cls: a dataclass whose fields are int, float, str, bool, ``Any``, ``Literal``, optional ones of these, tuples,
            ``dict[str, X]`` or further dataclasses.
        value: what the YAML reader gave.
        where: dotted place of ``value``, for messages.

    Raises:
        ValueError: unknown or missing key, wrong type, or a check of the dataclass itself.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or 'recipe'}: expected a mapping of keys, got {value!r}")
    hints = get_type_hints(cls)
    for key in value:
        if key not in hints:
            raise ValueError(f"{_join(where, key)}: unknown key; {nearest(key, hints)}")
    for field in fields(cls):  # type: ignore[arg-type]  # T is a dataclass, which a TypeVar cannot say
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{_join(where, field.name)}: missing, and it has no default")
    arguments = {key: _convert(hints[key], item, _join(where, key)) for key, item in value.items()}
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}.{error}" if where else str(error)) from None


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return parse(hint, value, where)  # type: ignore[arg-type]  # is_dataclass also admits instances
    if origin in _GENERIC:
        return _GENERIC[origin](get_args(hint), value, where)
    return value if hint is Any else _scalar(hint, value, where)


def _optional(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    inner = [kind for kind in kinds if kind is not type(None)]
    return None if value is None else _convert(inner[0], value, where)


def _mapping(kinds: tuple[Any, ...], value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected a mapping, got {value!r}")
    return {str(key): _convert(kinds[1], item, _join(where, key)) for key, item in value.items()}


def _literal(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in choices:
        raise ValueError(f"{where}: unknown value {value!r}; {nearest(str(value), map(str, choices))}")
    return value


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected a list such as [1, 2], got {value!r}")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where}: expected {len(kinds)} entries, got {len(value)}: {value!r}")
    return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}: expected {kind.__name__}, got {value!r} ({type(value).__name__})")
    return value


_GENERIC: dict[Any, Callable[[tuple[Any, ...], Any, str], Any]] = {
    Union: _optional,
    types.UnionType: _optional,
    Literal: _literal,
    tuple: _tuple,
    dict: _mapping,
}
