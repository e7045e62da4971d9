"""Text, JSON, XML and YAML files that strangers wrote: any usual encoding, bounded size and depth, no entities.

Every function raises `ValueError` that begins with the file's name.
"""

from __future__ import annotations

import codecs
import json
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from dcn.extras import require

MEGABYTE = 2**20
MAX_TEXT = 512 * MEGABYTE
MAX_JSON = 4096 * MEGABYTE
MAX_XML = 64 * MEGABYTE
MAX_YAML = MEGABYTE
MAX_DEPTH = 100
"""How deep XML elements and YAML values may be nested; annotations need four levels."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins with the mark of UTF-16: it must come first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(r"""^\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["'][^>]{0,200}\?>""")
_SAVE = "save the file as UTF-8"


@dataclass(frozen=True)
class Text:
    """The text of a file.

    Attributes:
        text: without a byte order mark.
        note: empty, or the end of an error message for a file whose encoding had to be guessed.
    """

    text: str
    note: str = ""

    def lines(self) -> list[tuple[int, str]]:
        """``(number from 1, text)`` of the lines that are not blank, without surrounding blanks."""
        numbered = enumerate(re.split(r"\r\n|\r|\n", self.text), start=1)
        return [(number, stripped) for number, line in numbered if (stripped := line.strip())]


def read_text(path: Path, what: str = "file") -> Text:
    """A text file in UTF-8, UTF-16 or UTF-32, with or without byte order mark; otherwise Windows-1252.

    Raises:
        ValueError: the file cannot be read, is binary, is larger than 512 MB or breaks off inside a character.
    """
    data = read_bytes(path, MAX_TEXT, what)
    try:
        text, certain = _decode(data)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected text, got bytes that are not {error.encoding} ({error}); {_SAVE}"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path}: expected text, got a binary file; {_SAVE}")
    return Text(text, "" if certain else f" (the file is not UTF-8 and was read as Windows-1252; {_SAVE})")


def read_name_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """The lines of a file with names that people will read, see :meth:`Text.lines`; a guessed encoding is a warning.

    Args:
        path: the file.
        what: its kind, for messages.

    Raises:
        ValueError: as `read_text`.
    """
    text = read_text(path, what)
    if text.note:
        _warn_of_guess(path, text.text)
    return text.lines()


def _warn_of_guess(path: Path, text: str) -> None:
    _say_guess(path, next((line.strip()[:40] for line in text.splitlines() if not line.isascii()), ""))


@lru_cache(maxsize=64)
def _say_guess(path: Path, line: str) -> None:
    """Say once that names may be wrong: Windows-1252 is a guess, and Chinese or Japanese editors write others."""
    warnings.warn(
        f"{path}: the file is not UTF-8 and was read as Windows-1252 ({line!r}); {_SAVE} where that is wrong",
        stacklevel=4,
    )


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The bytes of a file of at most ``limit`` bytes.

    Raises:
        ValueError: the file is missing, cannot be read or is larger; ``what`` names its kind.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the {what} does not exist") from error
    except OSError as error:
        raise ValueError(f"{path}: the {what} cannot be read ({error.strerror or error})") from error
    if len(data) > limit:
        raise ValueError(f"{path}: the {what} is too large: expected at most {limit // MEGABYTE} MB, got more")
    return data


def _decode(data: bytes) -> tuple[str, bool]:
    """The text, and whether its encoding is certain.

    Raises:
        UnicodeDecodeError: the bytes do not fit the encoding that they announce.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding), True
    if (silent := _encoding_without_mark(data)) is not None:
        return data.decode(silent), True
    try:
        return data.decode("utf-8"), True
    except UnicodeDecodeError:
        # Windows-1252 leaves five bytes undefined; Latin-1 has a character for each.
        return data.decode("cp1252" if not set(data) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1"), False


def _encoding_without_mark(data: bytes) -> str | None:
    """UTF-16 of a text that begins with an ASCII character is told by its zeros."""
    if len(data) >= 2 and len(data) % 2 == 0 and data[0] != data[1]:
        if data[1] == 0 and 0 not in data[0:2000:2]:
            return "utf-16-le"
        if data[0] == 0 and 0 not in data[1:2000:2]:
            return "utf-16-be"
    return None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: the file cannot be read, is malformed, in another encoding than UTF-8, UTF-16 or UTF-32, or nested
            too deeply.
    """
    data = read_bytes(path, MAX_JSON, "annotation file")
    try:
        text, certain = _decode(data)
        if not certain:
            raise ValueError(f"the file is not UTF-8; {_SAVE}")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: malformed JSON ({_one_line(error)})") from error


def read_xml(path: Path, root: str) -> Element:
    """The root element of an XML file; document type declarations, hence entities, are refused.

    Args:
        path: the file.
        root: the tag that the outermost element must have.

    Raises:
        ValueError: the file cannot be read, is malformed, has another root, a document type declaration, an encoding
            that Python does not know, or is nested too deeply.
    """
    data = read_bytes(path, MAX_XML, "annotation")
    try:
        element = parse_xml(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if element.tag != root:
        raise ValueError(f"{path}: expected <{root}> as the outermost element, got <{str(element.tag)[:60]}>")
    return element


def parse_xml(data: bytes) -> Element:
    """`read_xml` for bytes.

    Raises:
        ValueError: without the name of a file.
    """
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        """An element begins; refuses too deep ones."""
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"malformed XML: expected at most {MAX_DEPTH} nested elements, got more")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        """An element ends."""
        nonlocal depth
        depth -= 1
        builder.end(tag)

    # The text is decoded here and handed over as UTF-8: expat itself knows no multi-byte encodings.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(_decode_xml(data).encode("utf-8"), True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise ValueError(f"malformed XML: {error}") from error
    return builder.close()


def _decode_xml(data: bytes) -> str:
    head = data[:400].decode("latin-1").lstrip("\ufeff")
    marked = any(data.startswith(mark) for mark, _ in _BOMS) or _encoding_without_mark(data) is not None
    declared = None if marked else _DECLARED.match(head)
    try:
        if declared is not None:
            return data.decode(_known_encoding(declared.group(1)))
        text, certain = _decode(data)
    except UnicodeDecodeError as error:
        raise ValueError(f"malformed XML: the text is not {error.encoding} ({error}); {_SAVE}") from error
    if not certain:
        raise ValueError(f"malformed XML: the text is not UTF-8 and no other encoding is declared; {_SAVE}")
    return text


def _known_encoding(name: str) -> str:
    """The declared encoding, if it is one of texts: Python has others, which unpack archives."""
    try:
        "".encode(name)  # refuses codecs that are not encodings of text
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"malformed XML: expected a known encoding, got {name!r}; {_SAVE}") from error
    if name.lower().replace("-", "_") in ("unicode_escape", "raw_unicode_escape", "idna", "punycode"):
        raise ValueError(f"malformed XML: expected an encoding of files, got {name!r}; {_SAVE}")
    return name


def _refuse_doctype(*_: object) -> None:
    raise ValueError("a document type declaration (DTD) is not accepted in an annotation; remove the <!DOCTYPE> part")


def read_yaml(path: Path) -> Any:
    """The value in a YAML file of at most 1 MB, without aliases (they can make a small file explode).

    Raises:
        ValueError: the file cannot be read, is malformed, has aliases or is nested too deeply.
    """
    require("yaml")
    import yaml

    try:
        text, certain = _decode(read_bytes(path, MAX_YAML, "description of the folder"))
        if not certain:
            _warn_of_guess(path, text)
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"expected values, got the alias *{event.anchor}; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"expected at most {MAX_DEPTH} nested levels, got more")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = _one_line(error).removeprefix(f"{path}: ")
        expected = "" if message.startswith("the description") else "not valid YAML: "
        raise ValueError(f"{path}: {expected}{message}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
