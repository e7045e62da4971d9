"""Tables of colours in the forms that other tools write."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcn.formats.color_tables import color_table, find_color_table, read_color_table

TWO = (("sky", "tree top"), ((1, 2, 3), (40, 50, 60)), (0, 1))
FILES = {
    "CamVid": ("label_colors.txt", "1 2 3\tsky\n40 50 60\ttree top\n"),
    "name first": ("colors.txt", "sky 1 2 3\ntree top, 40, 50, 60\n"),
    "CVAT": ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:1,2,3::\ntree top:40,50,60::\n"),
    "columns": ("class_dict.csv", "name,r,g,b\nsky,1,2,3\ntree top,40,50,60\n"),
    "other columns": ("colors.csv", "id;red;green;blue;class\n7;1;2;3;sky\n9;40;50;60;tree top\n"),
    "hexadecimal": ("colors.txt", "#010203 sky\ntree top: #28323c\n"),
    "JSON": ("colors.json", '{"sky": [1, 2, 3], "tree top": "#28323C"}'),
    "YAML": ("colors.yaml", "sky: [1, 2, 3]\ntree top: [40, 50, 60]\n"),
    "Windows": ("colors.txt", "\ufeff1 2 3 sky\r\n\r\n40;50;60;tree top\r\n"),
}


@pytest.mark.parametrize(("name", "text"), FILES.values(), ids=FILES)
def test_forms(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    table = read_color_table(tmp_path / name)
    assert (table.names, table.colors, table.labels) == TWO


def test_ignored_names_and_several_colors_of_a_class(tmp_path: Path) -> None:
    said = {"Void": [0, 0, 0], "lane": [[1, 1, 1], [2, 2, 2]], "car": [3, 3, 3]}
    table = color_table(said, tmp_path)
    assert table.names == ("lane", "car")
    assert dict(zip(table.colors, table.labels, strict=True)) == {
        (0, 0, 0): 255,
        (1, 1, 1): 0,
        (2, 2, 2): 0,
        (3, 3, 3): 1,
    }


def test_classes_in_another_order(tmp_path: Path) -> None:
    table = color_table({"a": [1, 1, 1], "void": [0, 0, 0], "b": [2, 2, 2]}, tmp_path).ordered(("b", "a"))
    assert (table.names, table.labels) == (("b", "a"), (1, 255, 0))


def test_supervisely_has_a_background(tmp_path: Path) -> None:
    (tmp_path / "obj_class_to_machine_color.json").write_text('{"cat": [1, 1, 1]}')
    file = find_color_table(tmp_path)
    assert file is not None
    assert read_color_table(file).names == ("background", "cat")


FAULTS = {
    "range": ("1 2 300 cat", r"line 1: expected numbers 0 to 255, got \['1', '2', '300'\]"),
    "words": ("1 2 3 sky\nhello", "line 2: expected 'r g b name' or 'name r g b' with numbers 0 to 255, got 'hello'"),
    "twice": ("1 2 3 sky\n1 2 3 car", r"expected each colour once, got \(1, 2, 3\) for 'sky' and 'car'"),
    "empty": ("", "expected the colours of 1 to 255 classes, got 0"),
    "ignored alone": ("0 0 0 void", "expected the colours of 1 to 255 classes, got 0"),
    "columns lack": ("name,r,g,b\nsky,1,2", "line 2: expected 4 columns"),
    "many": ("\n".join(f"{i} 0 {i // 200} n{i}" for i in range(256)), "1 to 255 classes, got 256"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_faults(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "colors.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_color_table(file)
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        pytest.param([[1, 2, 3]], "colors: expected a file or a mapping", id="list"),
        pytest.param({"sky": [1, 2]}, r"colors: sky: expected a colour as \[r, g, b\]", id="two numbers"),
        pytest.param({"sky": 7}, "colors: sky: expected a colour", id="number"),
        pytest.param("none.txt", r"none\.txt: the table of colours does not exist", id="no file"),
    ],
)
def test_faults_of_the_option(said: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        color_table(said, tmp_path)
