"""One self-contained HTML page: text, tables and pictures in a single file that opens without a network.

Readable on a phone, in dark mode, on paper and with a screen reader; no scripts.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path

from torch import Tensor

from dcn.vis.canvas import to_picture

StrPath = str | PathLike[str]
Picture = Tensor | bytes | StrPath

_SIGNATURES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))

_STYLE = (Path(__file__).parent / "assets" / "page.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Bar:
    """A number in a table with a bar behind it.

    Attributes:
        value: the number; NaN has no bar.
        most: the number whose bar fills the cell.
    """

    value: float
    most: float = 1.0


class Page:
    """A page that is put together from top to bottom; every call returns the page, so that calls can be chained.

    All text is escaped. Pictures are an image tensor ``[3, H, W]`` uint8 (kept as JPEG), the bytes of a PNG, JPEG, GIF
    or WebP (kept as they are), or a file of these; each needs an alternative text that says what it shows.

    Args:
        title: heading and name of the page.
        lead: one sentence below it.
        language: of the texts, for screen readers.
    """

    def __init__(self, title: str, lead: str = "", *, language: str = "en") -> None:
        self._title = title
        self._lead = lead
        self._language = language
        self._sections: list[str] = []
        self._body: list[str] = []

    def section(self, title: str) -> Page:
        """Start a section; it appears in the list of contents."""
        self._sections.append(title)
        number = len(self._sections)
        return self._add(f'<h2 id="section-{number}">{escape(title)}</h2>')

    def text(self, text: str) -> Page:
        """Add text; an empty line starts a new paragraph."""
        paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
        return self._add("\n".join(f"<p>{escape(part)}</p>" for part in paragraphs))

    def code(self, text: str) -> Page:
        """Add commands or program text as it is."""
        return self._add(f'<pre tabindex="0"><code>{escape(text)}</code></pre>')

    def facts(self, facts: Mapping[str, object]) -> Page:
        """Add a table of names and values."""
        rows = "".join(
            f'<tr><th scope="row">{escape(k)}</th><td>{escape(_format(v))}</td></tr>' for k, v in facts.items()
        )
        return self._add(f'<div class="wide"><table><tbody>{rows}</tbody></table></div>')

    def tiles(self, numbers: Mapping[str, object]) -> Page:
        """Add numbers that are read at a glance: name -> value."""
        parts = "".join(_tile(name, value) for name, value in numbers.items())
        return self._add(f'<dl class="tiles">{parts}</dl>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> Page:
        """Add a table. The first cell of a row names it; numbers are set right (fractions with three decimals).

        A :class:`Bar` is a number with a bar behind it.
        """
        for number, row in enumerate(rows):
            if len(row) != len(header):
                raise ValueError(f"rows: expected {len(header)} cells in row {number}, got {len(row)}")
        numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
        head = "".join(
            f'<th scope="col"{_number_class(right)}>{escape(name)}</th>'
            for name, right in zip(header, numeric, strict=True)
        )
        body = "".join(
            f'<tr><th scope="row">{escape(_format(row[0]))}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in rows
        )
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        label = escape(caption or "table", quote=True)
        return self._add(
            f'<div class="wide" role="region" tabindex="0" aria-label="{label}"><table>{title}'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def image(self, picture: Picture, alt: str, caption: str = "") -> Page:
        """Add one picture at its own size, or the width of the page if it is wider."""
        return self._add(_figure(picture, alt, caption))

    def figure_grid(self, pictures: Sequence[tuple[Picture, str, str]], *, cell: int = 300) -> Page:
        """Add several pictures (picture, alt, caption) side by side, as many in a row as fit at ``cell`` pixels."""
        inner = "\n".join(_figure(picture, alt, caption) for picture, alt, caption in pictures)
        return self._add(f'<div class="grid" style="--cell: {int(cell)}px">\n{inner}\n</div>')

    def side_by_side(self, rows: Sequence[tuple[str, Sequence[Picture]]], names: Sequence[str]) -> Page:
        """Add pictures that belong together, side by side where there is room.

        Args:
            rows: a line about the pictures, and these.
            names: what each picture of a row is.
        """
        for text, pictures in rows:
            inner = "\n".join(
                _figure(picture, f"{name}: {text}", name) for name, picture in zip(names, pictures, strict=True)
            )
            self._add(f'<section class="row"><h3>{escape(text)}</h3><div>{inner}</div></section>')
        return self

    def html(self) -> str:
        """The page."""
        contents = "".join(
            f'<li><a href="#section-{i}">{escape(name)}</a></li>' for i, name in enumerate(self._sections, start=1)
        )
        nav = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>' if len(self._sections) > 2 else ""
        lead = f'<p class="lead">{escape(self._lead)}</p>' if self._lead else ""
        body = "\n".join(self._body)
        return (
            f'<!DOCTYPE html>\n<html lang="{escape(self._language, quote=True)}">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            f"<header><h1>{escape(self._title)}</h1>{lead}{nav}</header>\n<main>\n{body}\n</main>\n"
            "<footer><p>Made by deformable-convnets.</p></footer>\n</body>\n</html>\n"
        )

    def write(self, path: StrPath) -> Path:
        """Write the page to a file (folders are made) and return its path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.html(), encoding="utf-8")
        return target

    def _add(self, html: str) -> Page:
        self._body.append(html)
        return self


def _figure(picture: Picture, alt: str, caption: str) -> str:
    if not alt.strip():
        raise ValueError("alt: expected a text that says what the picture shows, got none")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    # Diagrams are drawn on white; in dark mode the style turns their lightness around, not that of photographs.
    kind = ' class="diagram"' if isinstance(picture, bytes) else ""
    return f'<figure><img{kind} src="{_data_uri(picture)}" alt="{escape(alt, quote=True)}">{below}</figure>'


def _data_uri(picture: Picture) -> str:
    data = _encoded(picture)
    kinds = [kind for signature, kind in _SIGNATURES if data.startswith(signature)]
    if not kinds:
        raise ValueError(f"picture: expected PNG, JPEG, GIF or WebP, got bytes starting with {data[:8]!r}")
    return f"data:image/{kinds[0]};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Tensor):
        buffer = io.BytesIO()
        # 4:4:4: thin coloured lines and letters lose their colour when chroma is halved.
        to_picture(picture).save(buffer, format="JPEG", quality=88, subsampling=0, optimize=True)
        return buffer.getvalue()
    return Path(picture).read_bytes()


def _tile(name: str, value: object) -> str:
    kind = "" if _is_number(value) else ' class="word"'
    return f"<div><dt>{escape(name)}</dt><dd{kind}>{escape(_format(value))}</dd></div>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Bar) and not isinstance(value, bool)


def _format(value: object) -> str:
    if isinstance(value, Bar):
        return _format(value.value)
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _number_class(right: bool) -> str:
    return ' class="number"' if right else ""


def _cell(value: object) -> str:
    if isinstance(value, Bar) and value.value > 0:
        share = min(1.0, value.value / value.most) if value.most > 0 else 0.0
        return f'<td class="number bar" style="--share: {share:.3f}">{escape(_format(value))}</td>'
    return f"<td{_number_class(_is_number(value))}>{escape(_format(value))}</td>"
