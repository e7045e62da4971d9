"""Plain data and ``key=value`` texts into frozen dataclasses; every error names the key in dotted form.

One grammar serves files and the command line: a list may be given as one value, and on the command line also without
brackets (``short=480,640``; pairs as ``scales=480x800,800x1333``; ``key=`` is the empty list, or ``null``).
"""

from __future__ import annotations

import re
import reprlib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dcn.engine.bounded_yaml import read_yaml
from dcn.engine.legacy import MOVED
from dcn.suggest import one_of, suggest

T = TypeVar("T")

_PAIR = re.compile(r"\s*(\d+)\s*x\s*(\d+)\s*")
_QUOTED = ("'", '"')
_BRACKETS = ("[", "{")


class Text(str):
    """A value as it stands on the command line; what it means depends on the type of its key."""

    __slots__ = ()


class _UnknownKeyError(ValueError):
    """A key that its section does not have."""

    def __init__(self, where: str, key: str, valid: Sequence[str]) -> None:
        super().__init__(f"{_join(where, key)}: unknown key")
        self.where, self.key, self.valid = where, key, valid


def parse(cls: type[T], value: Any, where: str = "") -> T:
    """Build the dataclass ``cls`` from a mapping; keys and types are checked all the way down.

    Args:
        cls: a dataclass whose fields are int, float, str, bool, ``Any``, ``Literal``, optional ones of these, tuples,
            ``dict[str, X]`` or further dataclasses.
        value: the mapping; values are plain data or :class:`Text`.
        where: dotted name of ``value``, for messages.

    Raises:
        ValueError: unknown or missing key, wrong type, or a check of the dataclass itself.
    """
    try:
        return _dataclass(cls, value, where)
    except _UnknownKeyError as error:
        raise ValueError(f"{error}; {_hint(cls, where, error)}") from None


def key_names(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of all keys of a dataclass, sections included."""
    for name, hint in get_type_hints(cls).items():
        yield _join(prefix, name)
        if is_dataclass(hint):
            yield from key_names(hint, _join(prefix, name))  # type: ignore[arg-type]  # is_dataclass also admits instances


def override(data: dict[str, Any], text: str) -> None:
    """Put ``"schedule.lr=0.01"`` into nested data; the value stays a :class:`Text` until it is parsed.

    Raises:
        ValueError: no ``=``, or a part of the key is a value instead of a section.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"override: expected key=value, such as schedule.lr=0.01, got {shown(text)}")
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ValueError(
                f"override {shown(text)}: expected {section!r} to be a section, got the value {shown(data)}"
            )
    data[last] = Text(value)


def shown(value: object) -> str:
    """A short form of any value for a message."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict = 3, 6, 6, 4
    return short.repr(str(value) if isinstance(value, Text) else value)


def _hint(cls: type[Any], root: str, error: _UnknownKeyError) -> str:
    """Keys of that very name in other sections first, then near names."""
    if error.key in MOVED:
        return f"its values are now in {MOVED[error.key]}"
    names = list(key_names(cls, root))
    same = [name for name in names if name.rpartition(".")[2] == error.key]
    if same:
        return f"did you mean {' or '.join(map(repr, same[:3]))}?"
    listing = "docs/recipes.md" if root == "" else None
    near = suggest(error.key, error.valid)
    if "options" in error.valid:
        return f"{near}; an option of the {error.where} is written as {_join(error.where, 'options')}.{error.key}"
    if near.startswith("did you mean") or error.where != root:
        return near
    leaves = {name.rpartition(".")[2]: name for name in reversed(names)}
    elsewhere = suggest(error.key, leaves, lists=listing)
    return re.sub(r"'(\w+)'", lambda match: repr(leaves.get(match[1], match[1])), elsewhere)


def _dataclass(cls: type[T], value: Any, where: str) -> T:
    value = _plain_text(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or 'recipe'}: expected a mapping of keys, got {shown(value)}")
    hints = get_type_hints(cls)
    for key in value:
        if key not in hints:
            raise _UnknownKeyError(where, _short(key), list(hints))
    for field in fields(cls):  # type: ignore[arg-type]  # T is a dataclass, which a TypeVar cannot say
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{_join(where, field.name)}: expected a value, got none; it has no default")
    arguments = {key: _convert(hints[key], item, _join(where, key)) for key, item in value.items()}
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}.{error}" if where else str(error)) from None


def _join(where: str, key: object) -> str:
    return f"{where}.{_short(key)}" if where else _short(key)


def _short(key: object) -> str:
    text = key if isinstance(key, str) else shown(key)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    try:
        if is_dataclass(hint):
            return _dataclass(hint, value, where)  # type: ignore[arg-type]  # is_dataclass also admits instances
        if origin in _GENERIC:
            return _GENERIC[origin](get_args(hint), value, where)
        return _anything(value) if hint is Any else _scalar(hint, value, where)
    except _NotYamlError as error:
        raise ValueError(f"{where}: {error}") from None


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """``X | None``, a number or a pair, and a number or a word."""
    inner = [kind for kind in kinds if kind is not type(None)]
    if len(inner) < len(kinds) and (value is None or (isinstance(value, Text) and value in ("", "null", "~"))):
        return None
    words = [word for kind in inner if get_origin(kind) is Literal for word in get_args(kind)]
    if words and isinstance(value, Text) and value.startswith(_QUOTED):
        value = _yaml(value)
    if isinstance(value, str) and str(value) in words:
        return str(value)
    inner = [kind for kind in inner if get_origin(kind) is not Literal] or inner
    pairs = [kind for kind in inner if get_origin(kind) is tuple]
    if len(inner) > 1 and pairs and _is_sequence(value):
        return _convert(pairs[0], value, where)
    return _convert(inner[0], value, where)


def _is_sequence(value: Any) -> bool:
    if isinstance(value, str):
        return _PAIR.fullmatch(value) is not None or value.lstrip().startswith("[")
    return isinstance(value, list | tuple)


def _mapping(kinds: tuple[Any, ...], value: Any, where: str) -> dict[str, Any]:
    value = _plain_text(value)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected a mapping such as {{key: value}}, got {shown(value)}")
    return {str(key): _convert(kinds[1], item, _join(where, key)) for key, item in value.items()}


def _literal(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, Text) and value.startswith(_QUOTED):
        value = _yaml(value)
    if isinstance(value, str) and str(value) in choices:
        return str(value)
    if value not in choices:
        raise ValueError(f"{where}: expected {one_of(map(str, choices), 'nothing')}, got {shown(value)}")
    return value


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = _items(value, pair=kinds == (int, int))
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    if len(kinds) != len(items):
        raise ValueError(f"{where}: expected {len(kinds)} entries, got {len(items)}: {shown(value)}")
    # A single value is a list of one: its error names the key alone.
    lone = not isinstance(value, list | tuple | Text)
    names = [where if lone else f"{where}[{index}]" for index in range(len(items))]
    return tuple(_convert(kind, item, name) for kind, item, name in zip(kinds, items, names, strict=True))


def _items(value: Any, pair: bool) -> Sequence[Any]:
    """The entries of a list, of one value, or of a text with or without brackets."""
    if value is None or isinstance(value, list | tuple):
        return value or ()
    if pair and isinstance(value, str) and (sides := _PAIR.fullmatch(value)):
        return (int(sides[1]), int(sides[2]))
    if not isinstance(value, Text):
        return (value,)
    return _listed(value) if value.strip() else ()


def _listed(value: Text) -> Sequence[Any]:
    if not any(sign in value for sign in (*_QUOTED, *_BRACKETS)):
        return [Text(part.strip()) for part in value.split(",")]
    try:
        parsed = _yaml(value)
    except _NotYamlError:
        # "[480, 800], [800, 1333]" is a list without its own brackets.
        parsed = _yaml(f"[{value}]")
    return parsed if isinstance(parsed, list) else (parsed,)


def _anything(value: Any) -> Any:
    """The value of a key that may be anything: as YAML, and a list where commas stand outside of brackets."""
    if not isinstance(value, Text):
        return _plain(value)
    parsed = _yaml(value)
    if isinstance(parsed, str) and "," in value and not value.lstrip().startswith(_QUOTED):
        return [_anything(Text(part.strip())) for part in value.split(",")]
    return parsed


def _plain(value: Any) -> Any:
    """A value in which no :class:`Text` is left; an override may lie anywhere in it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _anything(value) if isinstance(value, Text) else value


def _plain_text(value: Any) -> Any:
    return _yaml(value) if isinstance(value, Text) else value


def _scalar(kind: type, value: Any, where: str) -> Any:
    if isinstance(value, Text):
        value = _scalar_text(kind, value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**63 else value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        expected = "true or false" if kind is bool else kind.__name__
        raise ValueError(f"{where}: expected {expected}, got {shown(value)} ({type(value).__name__})")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{where}: expected {kind.__name__} of at most 64 bits, got {shown(value)}")
    return value


def _scalar_text(kind: type, value: Text) -> Any:
    if kind is str and not value.startswith(_QUOTED):
        return str(value)
    if kind is float and value.strip().lower().lstrip("+-") in ("nan", "inf"):
        return float(value)
    return _yaml(value)


class _NotYamlError(ValueError):
    """A text of the command line that is not YAML."""


def _yaml(text: str) -> Any:
    try:
        return read_yaml(str(text))
    except ValueError as error:
        raise _NotYamlError(str(error)) from None


_GENERIC: dict[Any, Callable[[tuple[Any, ...], Any, str], Any]] = {
    Union: _union,
    types.UnionType: _union,
    Literal: _literal,
    tuple: _tuple,
    dict: _mapping,
}
