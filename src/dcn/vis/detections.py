"""Boxes, masks and labels drawn into photographs, and sheets of several pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dcn.vis.canvas import fit_text, font_size, line_width, text_size, to_picture, to_tensor
from dcn.vis.fonts import picture_font
from dcn.vis.palette import Color, class_color, text_color

Rect = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Plate:
    """A label and where it goes: pixel rectangle with exclusive right and bottom."""

    rect: Rect
    text: str
    color: Color


def draw_detections(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor | None = None,
    masks: Tensor | None = None,
    classes: Sequence[str] | None = None,
    *,
    color_by: Literal["class", "instance"] = "class",
    mask_opacity: float = 0.4,
) -> Tensor:
    """Draw detections or annotations into a copy of an image.

    The best-scored lie on top. Lines and letters grow with the image. Label plates stay inside the image, and each
    takes the first position at its box where it covers none of the better-scored plates. Where there is none, it is
    left out, and the colour alone names the class.

    Args:
        image: ``[3, H, W]`` uint8, RGB.
        boxes: ``[N, 4]`` xyxy in pixels of the image (continuous edges); parts outside are cut off.
        labels: ``[N]`` int64, ``0 .. C-1``.
        scores: ``[N]`` in 0..1, written beside the name; ``None`` for annotations.
        masks: ``[N, H, W]`` bool; blended in, with an outline.
        classes: the names; ``None`` writes the number.
        color_by: one colour for each class, or a new one for each object.
        mask_opacity: 0..1, how strongly a mask covers the image.

    Returns:
        ``[3, H, W]`` uint8.
    """
    picture = to_picture(image)
    _check_lengths(boxes, labels, scores, masks, (picture.height, picture.width))
    order = _draw_order(boxes, scores)
    colors = {i: class_color(int(labels[i]) if color_by == "class" else i) for i in order}
    if masks is not None:
        picture = _blend_masks(picture, masks.cpu(), order, colors, mask_opacity)
    rects = {i: _pixel_rect(boxes[i].tolist(), picture.size) for i in order}
    shown = [i for i in order if rects[i] is not None]
    _draw_boxes(picture, [(rects[i], colors[i]) for i in shown])
    captions = [(rects[i], _caption(int(labels[i]), scores, i, classes), colors[i]) for i in reversed(shown)]
    _draw_plates(picture, _place_plates(captions, picture.size))
    return to_tensor(picture)


def contact_sheet(
    images: Sequence[Tensor],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    *,
    cell: int = 320,
    gap: int = 8,
    background: Color = (255, 255, 255),
) -> Tensor:
    """Several pictures in rows, each fitted into a square cell with its caption below.

    Args:
        images: ``[3, H, W]`` uint8 each, of any sizes.
        columns: pictures in a row; ``None`` makes the sheet about square.
        captions: one line for each picture, cut if too long.
        cell: side of a cell in pixels; small pictures are enlarged by whole factors only.
        gap: pixels between cells and around the sheet.
        background: RGB 0..255.

    Returns:
        ``[3, H', W']`` uint8. Rows are as high as their highest picture.
    """
    if not images or (captions is not None and len(captions) != len(images)):
        count = None if captions is None else len(captions)
        raise ValueError(f"images: expected one or more, and a caption for each, got {len(images)} and {count}")
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    tiles = [_fit(to_picture(image), cell) for image in images]
    letters = max(10, cell // 22)
    line = text_size("Ag", letters)[1] + 4 if captions is not None else 0
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + line + gap for row in rows]
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, sum(heights) + gap), background)
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = gap + column * (cell + gap), gap + sum(heights[:row])
        sheet.paste(tile, (x + (cell - tile.width) // 2, y))
        if captions is not None:
            text = fit_text(captions[number], letters, cell)
            top = y + heights[row] - gap - line + 3
            draw.text((x + cell / 2, top), text, text_color(background), picture_font(letters, text), anchor="ma")
    return to_tensor(sheet)


def _check_lengths(
    boxes: Tensor, labels: Tensor, scores: Tensor | None, masks: Tensor | None, size: tuple[int, int]
) -> None:
    count = labels.shape[0]
    shapes = [("boxes", boxes, (count, 4)), ("scores", scores, (count,)), ("masks", masks, (count, *size))]
    for name, value, shape in shapes:
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name}: expected {list(shape)} for {count} labels, got {list(value.shape)}")


def _draw_order(boxes: Tensor, scores: Tensor | None) -> list[int]:
    """Worst score first; annotations by area, large first, so that small objects are not covered."""
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    key = -sizes if scores is None else scores
    return torch.argsort(key.detach().cpu(), stable=True).tolist()


def _caption(label: int, scores: Tensor | None, index: int, classes: Sequence[str] | None) -> str:
    name = classes[label] if classes is not None and 0 <= label < len(classes) else str(label)
    return name if scores is None else f"{name} {float(scores[index]):.2f}"


def _pixel_rect(box: list[float], size: tuple[int, int]) -> Rect | None:
    """The pixels of a box, cut to the picture; ``None`` if nothing of it is inside or a coordinate is NaN."""
    if any(math.isnan(v) for v in box):
        return None
    x1, x2 = (round(min(max(v, 0.0), size[0])) for v in (box[0], box[2]))
    y1, y2 = (round(min(max(v, 0.0), size[1])) for v in (box[1], box[3]))
    if box[2] <= 0 or box[3] <= 0 or box[0] >= size[0] or box[1] >= size[1]:
        return None
    x1, y1 = min(x1, size[0] - 1), min(y1, size[1] - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _blend_masks(
    picture: Image.Image, masks: Tensor, order: list[int], colors: dict[int, Color], opacity: float
) -> Image.Image:
    pixels = np.array(picture, dtype=np.float32)
    for i in order:
        mask = masks[i].numpy()
        padded = np.pad(mask, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        color = np.array(colors[i], dtype=np.float32)
        pixels[mask] += opacity * (color - pixels[mask])
        pixels[mask & ~inner] = color
    return Image.fromarray(pixels.round().astype(np.uint8))


def _draw_boxes(picture: Image.Image, rects: Sequence[tuple[Rect | None, Color]]) -> None:
    """Outlines inside the boxes, with a dark hairline within: they stand out from light and dark photographs."""
    draw = ImageDraw.Draw(picture, "RGBA")
    width = line_width(picture.size)
    for rect, color in rects:
        if rect is None:
            continue
        x1, y1, x2, y2 = rect
        stroke = max(1, min(width, (x2 - x1) // 4, (y2 - y1) // 4))
        if width > 1 and min(x2 - x1, y2 - y1) > 4 * stroke:
            edge = (x1 + stroke, y1 + stroke, x2 - 1 - stroke, y2 - 1 - stroke)
            draw.rectangle(edge, outline=(0, 0, 0, 130), width=1)
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=(*color, 255), width=stroke)


def _place_plates(captions: Sequence[tuple[Rect | None, str, Color]], size: tuple[int, int]) -> list[_Plate]:
    """Plates in the order given; each at the first of its positions where it covers no earlier one, else left out."""
    letters = font_size(size)
    plates: list[_Plate] = []
    for rect, caption, color in captions:
        text = fit_text(caption, letters, size[0] - 4)
        width, height = text_size(text, letters)
        if rect is None or not text or height > size[1] // 2:
            continue
        spots = (_inside(spot, size) for spot in _spots(rect, width + 4, height))
        free = (spot for spot in spots if not any(_overlap(spot, plate.rect) for plate in plates))
        spot = next(free, None)
        if spot is not None:
            plates.append(_Plate(spot, text, color))
    return plates


def _spots(box: Rect, width: int, height: int) -> list[Rect]:
    """Positions for a plate, the preferred first: at the corners of the box outside and inside, then down its sides."""
    x1, y1, x2, y2 = box
    lefts = (x1, x2 - width)
    tops = (y1 - height, y2, y1, y2 - height)
    corners = [(left, top) for top in (tops[0], tops[2], tops[1], tops[3]) for left in lefts]
    between = range(y1 + height, max(y1 + height, y2 - 2 * height), height)
    corners += [(left, top) for top in between for left in lefts]
    corners += [(left, top) for top in tops[:2] for left in range(x1 + width // 2, x2 - width, max(1, width // 2))]
    return [(left, top, left + width, top + height) for left, top in corners]


def _inside(rect: Rect, size: tuple[int, int]) -> Rect:
    x1, y1, x2, y2 = rect
    dx = max(0, -x1) - max(0, x2 - size[0])
    dy = max(0, -y1) - max(0, y2 - size[1])
    return x1 + dx, y1 + dy, x2 + dx, y2 + dy


def _overlap(a: Rect, b: Rect) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _draw_plates(picture: Image.Image, plates: Sequence[_Plate]) -> None:
    draw = ImageDraw.Draw(picture)
    letters = font_size(picture.size)
    for plate in reversed(plates):
        x1, y1, x2, y2 = plate.rect
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=plate.color)
        draw.text((x1 + 2, y1), plate.text, text_color(plate.color), picture_font(letters, plate.text), anchor="la")


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    factor = cell / max(picture.size)
    factor = math.floor(factor) if factor > 1 else factor
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)
