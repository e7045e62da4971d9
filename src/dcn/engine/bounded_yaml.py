"""YAML from strangers: plain data only, with bounds on size, depth and aliases, so that no file can exhaust memory."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

MAX_BYTES = 1_000_000
"""Largest document; the longest shipped recipe has 2,000 bytes."""
MAX_DEPTH = 30
MAX_NODES = 50_000
"""Most values of a document, counted after aliases are expanded."""

_PLAIN_TAGS = {"!", *(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))}


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, so that ``1e-4`` is a number and ``off`` a word; a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"expected a word as the key, got a {key_node.id}", key_node.start_mark
                )
            key = self.construct_object(key_node, deep=deep)
            if key in mapping:
                shown = str(key)[:60]
                raise yaml.constructor.ConstructorError(
                    None, None, f"expected each key once, got {shown!r} twice", key_node.start_mark
                )
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    """YAML 1.1 reads 010 as eight."""
    return int(str(loader.construct_scalar(node)))


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)
_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
# More digits than 64 bits hold are a word: no key takes them, and turning them into a number takes quadratic time.
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]{1,20}$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:[0-9]{1,40}\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?|[0-9]{1,40}[eE][-+]?[0-9]{1,4}"
        r"|\.(?:inf|Inf|nan|NaN))$"
    ),
    list("-+.0123456789"),
)


def read_yaml(content: str | bytes) -> Any:
    """The plain data of a YAML document: numbers, texts, lists and mappings.

    Args:
        content: the document; bytes may be UTF-8 or, with a byte-order mark, UTF-16.

    Raises:
        ValueError: not YAML, a tag that asks for an object, or a document past the bounds of this module.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"not a recipe: expected at most {MAX_BYTES:,} bytes of YAML, got {len(content):,}")
    try:
        _check_bounds(content)
    except yaml.YAMLError as error:
        raise _not_yaml(error) from None
    try:
        return yaml.load(content, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise _not_yaml(error) from None


def _not_yaml(error: Exception) -> ValueError:
    return ValueError(f"not valid YAML: {' '.join(str(error).split())[:300]}")


def _check_bounds(content: str | bytes) -> None:
    """Walk the events of the document, which takes no memory, and count what it would become."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(content, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in open_nodes):
                raise ValueError(
                    f"not a recipe: the alias {str(event.anchor)[:60]!r} lies inside of what it stands for"
                )
            total += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.NodeEvent):
            _check_tag(event)
            total += 1
        if total > MAX_NODES:
            raise ValueError(f"not a recipe: expected at most {MAX_NODES:,} values with aliases expanded, got more")
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            if len(open_nodes) > MAX_DEPTH:
                raise ValueError(f"not a recipe: expected at most {MAX_DEPTH} levels of nesting, got more")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before + 1


def _check_tag(event: yaml.NodeEvent) -> None:
    tag = getattr(event, "tag", None)
    if tag is not None and tag not in _PLAIN_TAGS:
        raise ValueError(f"not a recipe: expected plain values, got the tag {str(tag)[:60]!r}")
