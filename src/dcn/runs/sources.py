"""What a caller means: a run folder, a weights file or the name of a model; a recipe and its changes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from dcn.engine.checkpoint import find_weights
from dcn.engine.config import Recipe
from dcn.engine.folder import RECIPE_FILE
from dcn.engine.parse import override, parse
from dcn.engine.recipe import load_recipe, recipe_names, shipped_weights, use_named_plugins
from dcn.models import MODELS
from dcn.plugins import use_plugins
from dcn.runs.weights import HUB, hub_weights

StrPath = str | PathLike[str]
_PLAIN_TEXT = re.compile(r"[A-Za-z_./~][\w./~-]*")
_WEIGHTS = (".safetensors", ".onnx")
_YAML_WORDS = ("null", "Null", "NULL", "~", "true", "True", "false", "False")


EXPORTED = (".onnx", ".pt2")
"""Endings of the files of ``dcn export``."""


@dataclass(frozen=True)
class Source:
    """Weights of this package, and the run that they come from.

    Attributes:
        weights: the weights file.
        run: the run folder, if the file is in one.
    """

    weights: Path
    run: Path | None


def find_source(source: StrPath) -> Source | None:
    """The weights that a text means; ``None``: nothing is there.

    It is a file, a run folder (its best weights), a hub address, or the name of a model that comes with the package.

    Raises:
        ValueError: a folder without weights.
    """
    if fspath(source).startswith(HUB):
        return Source(hub_weights(fspath(source)), None)
    path = Path(fspath(source)).expanduser()
    if path.is_dir():
        return Source(find_weights(path), path if (path / RECIPE_FILE).is_file() else None)
    if not path.is_file():
        shipped = shipped_models().get(fspath(source))
        return None if shipped is None else Source(shipped, None)
    run = path.absolute().parent.parent
    return Source(path, run if path.absolute().parent.name == "weights" and (run / RECIPE_FILE).is_file() else None)


def shipped_models() -> dict[str, Path]:
    """Weights files of whole models that come with the package, by the name of the recipe that trained them."""
    names = set(recipe_names())
    return {path.stem: path for path in shipped_weights().values() if path.stem in names}


def names_a_model(word: str) -> bool:
    """Whether a word means a model, not an image: a run, weights, a hub address, or a name of a table."""
    path = Path(word).expanduser()
    if path.is_dir():
        return (path / RECIPE_FILE).is_file() or (path / "weights").is_dir()
    return word in shipped_models() or word in MODELS or path.suffix in _WEIGHTS or word.startswith(HUB)


def read_recipe(name: StrPath | Recipe, changes: Sequence[str] = (), run: Path | None = None) -> Recipe:
    """A recipe with its changes, ``data.root`` resolved.

    Args:
        name: a shipped name, a YAML file, or a recipe.
        changes: ``key=value`` words, see :func:`as_words`.
        run: the run folder from which the recipe comes; a relative ``data.root`` is looked for above it too.
    """
    if isinstance(name, Recipe):
        use_plugins(*name.plugins)
        recipe = changed(name, changes)
    else:
        path = Path(fspath(name)).expanduser()
        recipe = load_recipe(path if path.suffix in (".yaml", ".yml") else fspath(name), changes)
    return resolve_root(recipe, run)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with ``key=value`` changes."""
    if not changes:
        return recipe
    use_named_plugins(changes)
    data = asdict(recipe)
    for word in changes:
        override(data, word)
    return parse(Recipe, data)


def resolve_root(recipe: Recipe, run: Path | None) -> Recipe:
    """The recipe with a ``data.root`` that exists, where there is one.

    A relative folder is looked for from the working directory, then from the folders above the run folder.
    """
    if recipe.data.root is None:
        return recipe
    root = Path(recipe.data.root).expanduser()
    starts = [Path()]
    if run is not None and not root.is_absolute():
        starts += run.absolute().parents
    existing = next((start / root for start in starts if (start / root).is_dir()), root)
    return replace(recipe, data=replace(recipe.data, root=str(existing)))


def as_words(changes: Mapping[str, Any]) -> list[str]:
    """Changes of a recipe as ``key=value`` words.

    Args:
        changes: values by dotted key (``{"schedule.lr": 0.01}``) or as nested dictionaries
            (``{"schedule": {"lr": 0.01}}``), which change the keys they name and keep the others.

    Returns:
        Words that ``dcn train`` takes; values are JSON, which is YAML.

    Raises:
        ValueError: a value that YAML cannot express.
    """
    words: list[str] = []
    for key, value in changes.items():
        if isinstance(value, Mapping) and value and all(_is_plain(name) for name in value):
            words += as_words({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            words.append(f"{key}={_as_yaml(key, value)}")
    return words


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w-]+", name) is not None


def _as_yaml(key: str, value: Any) -> str:
    if isinstance(value, str | PathLike) and _PLAIN_TEXT.fullmatch(fspath(value)) and fspath(value) not in _YAML_WORDS:
        return fspath(value)
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        if isinstance(value, float):  # not finite
            return f".{value}".replace(".-", "-.")
        raise ValueError(
            f"{key}: expected a number, a text, a list or a dictionary of these, got {type(value).__name__}"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "tolist"):  # numbers of NumPy
        return value.tolist()
    raise TypeError(type(value).__name__)
