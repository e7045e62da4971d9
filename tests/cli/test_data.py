from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcn.cli.main import parse
from dcn.data import open_dataset
from tests.data.layouts import make_index_masks
from tests.data.made_files import make_coco, make_voc, voc_object, voc_xml


def _run(*words: object) -> int:
    arguments = parse(["data", *map(str, words)])
    return int(arguments.run(arguments))


def test_check_of_sound_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("check", make_voc(tmp_path)) == 0
    taken, summary = capsys.readouterr().out.splitlines()
    assert taken == f"{tmp_path}: taken for voc (Pascal VOC: Annotations, ImageSets/Main, JPEGImages)"
    assert summary == f"{tmp_path}: voc, 2 images, 3 objects (cat 1, dog 1, person 1): no problems"


def test_check_of_masks_counts_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_index_masks(tmp_path, beside=False)
    assert _run("check", tmp_path) == 0
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary == f"{tmp_path}: masks, 6 images, images of each class (0 2, 1 2, 2 2): no problems"


def _make_colored(root: Path, quality: int | None = None) -> Path:
    """One image with a mask in two colours; the file with their names beside the folder."""
    colors = np.zeros((16, 16, 3), np.uint8)
    colors[:, 8:] = (200, 30, 60)
    for name, array in (("images/a.jpg", colors), (f"masks/a.{'jpg' if quality else 'png'}", colors)):
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(array).save(root / name, quality=quality or 95)
    table = root.with_suffix(".txt")
    table.write_text("0 0 0 wall\n200 30 60 crack\n")
    return table


@pytest.mark.parametrize("quality", [None, 40], ids=["PNG", "JPEG"])
def test_masks_in_colors(quality: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _make_colored(tmp_path / "d", quality)
    assert _run("check", tmp_path / "d") == 1
    assert "expected a table of the colours of the masks, got none" in capsys.readouterr().out
    options = ("--colors", table, *(("--unknown-colors", "nearest") if quality else ()))
    assert _run("check", tmp_path / "d", *options) == 0
    assert "images of each class (crack 1, wall 1): no problems" in capsys.readouterr().out
    assert _run("stats", tmp_path / "d", *options, "--json") == 0
    assert '"crack"' in capsys.readouterr().out
    assert _run("show", tmp_path / "d", *options, "-o", tmp_path / "sheet.png") == 0


def test_statistics_of_a_named_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_voc(tmp_path)
    assert _run("stats", tmp_path, "--format", "voc") == 0
    assert capsys.readouterr().out.startswith("2 images, 0 without an object; 3 objects")
    with pytest.raises(ValueError, match=r"expected a folder in the layout of 'yolo' \(images with text files"):
        _run("stats", tmp_path, "--format", "yolo")
    with pytest.raises(ValueError, match="expected one that has files, got 'synthetic'"):
        _run("stats", tmp_path, "--format", "synthetic")


def test_check_prints_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_voc(tmp_path, {"a": voc_xml(voc_object(box=(1, 1, 99, 9))), "b": "<annotation>"})
    assert _run("check", tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path}/Annotations/a.xml: object 0 (dog): expected a box inside the image of")
    assert lines[1].startswith(f"{tmp_path}/Annotations/b.xml: malformed XML")
    assert lines[2].startswith(f"{tmp_path}: taken for voc (Pascal VOC")
    assert lines[3:] == [f"{tmp_path}: voc, 1 image, 0 objects (none): 2 problems"]


def test_check_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_voc(tmp_path / "v", {"a": voc_xml(voc_object("ant"), voc_object("bee"))})
    assert _run("check", tmp_path / "v", "--classes", "ant, bee") == 0
    assert _run("check", tmp_path / "v", "--classes", "ant") == 1
    assert _run("check", tmp_path / "v", "--split", "val") == 1
    assert "got 'val'" in capsys.readouterr().out
    make_coco(tmp_path / "c")
    (tmp_path / "c" / "train").rename(tmp_path / "c" / "pics")
    options = ("--format", "coco", "--annotations", "annotations/instances_train.json", "--images", "pics")
    assert _run("check", tmp_path / "c", *options) == 0


@pytest.mark.parametrize("kind", ["voc", "voc-own-classes", "coco", "synthetic"])
def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    source: object = "synthetic"
    if kind == "coco":
        source = make_coco(tmp_path / "data")
    elif kind.startswith("voc"):
        own = {"a": voc_xml(voc_object("ant")), "b": voc_xml()}
        source = make_voc(tmp_path / "data", own if kind.endswith("classes") else None)
    assert _run("show", source, "--count", 2, "--output", tmp_path / "out.png") == 0
    assert f"{tmp_path / 'out.png'}: 2 of " in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.width > 2 * 100
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 50


def test_show_replaces_its_own_sheet_and_nothing_else(tmp_path: Path) -> None:
    source = make_voc(tmp_path / "data")
    for _ in range(2):
        assert _run("show", source, "--count", 1, "--output", tmp_path / "out.png") == 0
    photo = source / "JPEGImages" / "a.png"
    before = photo.read_bytes()
    with pytest.raises(ValueError, match=r"a\.png exists, and this command did not write it"):
        _run("show", source, "--output", photo)
    assert photo.read_bytes() == before


def test_write_never_replaces_a_file(tmp_path: Path) -> None:
    """The list of somebody else's data stays as it is, and no image is added beside it."""
    root = make_voc(tmp_path / "mine")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"train\.txt: exists already and is not replaced"):
        _run("write", root, "--length", 2)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_photos_that_are_stored_turned_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(make_voc(tmp_path) / "JPEGImages" / "a.png", exif=exif)
    assert _run("check", tmp_path) == 0
    assert "note: 1 photo is stored turned (EXIF orientation)" in capsys.readouterr().out
    assert _run("check", tmp_path, "--upright") == 1
    assert "the annotation says 60x40 pixels" in capsys.readouterr().out


def test_show_of_wrong_things(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone: the folder does not exist"):
        _run("show", tmp_path / "gone")
    with pytest.raises(ValueError, match="--count: expected 1 or more, got 0"):
        _run("show", make_voc(tmp_path), "--count", 0)


@pytest.mark.parametrize("format", ["voc", "coco"])
def test_write_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str) -> None:
    assert _run("write", tmp_path / "d", "--format", format, "--split", "val", "--length", 3, "--seed", 5) == 0
    assert _run("check", tmp_path / "d") == 0
    assert f"{format}, 3 images" in capsys.readouterr().out


def test_write_takes_options_of_the_generated_set(tmp_path: Path) -> None:
    options, length = ("symbols=shapes", "num_classes=2", "size=[64, 96]", "glyph_size=[20, 30]"), ("--length", 4)
    for name, words in {"before": (*options, *length), "after": (*length, *options)}.items():
        assert _run("write", tmp_path / name, *words) == 0
        dataset = open_dataset("voc", tmp_path / name, "train", classes=["disc", "square"])
        assert dataset.sizes == [(64, 96)] * 4
    with pytest.raises(ValueError, match="symbols: expected one of letters, shapes, got 'circles'"):
        _run("write", tmp_path / "e", "symbols=circles")
    with pytest.raises(ValueError, match=r"colour"):
        _run("write", tmp_path / "e", "colour=red")
