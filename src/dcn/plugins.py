"""Plug-ins: rows that packages of your own add to the tables of models, datasets, recipes and weights.

A row comes from a module that the user names (:func:`use_plugins`: its tables ``MODELS``, ``DATASETS``, ``RECIPES`` and
``WEIGHTS``), or from an installed package, which announces names by entry points. A package is imported when one of its
names is asked for. Weights files hold the names of plug-ins, and nothing is ever imported because of them.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from types import ModuleType
from typing import Any, TypeVar

GROUPS = {"dcn.models": "MODELS", "dcn.datasets": "DATASETS", "dcn.recipes": "RECIPES", "dcn.weights": "WEIGHTS"}
"""Group of entry points -> the table of the same rows in a module that is named."""

Row = TypeVar("Row")

_named: dict[str, ModuleType] = {}


def use_plugins(*modules: str) -> None:
    """Make the parts of your own modules known by name, for the rest of this process; installed packages need no call.

    >>> dcn.use_plugins("my_package")
    >>> dcn.load("runs/my_recipe/0").predict("photo.jpg")

    Args:
        modules: importable names. Each module has one or more of the tables ``MODELS``, ``DATASETS``, ``RECIPES`` and
            ``WEIGHTS``, dictionaries of rows by name.

    Raises:
        ValueError: there is no such module, it cannot be imported, or it has none of the tables.
    """
    for name in modules:
        if name not in _named:
            _named[name] = _import(name)


def advice(modules: Iterable[str]) -> str:
    """How to give the plug-ins that weights were made with, for the end of a message."""
    names = list(modules)
    if not names:
        return "if a plug-in of yours adds it, install the plug-in or name its module with --plugin MODULE"
    options = " ".join(f"--plugin {name}" for name in names)
    return (
        f"it comes from the plug-in {' and '.join(names)}: install the package, or name the module with {options} "
        f"(in Python: dcn.use_plugins({', '.join(map(repr, names))}))"
    )


def _import(name: str) -> ModuleType:
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) is None:
        raise ValueError(f"plugins: expected the name of a module such as my_package.parts, got {name!r}")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"plugins: no module {name!r}; install the plug-in that has it, or put its folder on PYTHONPATH"
            ) from error
        raise _broken(f"the module {name}", error) from error
    except Exception as error:
        raise _broken(f"the module {name}", error) from error
    tables = {table: getattr(module, table, None) for table in GROUPS.values()}
    wrong = [table for table, rows in tables.items() if rows is not None and not isinstance(rows, Mapping)]
    if wrong:
        raise ValueError(
            f"plugins: {name}.{wrong[0]}: expected a dictionary of rows by name, got {type(tables[wrong[0]]).__name__}"
        )
    announced = any(_within(point.module, name) for group in GROUPS for point in _installed(group))
    if not announced and not any(_rows(module, table) for table in tables):
        raise ValueError(f"plugins: expected a module with a table {', '.join(tables)}, got {name}, which has none")
    return module


def _broken(what: str, error: BaseException) -> ValueError:
    return ValueError(f"plugins: {what} cannot be imported ({type(error).__name__}: {error}); --traceback shows where")


def _within(module: str, name: str) -> bool:
    return f"{module}.".startswith(f"{name}.")


def _rows(module: ModuleType, table: str) -> Mapping[str, Any]:
    """The rows of a module's own table; a table of this package that it imports is not its own."""
    rows = getattr(module, table, None)
    return {} if rows is None or isinstance(rows, Table) else rows


def _installed(group: str) -> tuple[EntryPoint, ...]:
    return _scanned(group, tuple(sys.path))


@lru_cache(maxsize=32)
def _scanned(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group; reading them takes about 20 ms, so once for each ``sys.path``."""
    return tuple(dict.fromkeys(entry_points(group=group)))


class Table(MutableMapping[str, Row]):
    """Rows by name: the literal ones of this package, then those of plug-ins.

    Membership and names import nothing; a row of an installed package imports it.

    Args:
        group: of entry points, a key of :data:`GROUPS`.
        rows: the literal rows.
        expected: what a row is, for messages.
        fits: whether an object is such a row.
    """

    def __init__(self, group: str, rows: Mapping[str, Row], expected: str, fits: Callable[[Any], bool]) -> None:
        self.group, self.expected, self.fits = group, expected, fits
        self.own = dict(rows)

    def __getitem__(self, name: str) -> Row:
        offers = self._offers(name)
        rows = [self._row(name, *offer) for offer in offers]
        if name in self.own:
            rows.insert(0, self.own[name])
        if not rows:
            raise KeyError(name)
        if any(row is not rows[0] for row in rows):
            sources = [*(["this package"] if name in self.own else []), *(_source(one) for _, one in offers)]
            raise ValueError(f"plugins: {name!r} is in {' and in '.join(sources)}; rename one of them")
        return rows[0]

    def _offers(self, name: str) -> list[tuple[str, ModuleType | EntryPoint]]:
        """The plug-ins that have a row of this name: the names of their modules, and where the row is."""
        table = GROUPS[self.group]
        named = [(key, module) for key, module in _named.items() if name in _rows(module, table)]
        return [*named, *((point.module, point) for point in _installed(self.group) if point.name == name)]

    def _row(self, name: str, module: str, origin: ModuleType | EntryPoint) -> Row:
        if isinstance(origin, ModuleType):
            row = _rows(origin, GROUPS[self.group])[name]
        else:
            try:
                row = origin.load()
            except Exception as error:
                raise _broken(f"{name!r} of {_source(origin)}", error) from error
            if isinstance(row, Mapping) and name in row:  # a table that holds the row
                row = row[name]
        if not self.fits(row):
            got = repr(str(row)) if isinstance(row, str | PathLike) else type(row).__name__
            raise ValueError(f"plugins: {name!r} in {module}: expected {self.expected}, got {got}")
        return row

    def __setitem__(self, name: str, row: Row) -> None:
        self.own[name] = row

    def __delitem__(self, name: str) -> None:
        del self.own[name]

    def __iter__(self) -> Iterator[str]:
        table = GROUPS[self.group]
        named = (name for module in _named.values() for name in _rows(module, table))
        return iter(dict.fromkeys((*self.own, *named, *(point.name for point in _installed(self.group)))))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self.own or (isinstance(name, str) and bool(self._offers(name)))

    @property
    def has_plugins(self) -> bool:
        """Whether any row is of a plug-in."""
        return len(self) > len(self.own)

    def plugin_of(self, name: str) -> str | None:
        """The module of the plug-in that a row comes from; ``None`` for a row of this package, or an unknown name."""
        return None if name in self.own else next((module for module, _ in self._offers(name)), None)


def _source(origin: ModuleType | EntryPoint) -> str:
    if isinstance(origin, ModuleType):
        return f"the module {origin.__name__}"
    package = "" if origin.dist is None else f" ({origin.dist.name} {origin.dist.version})"
    return f"{origin.value}{package}"
