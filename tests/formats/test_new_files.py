from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcn.data.datasets.synthetic import Synthetic
from dcn.formats.coco_writer import write_coco
from dcn.formats.new_files import NewFiles
from dcn.formats.voc_writer import write_voc, write_voc_results
from dcn.structures import Detections, Sample, Target

Write = Callable[..., Path]


def _data(length: int = 2) -> Synthetic:
    return Synthetic("train", length=length, size=(64, 64), glyph_size=(18, 30))


class _Named:
    """Generated images under other ids."""

    name, classes = "named", _data().classes

    def __init__(self, *ids: str) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        sample = _data()[0]
        assert isinstance(sample.target, Target)
        return Sample(sample.image, replace(sample.target, image_id=self._ids[index]))


def _snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


FOREIGN = {
    "voc-list": (write_voc, "ImageSets/Main/train.txt"),
    "voc-image": (write_voc, "JPEGImages/train_000001.jpg"),
    "voc-annotation": (write_voc, "Annotations/train_000001.xml"),
    "coco-annotations": (write_coco, "annotations/instances_train.json"),
    "coco-image": (write_coco, "train/train_000001.jpg"),
}


@pytest.mark.parametrize(("write", "name"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_never_replaced_and_nothing_is_left(tmp_path: Path, write: Write, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name}: exists already and is not replaced; choose another folder"):
        write(_data(), tmp_path, "train")
    assert _snapshot(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("write", [write_voc, write_coco])
def test_a_second_call_replaces_nothing(tmp_path: Path, write: Write) -> None:
    write(_data(), tmp_path, "train")
    before = _snapshot(tmp_path)
    with pytest.raises(ValueError, match="exists already"):
        write(_data(1), tmp_path, "train")
    assert _snapshot(tmp_path) == before


@pytest.mark.parametrize("write", [write_voc, write_coco])
def test_names_from_ids_stay_in_the_folder(tmp_path: Path, write: Write) -> None:
    folder = tmp_path / "deep" / "data"
    write(_Named("../../evil", "evil", "/abs", "C:\\x", "sub/one"), folder, "../../train")
    assert {path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(folder)} == set()
    images = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")]
    assert sorted(name.split("/", 1)[1] for name in images) == [
        "C_/x.jpg",
        "abs.jpg",
        "evil.jpg",
        "evil_2.jpg",
        "sub/one.jpg",
    ]


def test_names_from_classes_stay_in_the_folder(tmp_path: Path) -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    files = write_voc_results(tmp_path / "out", [none], ["a"], ["n/a", "../../x", "ok", "n_a"])
    assert {file.parent for file in files} == {tmp_path / "out"}
    assert len({*files}) == len(list(tmp_path.rglob("*.txt"))) == 4


def test_files_that_were_there_survive_a_failure(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("mine")

    def fail() -> None:
        with NewFiles() as new:
            new.open(tmp_path / "a" / "new").close()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert _snapshot(tmp_path) == {"old": b"mine"}
