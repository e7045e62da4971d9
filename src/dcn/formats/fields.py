"""Fields of annotation entries, as many tools write them: ids as texts or 1.0, flags as texts, null for nothing.

Each function returns the value or raises `ValueError` with what was expected and what is there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dcn.formats.problems import OutsideError, short

Identifier = int | str
"""An id: a number, or a text that is not one (``"7"`` and ``7.0`` are the number 7)."""

Box = tuple[float, float, float, float]

_TRUE = ("1", "true", "yes", "t", "y")
_FALSE = ("0", "false", "no", "f", "n", "", "none", "null", "unspecified")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_SIDE = re.compile(r"-1|[0-9]{1,9}(\.0*)?")
LARGEST = 1e9  # of a coordinate; hostile values stay away from float32

# Files round to two decimals and some tools count pixels from 1: a box may pass the image by this much and is clipped
# whatever the option `outside` says.
TOLERANCE = 1.0
_NO_MATTER = 1e-6  # a box that passes the border by a rounding error of float64 stays as it is written


def field(entry: Mapping[str, Any], name: str) -> Any:
    """``entry[name]``."""
    if name not in entry:
        raise ValueError(f"expected a field {name!r}, got only {short(sorted(entry))}")
    return entry[name]


def identifier(value: object, name: str) -> Identifier:
    """An id in the form in which ids are compared; ``name`` is the field's."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip() and _is_whole(value):
        text = value.strip()
        return int(text) if _NUMBER.fullmatch(text) else text
    raise ValueError(f"{name!r}: expected an integer or a text, got {short(value)}")


def order(key: Identifier) -> tuple[bool, int, str]:
    """Sort key: numbers by size, then texts by letter."""
    return (False, key, "") if isinstance(key, int) else (True, 0, key)


def flag(value: object, name: str) -> bool:
    """Yes or no: 0, 1, 0.0, true, ``"False"``, ``"Unspecified"``, null ..."""
    if value is None:
        return False
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        text = re.sub(r"^([01])\.0*$", r"\1", value.strip().lower())
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
    raise ValueError(f"{name}: expected 0 or 1, got {short(value)}")


def number(value: object, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {short(value)}")
    return float(value)


def class_name(value: object) -> str:
    """The name of a class; numbers are taken as they are written."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip() or not _is_whole(value):
        raise ValueError(f"'name': expected a text, got {short(value)}")
    return value


def _is_whole(text: str) -> bool:
    """Whether a text can be written: JSON can hold halves of characters, and zeros."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def area(value: object, box: list[float]) -> float:
    """The area in pixels², that of the box ``[x, y, width, height]`` where there is none."""
    if value is None:
        return box[2] * box[3]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        raise ValueError(f"'area': expected a number of pixels, got {short(value)}")
    return float(value)


def side(entry: Mapping[str, Any], name: str) -> int:
    """Width or height of an image in pixels; 0 where the file does not know it: missing, null, 0 or -1 (VIA)."""
    value = entry.get(name)
    if isinstance(value, str) and _SIDE.fullmatch(value.strip()):
        value = float(value)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1 <= value < LARGEST:
        raise ValueError(f"{name!r}: expected a number of pixels, got {short(value)}")
    if value != int(value):
        raise ValueError(f"{name!r}: expected an integer, got {short(value)}")
    return max(int(value), 0)


def box_xywh(value: object) -> list[float]:
    """A box ``[x, y, width, height]`` of finite numbers without negative sides."""
    expected = "'bbox': expected 4 finite numbers [x, y, width, height]"
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"{expected}, got {short(value)}")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < LARGEST for v in value):
        raise ValueError(f"{expected}, got {short(value)}")
    if value[2] < 0 or value[3] < 0:
        raise ValueError(f"'bbox': width and height must not be negative, got {short(value)}")
    return [float(v) for v in value]


def inside(box: list[float], size: tuple[int, int] | None, clip: bool = False) -> list[float]:
    """``[x, y, width, height]`` cut to an image of ``(height, width)``; unchanged where nothing is cut or known.

    Raises:
        OutsideError: the box passes the image by more than `TOLERANCE`, unless ``clip`` is set.
    """
    if size is None:
        return box
    (x, y, w, h), (height, width) = box, size
    if not clip and (min(x, y) < -TOLERANCE or x + w > width + TOLERANCE or y + h > height + TOLERANCE):
        shown = "[" + ", ".join(f"{v:g}" for v in box) + "]"
        raise OutsideError(f"'bbox': expected a box {within(size)}, got {shown}")
    if min(x, y) >= 0 and x + w <= width + _NO_MATTER and y + h <= height + _NO_MATTER:
        return box
    x1, x2 = (min(max(v, 0.0), float(width)) for v in (x, x + w))
    y1, y2 = (min(max(v, 0.0), float(height)) for v in (y, y + h))
    return [x1, y1, x2 - x1, y2 - y1]


def within(size: tuple[int, int]) -> str:
    """Where a message expects a box: inside of an image of ``(height, width)``."""
    return f"inside the image of {size[1]}x{size[0]} pixels (width x height)"
