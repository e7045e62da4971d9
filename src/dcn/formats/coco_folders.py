"""COCO files that lie among the images of each split, as Roboflow exports them: ``train/_annotations.coco.json``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from dcn.formats import fields
from dcn.formats.documents import read_json
from dcn.formats.fields import Identifier
from dcn.formats.problems import attempt

FILE = "_annotations.coco.json"


def available_splits(root: Path) -> list[str]:
    """The folders that hold such a file."""
    if not root.is_dir():
        return []
    return sorted(path.parent.name for path in root.glob(f"*/{FILE}"))


def unused_dummy(root: Path) -> Identifier | None:
    """The id of the category that Roboflow adds above the others, where no split uses it.

    It has the id 0, and it is what the other categories name as their ``supercategory``.
    """
    files = [root / split / FILE for split in available_splits(root)]
    contents = [attempt(partial(read_json, file), lambda problem: None, file, "") for file in files]
    known = [content for content in contents if isinstance(content, dict)]
    if not known or not all(_has_dummy(content) for content in known):
        return None
    return None if any(_uses(content, 0) for content in known) else 0


def _has_dummy(content: dict[str, Any]) -> bool:
    listed = content.get("categories")
    categories = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    first = next((entry for entry in categories if _identifier(entry.get("id")) == 0), None)
    others = [entry for entry in categories if entry is not first]
    if first is None or not others:
        return False
    return all(entry.get("supercategory") == first.get("name") for entry in others)


def _uses(content: dict[str, Any], key: Identifier) -> bool:
    listed = content.get("annotations")
    entries = listed if isinstance(listed, list) else []
    return any(isinstance(entry, dict) and _identifier(entry.get("category_id")) == key for entry in entries)


def _identifier(value: object) -> Identifier | None:
    try:
        return fields.identifier(value, "id")
    except ValueError:
        return None
