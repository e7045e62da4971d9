from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from dcn.report.page import Page

VOID = {"meta", "img"}


class _Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def _photo() -> torch.Tensor:
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 48, 64)
    return (ramp * 3).contiguous()


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def _page() -> tuple[str, _Page]:
    page = Page("Title & <more>", "One sentence.")
    page.section("A").text("first\n\nsecond <script>alert(1)</script>").code("dcn train x=1 && echo '<done>'")
    page.section("B").table(["model", "AP", "count"], [["plain", 0.5, 12345], ["deformable", float("nan"), 7]], "Cap")
    page.section("C").image(_photo(), 'a "ramp" & more').figure_grid([(_png(), "dot", "A dot"), (_png(), "dot", "")])
    page.facts({"seed": 0, "torch": "2.13"})
    html = page.html()
    return html, _Page(html)


def test_tags_nest_and_text_is_escaped() -> None:
    html, page = _page()
    assert "<script" not in html
    assert page.texts["p"][1:3] == ["first", "second <script>alert(1)</script>"]
    assert page.texts["title"] == page.texts["h1"] == ["Title & <more>"]
    assert page.texts["code"] == ["dcn train x=1 && echo '<done>'"]


def test_pictures_are_inside_the_page_and_described() -> None:
    _, page = _page()
    images = page.all("img")
    assert [image["alt"] for image in images] == ['a "ramp" & more', "dot", "dot"]
    sources = [str(image["src"]).split(",", 1) for image in images]
    assert [head for head, _ in sources] == ["data:image/jpeg;base64", *["data:image/png;base64"] * 2]
    assert base64.b64decode(sources[1][1]) == _png()
    with Image.open(io.BytesIO(base64.b64decode(sources[0][1]))) as picture:
        assert picture.size == (64, 48)
        assert abs(picture.getpixel((40, 20))[0] - 120) <= 4  # type: ignore[index]


def test_nothing_is_loaded_from_elsewhere() -> None:
    html, page = _page()
    assert not page.all("script") + page.all("link")
    assert "http" not in html
    assert "url(" not in html


def test_numbers_are_formatted_and_set_right() -> None:
    _, page = _page()
    assert page.texts["td"] == ["0.500", "12,345", "n/a", "7", "0", "2.13"]
    assert [cell.get("class") for cell in page.all("td")] == ["number"] * 4 + [None] * 2
    heads = [cell for cell in page.all("th") if cell.get("scope") == "col"]
    assert [cell.get("class") for cell in heads] == [None, "number", "number"]


def test_the_page_can_be_navigated() -> None:
    _, page = _page()
    assert page.all("html") == [{"lang": "en"}]
    assert [h["id"] for h in page.all("h2")] == ["section-1", "section-2", "section-3"]
    assert [a["href"] for a in page.all("a")] == ["#section-1", "#section-2", "#section-3"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_write_makes_folders(tmp_path: Path) -> None:
    path = Page("T").text("ä").write(tmp_path / "runs" / "demo" / "page.html")
    assert "<p>ä</p>" in path.read_text(encoding="utf-8")


def test_a_picture_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png())
    source = _Page(Page("T").image(tmp_path / "a.png", "dot").html()).all("img")[0]["src"]
    assert base64.b64decode(str(source).split(",")[1]) == _png()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="alt"):
        Page("T").image(_png(), " ")
    with pytest.raises(ValueError, match="picture: expected PNG"):
        Page("T").image(b"BM123", "a bitmap")
    with pytest.raises(ValueError, match="rows: expected 2 cells in row 1, got 1"):
        Page("T").table(["a", "b"], [[1, 2], [3]])
