"""Reading and writing recipes: shipped or own YAML files, ``base:``, and ``key=value`` overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from dcn.checksums import open_sealed, seal
from dcn.engine.config import Recipe
from dcn.engine.legacy import current_keys
from dcn.plugins import Table, use_plugins
from dcn.suggest import suggest

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
MAX_RECIPE_BYTES = 1_000_000
MAX_BASES = 20
_SAME_PRECISION = {"fp32": "off", "float32": "off"}


def _is_file(row: Any) -> bool:
    return isinstance(row, str | PathLike) and Path(row).is_file()


NAMED: Table[str | Path] = Table(
    "dcn.recipes", {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}, "the path of a YAML file", _is_file
)
"""Files of recipes by name: those of the package and those of plug-ins."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, and of those that plug-ins add."""
    return sorted(NAMED)


def find_recipe(name: str | Path, beside: Path | None = None) -> Path:
    """The file of a shipped recipe or of a path.

    Args:
        name: a path, or the name of a shipped recipe.
        beside: folder in which ``name`` is looked for first, with or without ``.yaml``.

    Raises:
        ValueError: no such recipe or file.
    """
    text = str(name)
    path = Path(text).expanduser()
    is_path = text.endswith((".yaml", ".yml")) or "/" in text
    candidates = [path] if is_path else [Path(NAMED[text])] if text in NAMED else []
    if beside is not None:
        candidates = [beside / path, beside / f"{path}.yaml", *candidates]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if path.is_dir():
        own = path / "recipe.yaml"
        hint = f"; continue the run with --resume, or begin anew from {own}" if own.is_file() else ""
        raise ValueError(f"recipe: expected a file, got the folder {text!r}{hint}")
    if is_path:
        raise ValueError(
            f"recipe: expected a file, got {text!r}, which does not exist (looked for from {beside or Path.cwd()})"
        )
    hint = suggest(text, recipe_names(), lists="`dcn train --list`")
    raise ValueError(f"recipe: expected a shipped recipe or a .yaml file, got {text!r}; {hint}")


def shipped_weights() -> dict[str, Path]:
    """The weights files that come with the recipes, by name."""
    return {path.name: path for path in sorted((RECIPES / "weights").iterdir())}


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its bases, apply ``key=value`` overrides and check everything.

    Args:
        name: shipped name or path of a YAML file.
        overrides: ``"schedule.lr=0.01"``, ``"transforms.short=480,640"``...; see :mod:`dcn.engine.parse`.

    Raises:
        ValueError: unknown file, unknown key, wrong type or value; the message names the key.
    """
    from dcn.engine.parse import override, parse

    use_named_plugins(overrides)
    data = _read_with_bases(find_recipe(name), ())
    for text in overrides:
        override(data, text)
    if plugin := NAMED.plugin_of(str(name)):
        data["plugins"] = [*dict.fromkeys((*_plugins_of(data), plugin))]
    if isinstance(amp := data.get("amp"), str):
        data["amp"] = _SAME_PRECISION.get(amp, amp)
    try:
        return parse(Recipe, data)
    except ValueError as error:
        raise ValueError(f"recipe {str(name)!r}: {error}") from None


def use_named_plugins(overrides: Sequence[str]) -> None:
    """Make the modules known that ``plugins=...`` among these ``key=value`` words names."""
    from dcn.engine.parse import override

    given: dict[str, Any] = {}
    for text in overrides:
        if text.startswith("plugins="):
            override(given, text)
    use_plugins(*_plugins_of(given))


def _plugins_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that the key ``plugins`` of a recipe's content names."""
    from dcn.engine.parse import parse

    return parse(_Plugins, {"plugins": data["plugins"]}).plugins if "plugins" in data else ()


@dataclass(frozen=True)
class _Plugins:
    plugins: tuple[str, ...] = ()


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with ``~`` and relative paths resolved from here, so that its run evaluates from any directory."""
    data, model = recipe.data, recipe.model
    root = None if data.root is None else str(Path(data.root).expanduser().absolute())
    files = {key: Path(getattr(model, key) or "").expanduser() for key in ("weights", "backbone_weights")}
    # The name of a shipped file stays a name: another machine has it elsewhere.
    resolved: dict[str, Any] = {
        key: str(path.absolute()) for key, path in files.items() if getattr(model, key) and path.exists()
    }
    return replace(recipe, data=replace(data, root=root), model=replace(model, **resolved))


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML that :func:`load_recipe` reads back to an equal one, below a line with its checksum."""
    import yaml

    return seal(yaml.safe_dump(_plain(asdict(recipe)), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    from dcn.engine.bounded_yaml import read_yaml

    if path.resolve() in seen:
        names = " -> ".join(p.name for p in (*seen, path))
        raise ValueError(f"recipe {path}: expected bases that do not lead back to it, got {names}")
    try:
        data = read_yaml(_sealed_part(path))
    except ValueError as error:
        raise ValueError(f"recipe {path}: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"recipe {path}: expected a mapping of sections, got {type(data).__name__}")
    base = data.pop("base", None)
    data = current_keys(data)
    try:
        use_plugins(*_plugins_of(data))
    except ValueError as error:
        raise ValueError(f"recipe {path}: {error}") from error
    if base is None:
        return data
    if len(seen) >= MAX_BASES:
        raise ValueError(f"recipe {path}: expected at most {MAX_BASES} bases one upon the other, got more")
    of_base = _read_with_bases(find_recipe(str(base), path.parent), (*seen, path.resolve()))
    plugins = dict.fromkeys((*_plugins_of(of_base), *_plugins_of(data)))
    return _merge(of_base, {**data, "plugins": [*plugins]} if plugins else data)


def _sealed_part(path: Path) -> str | bytes:
    """The document of a recipe file; where it carries a checksum, the checksum fits."""
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ValueError(f"expected at most {MAX_RECIPE_BYTES:,} bytes, got {path.stat().st_size:,}")
    content = path.read_bytes()
    try:
        return open_sealed(content.decode(), path.name)
    except UnicodeDecodeError:
        # UTF-16 has a mark that the YAML reader knows; anything else it refuses.
        return content


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
