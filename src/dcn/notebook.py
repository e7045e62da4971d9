"""How results show themselves in a notebook: boxes as a table with a drawing, pixels as a picture; no other package."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dcn.colors import Color, class_color

Pixels = npt.NDArray[np.uint8]
MOST_ROWS = 20
_SIDE = 400  # longer side of a drawing in pixels


def boxes_html(boxes: Tensor, scores: Tensor, labels: Tensor) -> str:
    """A drawing of the boxes, and a table of the first of them.

    Args:
        boxes: ``[N, 4]`` xyxy.
        scores: ``[N]``.
        labels: ``[N]``.
    """
    count = len(boxes)
    rows = "".join(
        f'<tr><td style="border-left:.6em solid rgb{class_color(label)}">{label}</td><td>{score:.3f}</td>'
        + "".join(f"<td>{value:.1f}</td>" for value in box)
        + "</tr>"
        for box, score, label in _rows(boxes, scores, labels)[:MOST_ROWS]
    )
    more = f"<p>and {count - MOST_ROWS} more</p>" if count > MOST_ROWS else ""
    head = "<tr><th>label</th><th>score</th><th>x1</th><th>y1</th><th>x2</th><th>y2</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>{more}" if count else ""
    return f"<p>{count} detection{'' if count == 1 else 's'}</p>{_svg(boxes, scores, labels) if count else ''}{table}"


def boxes_png(boxes: Tensor, labels: Tensor) -> bytes:
    """A drawing of the boxes on white as a PNG, the first box on top."""
    size, scale = _drawing(boxes)
    pixels = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    for box, _, label in reversed(_rows(boxes, torch.zeros(len(boxes)), labels)):
        x1, y1, x2, y2 = (round(value * scale) for value in box)
        _outline(pixels, (x1, y1, x2, y2), class_color(label))
    return png(pixels)


def labels_png(labels: Tensor, colors: Sequence[Color] | None = None) -> bytes:
    """A segmentation map ``[H, W]`` as a PNG, a colour for each class; label 255, which does not count, is white.

    Args:
        labels: 0..255.
        colors: of the first classes; ``None``: the usual ones.
    """
    values = labels.cpu().numpy()
    palette = np.array([class_color(index) for index in range(256)], dtype=np.uint8)
    palette[: len(colors or ())] = np.array(colors or (), dtype=np.uint8).reshape(-1, 3)
    palette[255] = 255
    return png(palette[values.clip(0, 255)])


def png(pixels: Pixels) -> bytes:
    """A PNG of ``[H, W, 3]`` RGB."""
    height, width, _ = pixels.shape
    raw = np.concatenate((np.zeros((height, 1), dtype=np.uint8), pixels.reshape(height, 3 * width)), axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(boxes: Tensor, scores: Tensor, labels: Tensor) -> list[tuple[list[float], float, int]]:
    """Boxes whose numbers are finite."""
    rows: list[Any] = list(zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True))
    return [row for row in rows if np.isfinite(row[0]).all()]


def _drawing(boxes: Tensor) -> tuple[tuple[int, int], float]:
    """Width and height of a drawing that holds all boxes, and its scale."""
    finite = boxes[torch.isfinite(boxes).all(1)]
    right, bottom = finite[:, 2:].amax(0).clamp(min=1).tolist() if len(finite) else (1.0, 1.0)
    scale = _SIDE / max(right, bottom)
    return (max(1, round(right * scale) + 2), max(1, round(bottom * scale) + 2)), scale


def _outline(pixels: Pixels, box: tuple[int, int, int, int], color: tuple[int, int, int]) -> None:
    """Two pixels wide, inside of the drawing."""
    x1, y1, x2, y2 = (max(0, value) for value in box)
    for line in (slice(y1, y1 + 2), slice(max(y1, y2 - 2), y2)):
        pixels[line, x1:x2] = color
    for line in (slice(x1, x1 + 2), slice(max(x1, x2 - 2), x2)):
        pixels[y1:y2, line] = color


def _svg(boxes: Tensor, scores: Tensor, labels: Tensor) -> str:
    (width, height), scale = _drawing(boxes)
    shapes = "".join(
        f'<rect x="{x1 * scale:.1f}" y="{y1 * scale:.1f}" width="{(x2 - x1) * scale:.1f}" '
        f'height="{(y2 - y1) * scale:.1f}" fill="none" stroke="rgb{class_color(label)}" stroke-width="2">'
        f"<title>{label}: {score:.2f}</title></rect>"
        for (x1, y1, x2, y2), score, label in reversed(_rows(boxes, scores, labels))
    )
    style = "max-width:100%;border:1px solid #999;background:#fff"
    return (
        f'<svg role="img" aria-label="{len(boxes)} boxes" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="{style}">{shapes}</svg>'
    )
