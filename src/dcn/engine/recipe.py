"""Reading and writing recipes: shipped or own YAML files, ``base:``, and ``key=value`` overrides."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from dcn.engine.config import InferenceConfig, Recipe, SegmentConfig
from dcn.engine.typed import nearest, parse

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, so that ``1e-4`` is a number and ``off`` a word; a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in mapping:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|nan))$"),
    list("-+.0123456789"),
)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(name: str | Path, beside: Path | None = None) -> Path:
    """The file of a shipped recipe or of a path (``beside``: folder that relative paths are looked for in first).

    Raises:
        ValueError: no such recipe or file.
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")) or "/" in text:
        for path in ([beside / text] if beside else []) + [Path(text)]:
            if path.is_file():
                return path
        raise ValueError(f"recipe {text!r}: no such file")
    path = RECIPES / f"{text}.yaml"
    if not path.is_file():
        raise ValueError(f"recipe {text!r}: neither shipped nor a .yaml file; {nearest(text, recipe_names())}")
    return path


def find_weights_file(name: str | Path) -> Path:
    """A weights file: the path itself, or a file of that name among the weights that come with the recipes.

    Raises:
        ValueError: neither is there.
    """
    shipped = RECIPES / "weights"
    found = next((path for path in (Path(name), shipped / name) if path.is_file()), None)
    if found is None:
        names = sorted(path.name for path in shipped.iterdir())
        raise ValueError(f"weights {str(name)!r}: no such file, and not one that is shipped ({', '.join(names)})")
    return found


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its bases, apply ``key=value`` overrides and check everything.

    Args:
        name: shipped name or path of a YAML file.
        overrides: ``"schedule.lr=0.01"``...; the value is read as YAML.

    Raises:
        ValueError: unknown file, unknown key, wrong type or value; the message names the key.
    """
    data = _read_with_bases(find_recipe(name), ())
    for override in overrides:
        _override(data, override)
    try:
        return parse(Recipe, data)
    except ValueError as error:
        raise ValueError(f"recipe {str(name)!r}: {error}") from None


def parse_testing(overrides: Sequence[str]) -> InferenceConfig:
    """Test-time options from ``"flip=true"``, ``"scales=[[480, 800], [800, 1333]]"``...; values are YAML.

    Raises:
        ValueError: unknown key, wrong type or value.
    """
    data: dict[str, Any] = {}
    for override in overrides:
        _override(data, override)
    return parse(InferenceConfig, data, "testing")


def parse_segment(overrides: Sequence[str]) -> SegmentConfig:
    """Test-time options for label maps from ``"flip=true"``, ``"scales=[0.75, 1, 1.25]"``...; values are YAML.

    Raises:
        ValueError: unknown key, wrong type or value.
    """
    data: dict[str, Any] = {}
    for override in overrides:
        _override(data, override)
    return parse(SegmentConfig, data, "segment")


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML that :func:`load_recipe` reads back to an equal one."""
    return yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ValueError(f"recipe {path}: its bases lead back to itself: {' -> '.join(p.name for p in (*seen, path))}")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(f"recipe {path}: expected a mapping of sections, got {type(data).__name__}")
    base = data.pop("base", None)
    if base is None:
        return data
    return _merge(_read_with_bases(find_recipe(str(base), path.parent), (*seen, path)), data)


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"override {text!r}: expected key=value, such as schedule.lr=0.01")
    *sections, last = key.split(".")
    for section in sections:
        inner = data.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"override {text!r}: {section!r} is a value, not a section")
        data = inner
    try:
        data[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"override {text!r}: not valid YAML: {' '.join(str(error).split())}") from None
