"""Reads the tables and the numbers of a page back."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

Table = dict[str, dict[str, str]]


class Tables(HTMLParser):
    """The tables of a page by caption: row name -> column -> text; and the tiles.

    Attributes:
        tables: those with a header.
        tiles: the numbers at the top.
        headings: of the sections.
    """

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tables: dict[str, Table] = {}
        self.tiles: dict[str, str] = {}
        self.headings: list[str] = []
        self._caption, self._header, self._row = "", list[str](), list[str]()
        self._text: str | None = None
        self._in_head = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._caption, self._header = "", []
        elif tag == "thead":
            self._in_head = True
        elif tag == "tr":
            self._row = []
        elif tag in ("caption", "th", "td", "dt", "dd", "h2"):
            self._text = ""

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        text, self._text = self._text or "", None
        if tag == "caption":
            self._caption = text
        elif tag in ("th", "td"):
            (self._header if self._in_head else self._row).append(text)
        elif tag == "thead":
            self._in_head = False
        elif tag == "tr" and self._row and self._header:
            row = dict(zip(self._header[1:], self._row[1:], strict=True))
            self.tables.setdefault(self._caption, {})[self._row[0]] = row
        elif tag == "dt":
            self._name = text
        elif tag == "dd":
            self.tiles[self._name] = text
        elif tag == "h2":
            self.headings.append(text)

    def table(self, beginning: str) -> Table:
        """The table whose caption begins so."""
        (actual,) = (table for caption, table in self.tables.items() if caption.startswith(beginning))
        return actual


def number(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace(",", ""))
