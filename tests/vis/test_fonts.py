"""Letters beyond ASCII in pictures and plots."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcn.vis import fonts
from dcn.vis.canvas import text_size
from dcn.vis.fonts import picture_font
from dcn.vis.plots import confusion_matrix

CAT = "猫"


@pytest.fixture(autouse=True)
def _no_memory() -> Iterator[None]:
    """Every test looks for fonts anew, and leaves nothing behind."""
    for cached in (fonts._found, fonts._installed):
        cached.cache_clear()
    said = set(fonts._SAID)
    fonts._SAID.clear()
    yield
    fonts._SAID.clear()
    fonts._SAID.update(said)
    for cached in (fonts._found, fonts._installed):
        cached.cache_clear()


def _make_font(file: Path, letters: str) -> Path:
    """A font whose letters are solid squares."""
    builder = importlib.import_module("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    pen: Any = importlib.import_module("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = [f"letter{index}" for index in range(len(letters))]
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names, strict=True)})
    builder.setupGlyf(dict.fromkeys([".notdef", *names], square))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": file.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(file)
    return file


def _install(monkeypatch: pytest.MonkeyPatch, *files: Path) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(file) for file in files])


@pytest.mark.parametrize("letter", ["ä", "ß", "é", "ł", "я", "µ"])
def test_letters_beyond_ascii_are_drawn(letter: str) -> None:
    """Pillow's own font draws the same box for all of these."""
    text, none = f"a{letter}", "a\uffff"
    assert bytes(picture_font(20, text).getmask(text)) != bytes(picture_font(20, text).getmask(none))
    assert text_size(text, 20)[0] > text_size("a", 20)[0]
    assert text_size(text, 20)[1] == pytest.approx(text_size("a", 20)[1], abs=2)


def test_ascii_keeps_the_font() -> None:
    assert picture_font(20, "dog 0.95") is picture_font(20)


def test_a_font_of_the_machine_that_has_the_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [_make_font(tmp_path / "NotoSans-Some.ttf", "犬"), tmp_path / "broken.ttf"]
    others[1].write_bytes(b"no font")
    bold = _make_font(tmp_path / "NotoSansCJK-Bold.ttf", f"{CAT} 0.9")
    plain = _make_font(tmp_path / "plain.ttf", f"{CAT} 0.9")
    _install(monkeypatch, *others, bold, plain)
    assert Path(picture_font(20, f"{CAT} 0.9").path) == plain
    _install(monkeypatch, *others, bold)
    fonts._found.cache_clear()
    fonts._installed.cache_clear()
    assert Path(picture_font(20, f"{CAT} 0.9").path) == bold


def test_plots_take_the_font_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (CAT, "dog")
    _install(monkeypatch)
    with pytest.warns(UserWarning, match=CAT):
        without = confusion_matrix(np.eye(2), names)
    _install(monkeypatch, _make_font(tmp_path / "squares.ttf", CAT))
    fonts._found.cache_clear()
    fonts._installed.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = confusion_matrix(np.eye(2), names)
    one, other = (np.asarray(Image.open(io.BytesIO(data)).convert("L")) for data in (without, drawn))
    left = slice(None), slice(0, one.shape[1] // 4)
    assert (other[left] < 64).sum() > (one[left] < 64).sum() + 50  # a solid square in place of an empty box


def test_letters_without_a_font_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for size, text in ((12, f"{CAT} 0.9"), (20, CAT), (12, "犬")):
            picture_font(size, text)
        confusion_matrix(np.eye(2), (CAT, "dog"))
    (warning,) = (one for one in seen if one.category is UserWarning)  # not those of an older matplotlib
    assert str(warning.message).startswith(f"no installed font has the letters {CAT}: pictures and plots show boxes")
