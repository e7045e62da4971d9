"""Who may import whom (docs: the table of CONTRIBUTING), and no circles: read from the source, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted((SOURCE / "dcn").rglob("*.py"))

LEAVES = {
    *(
        "as_supervision",
        "boxes",
        "checks",
        "checksums",
        "class_names",
        "colors",
        "extras",
        "memory_format",
        "notebook",
        "on_import",
        "plugins",
        "structures",
    ),
    *("suggest", "threads", "tta"),
}
# What DESIGN allows; floors that are still to be built have their rule already.
MODEL_READERS = {"nn", "models", "metrics"} | LEAVES
EVERYTHING = LEAVES | {
    *("formats", "kernels", "ops", "nn", "compat", "models", "data", "metrics", "vis", "analysis", "report", "engine"),
    "export",
}
ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    "formats": LEAVES,
    "kernels": LEAVES,
    "ops": {"kernels"} | LEAVES,
    "nn": {"ops"} | LEAVES,
    "compat": {"nn", "ops"} | LEAVES,
    "models": {"nn", "ops"} | LEAVES,
    "data": {"formats"} | LEAVES,
    "metrics": {"formats"} | LEAVES,
    "vis": MODEL_READERS,
    "analysis": MODEL_READERS,
    "report": {"vis", "analysis"} | MODEL_READERS,
    "engine": LEAVES,
    "export": {"models", "formats", "ops", "kernels"} | LEAVES,
    "recipes": set(),
    "conformance": {"ops"},
    "runs": EVERYTHING,
    "api": EVERYTHING,
    "demo": EVERYTHING | {"runs"},
    "bench": EVERYTHING | {"runs"},
    "reproduce": EVERYTHING | {"runs"},
    "cli": EVERYTHING | {"api", "runs", "demo", "bench", "reproduce"},
    "__init__": EVERYTHING | {"api", "runs"},
    "__main__": {"cli"},
}
# What a part may take from outside the standard library, where DESIGN limits it.
OUTSIDE: dict[str, set[str]] = {
    "as_supervision": {"torch", "numpy", "supervision"},
    "boxes": {"torch", "numpy"},
    "checks": {"torch"},
    "structures": {"torch", "numpy"},
    "class_names": set(),
    "colors": set(),
    "notebook": {"torch", "numpy"},
    "suggest": set(),
    "tta": set(),
    "checksums": {"torch"},
    "extras": set(),
    "on_import": set(),
    "plugins": set(),
    "threads": set(),
    "kernels": {"torch", "numpy", "triton"},
    "ops": {"torch", "numpy"},
    "nn": {"torch", "numpy"},
}
STANDARD = {*__import__("sys").stdlib_module_names, "__future__"}


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _part(name: str) -> str:
    """``dcn.ops.nms`` belongs to ``ops``, ``dcn`` itself to ``__init__``."""
    return name.split(".")[1] if "." in name else "__init__"


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module named by an import anywhere in the file, ``from a import b`` also as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which layer they reach"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported: no functions, no TYPE_CHECKING blocks."""
    body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.Module(body, [])


def _foreign_layers(path: Path) -> list[str]:
    own = _part(_name(path))
    parts = {_part(name): name for name in _imports(ast.parse(path.read_text())) if name.startswith("dcn.")}
    # `from dcn import ops` names a part; `from dcn import __version__` names the package itself.
    return [name for part, name in parts.items() if part in ALLOWED and part not in {own, *ALLOWED[own]}]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_imports_only_what_its_layer_may(path: Path) -> None:
    assert _foreign_layers(path) == []


@pytest.mark.parametrize("path", [p for p in FILES if _part(_name(p)) in OUTSIDE], ids=_name)
def test_a_leaf_needs_nothing_but_torch(path: Path) -> None:
    used = {name.split(".")[0] for name in _imports(ast.parse(path.read_text()))}
    assert used - STANDARD - {"dcn"} <= OUTSIDE[_part(_name(path))]


def _module_of(name: str, modules: set[str]) -> str | None:
    """The module behind an imported name: ``dcn.ops.nms.nms`` is ``dcn.ops.nms``."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name if name in modules else None


def _graph() -> dict[str, set[str]]:
    modules = {_name(path) for path in FILES}
    graph = {}
    for path in FILES:
        actual = {_module_of(name, modules) for name in _imports(_top_level(ast.parse(path.read_text())))}
        graph[_name(path)] = {name for name in actual if name is not None and name != _name(path)}
    return graph


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of imports, or nothing; modules whose imports are all cleared are cleared."""
    left = dict(graph)
    while cleared := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in cleared:
            del left[name]
    return sorted(left)


def test_no_circle_of_imports() -> None:
    assert _circle(_graph()) == []


def test_a_circle_would_be_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_every_part_has_its_rule() -> None:
    assert {_part(_name(path)) for path in FILES} <= ALLOWED.keys()
