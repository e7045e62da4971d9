from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import pytest

from dcn.formats import documents
from dcn.formats.documents import parse_xml, read_json, read_name_lines, read_text, read_xml, read_yaml

WORDS = "Stra\xdfe \u732b"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"], ids=str)
def test_texts_in_every_unicode_form(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(f"{WORDS}\r\n\r\n second \n".encode(encoding))
    text = read_text(tmp_path / "a.txt")
    assert text.lines() == [(1, WORDS), (3, "second")]
    assert text.note == ""


def test_text_in_another_encoding_is_read_as_windows_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Stra\xdfe \u20ac".encode("cp1252"))
    text = read_text(tmp_path / "a.txt")
    assert text.text == "Stra\xdfe \u20ac"
    assert "save the file as UTF-8" in text.note


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"\x00\x01\x02\x03\x00", "expected text, got a binary file", id="binary"),
        pytest.param(b"\xff\xfea", "got bytes that are not utf-16-le", id="cut-utf-16"),
        pytest.param(b"\xff\xfe\x00\xd8x\x00", "got bytes that are not utf-16-le", id="half-a-pair"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.txt: .*{message}"):
        read_text(tmp_path / "a.txt")


def test_missing_and_oversized_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"gone\.txt: the list does not exist"):
        read_text(tmp_path / "gone.txt", "list")
    with pytest.raises(ValueError, match="the list cannot be read"):
        read_text(tmp_path, "list")
    monkeypatch.setattr(documents, "MAX_TEXT", documents.MEGABYTE)
    (tmp_path / "big.txt").write_bytes(b"a" * (documents.MEGABYTE + 1))
    with pytest.raises(ValueError, match=r"big\.txt: the file is too large: expected at most 1 MB"):
        read_text(tmp_path / "big.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_in_every_unicode_form(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps([WORDS]).encode(encoding))
    assert read_json(tmp_path / "a.json") == [WORDS]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 10**6, b'{"a":' * 10**5, b"1" * 10**5, b"\xff", b'"\xe9"', b"[1,]"],
    ids=["empty", "cut", "deep-lists", "deep-objects", "digits", "byte", "latin", "comma"],
)
def test_broken_json_is_one_line_about_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: malformed JSON") as caught:
        read_json(tmp_path / "a.json")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


ENCODED = {
    **dict.fromkeys(("utf-8", "utf-16", "iso-8859-15", "windows-1252"), "Stra\xdfe"),
    **dict.fromkeys(("gbk", "shift_jis", "euc-jp"), "\u732b"),
    "big5": "\u8c93",
    "cp1251": "\u043a\u043e\u0442",
}


@pytest.mark.parametrize(("encoding", "name"), ENCODED.items(), ids=ENCODED)
def test_xml_in_declared_encodings(encoding: str, name: str) -> None:
    data = f'<?xml version="1.0" encoding="{encoding}"?><a><b>{name}</b></a>'.encode(encoding)
    assert parse_xml(data).findtext("b") == name


@pytest.mark.parametrize("name", ["zip", "hex", "rot13", "unicode_escape", "idna", "undefined", "nonsense"])
def test_xml_in_encodings_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=r"malformed XML: .*save the file as UTF-8"):
        parse_xml(f'<?xml version="1.0" encoding="{name}"?><a/>'.encode())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32"])
def test_document_types_are_refused_in_every_form(encoding: str) -> None:
    laughs = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(30))
    data = f'<!DOCTYPE a [<!ENTITY e0 "ha">{laughs}]><a>&e30;</a>'
    with pytest.raises(ValueError, match="document type declaration"):
        parse_xml(data.encode(encoding))


def test_xml_that_is_too_deep_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected at most 100 nested elements"):
        parse_xml(b"<a>" * 10**6)
    monkeypatch.setattr(documents, "MAX_XML", documents.MEGABYTE)
    (tmp_path / "a.xml").write_bytes(b"<a>" + b" " * documents.MEGABYTE + b"</a>")
    with pytest.raises(ValueError, match=r"a\.xml: the annotation is too large: expected at most 1 MB"):
        read_xml(tmp_path / "a.xml", "a")


def _bomb() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]" for i in range(9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(_bomb(), r"expected values, got the alias \*a", id="aliases"),
        pytest.param("a: " + "[" * 5000, "expected at most 100 nested levels|not valid YAML", id="deep"),
        pytest.param("a: [", "not valid YAML", id="cut"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "not valid YAML", id="python"),
    ],
)
def test_hostile_yaml_is_refused_at_once(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'a.yaml'}: ")
    assert len(str(caught.value)) < 600
    assert time.perf_counter() - start < 5


def test_yaml_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(f"classes: [{WORDS}]\n".encode("utf-16"))
    assert read_yaml(tmp_path / "a.yaml") == {"classes": [WORDS]}


@pytest.mark.parametrize(("encoding", "warned"), [("utf-8", False), ("utf-16", False), ("gbk", True)])
def test_names_of_a_guessed_encoding_give_a_warning(encoding: str, warned: bool, tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("road\n猫狗\n".encode(encoding))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        lines = read_name_lines(file, "list of classes")
    assert [number for number, _ in lines] == [1, 2]
    assert (lines[1][1] == "猫狗") is not warned
    messages = [str(warning.message) for warning in seen]
    said = f"{file}: the file is not UTF-8 and was read as Windows-1252 ('Ã¨¹·'); save the file as UTF-8 where that is"
    assert [message.startswith(said) for message in messages] == ([True] if warned else [])


def test_a_description_of_a_guessed_encoding_gives_a_warning(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_bytes("names: [狗]".encode("gbk"))
    with pytest.warns(UserWarning, match=r"data\.yaml: the file is not UTF-8 and was read as Windows-1252"):
        read_yaml(tmp_path / "data.yaml")
