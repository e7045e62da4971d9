"""Fonts for names in any script: Pillow's own, matplotlib's, or one of the machine that has the letters."""

from __future__ import annotations

import importlib.util
import io
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

_MATPLOTLIB_FONT = ("mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
_NO_CHARACTER = "\uffff"  # every font draws the box of a missing glyph
# Parts of file names, the plainest faces of large families first; then any font that is not of these kinds.
_FIRST = (
    "notosanscjk",
    "notosans",
    "sourcehansans",
    "wqy",
    "msyh",
    "pingfang",
    "hiragino",
    "malgun",
    "meiryo",
    "arial",
)
_LAST = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black", "medium", "condensed")
_SAID: set[str] = set()  # letters that the one warning named


def picture_font(size: int, text: str = "") -> Any:
    """The font for a text in a picture, ``size`` pixels high: the first of the three that has all of its letters."""
    if all(_in_pillow(letter) for letter in text):
        return _pillow_font(size)
    file = _file_for(text)
    return _pillow_font(size) if file is None else _opened(file, size)


@lru_cache(maxsize=64)
def _pillow_font(size: int) -> Any:
    return ImageFont.load_default(size)


@lru_cache(maxsize=64)
def _opened(file: Path, size: int) -> Any:
    return ImageFont.truetype(str(file), size)  # a Path only since Pillow 10.2


@lru_cache(maxsize=1024)
def _in_pillow(letter: str) -> bool:
    """Whether Pillow's own font, which is cut to little more than ASCII, has a glyph for it."""
    return letter.isascii() or bytes(_pillow_font(16).getmask(letter)) != bytes(_pillow_font(16).getmask(_NO_CHARACTER))


def figure_png(figure: Any) -> bytes:
    """A matplotlib figure as PNG, with fonts that have the letters of its texts."""
    _fit_fonts(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from (current )?font")  # said once for all pictures
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _fit_fonts(figure: Any) -> None:
    """Give the texts of a figure a second font where its own lacks their letters."""
    from matplotlib.font_manager import FontProperties, fontManager
    from matplotlib.text import Text

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # writes the texts of the ticks
    own = _matplotlib_font()
    for text in figure.findobj(Text):
        file = None if text.get_text().isascii() else _file_for(text.get_text())
        if file is None or file == own:
            continue
        if all(entry.fname != str(file) for entry in fontManager.ttflist):
            fontManager.addfont(file)
        text.set_fontfamily(["DejaVu Sans", FontProperties(fname=str(file)).get_name()])


def _file_for(text: str) -> Path | None:
    """The file of a font that has the letters of a text, or most of them; ``None`` where matplotlib is missing."""
    own = _matplotlib_font()
    if own is None:
        return None
    file, lacking = _found(own, frozenset(letter for letter in text if letter.isprintable() and not letter.isspace()))
    _warn(lacking)
    return file


def _warn(lacking: frozenset[str]) -> None:
    """Say once that pictures show boxes in place of letters, with the first of them."""
    if not lacking or _SAID:
        return
    _SAID.update(lacking)
    warnings.warn(
        f"no installed font has the letters {' '.join(sorted(lacking)[:10])}: pictures and plots show boxes for them; "
        "install one, such as Noto Sans (its CJK form for Chinese, Japanese and Korean)",
        stacklevel=2,
    )


@lru_cache(maxsize=1)
def _matplotlib_font() -> Path | None:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic; as high as Pillow's font."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent.joinpath(*_MATPLOTLIB_FONT)
    return file if file.is_file() else None


@lru_cache(maxsize=256)
def _found(own: Path, letters: frozenset[str]) -> tuple[Path, frozenset[str]]:
    """The font that has most of the letters and those that it lacks; among equals ``own``, then the plainest one."""
    best = own, _lacking(own, letters)
    for file in _installed() if best[1] else ():
        lacking = _lacking(file, letters)
        best = (file, lacking) if len(lacking) < len(best[1]) else best
        if not lacking:
            break
    return best


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(map(Path, findSystemFonts()), key=_rank))


def _rank(file: Path) -> tuple[bool, int, str]:
    name = file.name.lower().replace("-", "").replace(" ", "")
    family = next((index for index, part in enumerate(_FIRST) if part in name), len(_FIRST))
    return any(kind in name for kind in _LAST), family, str(file)


@lru_cache(maxsize=4096)
def _lacking(file: Path, letters: frozenset[str]) -> frozenset[str]:
    """The letters that a font has no glyph for; all where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        characters = FT2Font(str(file)).get_charmap()
    except (RuntimeError, OSError, ValueError):
        return letters
    return frozenset(letter for letter in letters if ord(letter) not in characters)
