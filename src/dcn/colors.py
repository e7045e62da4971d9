"""Colours that tell classes apart for everybody."""

from __future__ import annotations

from typing import Any

Color = tuple[int, int, int]

# The qualitative set of Okabe and Ito (2008) without black: told apart under the common colour-vision deficiencies.
# Ordered so that neighbours differ most in lightness.
BASE: tuple[Color, ...] = (
    (213, 94, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (230, 159, 0),
    (204, 121, 167),
)
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)


def class_colors(said: Any, count: int) -> tuple[Color, ...]:
    """The colours of ``count`` classes as a file says them, a list of ``[r, g, b]``.

    Raises:
        TypeError: it is something else.
    """
    try:
        colors = tuple((int(r), int(g), int(b)) for r, g, b in said)
    except ValueError as error:
        raise TypeError(f"expected colours [r, g, b], got {said!r}") from error
    if len(colors) != count or not all(0 <= value <= 255 for color in colors for value in color):
        raise TypeError(f"expected {count} colours of 0..255, got {said!r}")
    return colors


def mix(color: Color, other: Color, share: float) -> Color:
    """``color`` with a ``share`` (0..1) of ``other`` in it."""
    r, g, b = (round(a * (1 - share) + o * share) for a, o in zip(color, other, strict=True))
    return r, g, b


def class_color(index: int) -> Color:
    """RGB (0..255) of a class or instance number: seven colours, then lighter and darker ones, then again."""
    shade, base = divmod(index % (3 * len(BASE)), len(BASE))
    color = BASE[base]
    return (color, mix(color, WHITE, 0.45), mix(color, BLACK, 0.4))[shade]


def text_color(background: Color) -> Color:
    """Black or white, whichever has the higher contrast (WCAG relative luminance) on ``background``."""
    linear = [(c / 255) / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else WHITE
