from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcn.data.datasets.voc_segmentation import listed_in_sbd, mask_in_sbd
from dcn.formats import mat
from dcn.formats.index_masks import IndexReader
from tests.data.made_masks import write_mask

READ = IndexReader({value: value for value in range(21)})
LABELS = np.array([[0, 15, 15], [7, 0, 0]], dtype=np.uint8)


def make_mat(path: Path, labels: np.ndarray = LABELS) -> None:
    """As SBD stores it: a struct ``GTcls`` with ``Boundaries``, ``Segmentation`` and ``CategoriesPresent``."""
    scipy_io = pytest.importorskip("scipy.io")
    path.parent.mkdir(parents=True, exist_ok=True)
    present = np.unique(labels[labels > 0])
    scipy_io.savemat(path, {"GTcls": {"Boundaries": 0, "Segmentation": labels, "CategoriesPresent": present}})


def test_both_forms(tmp_path: Path) -> None:
    make_mat(tmp_path / "cls" / "a.mat")
    write_mask(tmp_path / "cls_png" / "b.png", LABELS)
    files = [mask_in_sbd(tmp_path, stem) for stem in ("a", "b", "c")]
    assert files == [tmp_path / "cls" / "a.mat", tmp_path / "cls_png" / "b.png", None]
    for file in files[:2]:
        assert file is not None
        assert READ(file).tolist() == LABELS.tolist()


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'scipy: .*pip install "deformable-convnets\[sbd\]"'):
        READ(tmp_path / "a.mat")


def test_another_mat_file(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "a.mat", {"other": LABELS})
    with pytest.raises(ValueError, match=r"a\.mat: not a label file of SBD"):
        READ(tmp_path / "a.mat")


def test_a_missing_list(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"sbd: expected .*, got no val\.txt"):
        listed_in_sbd(tmp_path)


def _damaged(data: bytes, kind: str) -> bytes:
    rng = np.random.default_rng(0)
    return {
        "empty": b"",
        "header": data[:128],
        "cut": data[: len(data) * 2 // 3],
        "flipped": data[:150] + bytes(255 - value for value in data[150:170]) + data[170:],
        "noise": data[:128] + rng.integers(0, 256, 500, dtype=np.uint8).tobytes(),
        "text": b"no MATLAB file",
    }[kind]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("kind", ["empty", "header", "cut", "flipped", "noise", "text"])
def test_damaged_files_are_one_error(tmp_path: Path, kind: str, packed: bool) -> None:
    """zlib, struct, scipy and NumPy raise a dozen kinds of errors."""
    scipy_io = pytest.importorskip("scipy.io")
    labels = np.random.default_rng(0).integers(0, 21, (20, 30), dtype=np.uint8)
    scipy_io.savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": labels}}, do_compression=packed)
    (tmp_path / "a.mat").write_bytes(_damaged((tmp_path / "a.mat").read_bytes(), kind))
    with pytest.raises(ValueError, match=r"a\.mat: not a label file of SBD"):
        READ(tmp_path / "a.mat")


def test_compressed_files_are_read(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": LABELS}}, do_compression=True)
    assert READ(tmp_path / "a.mat").tolist() == LABELS.tolist()


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    monkeypatch.setattr(mat, "MAX_UNPACKED", 2**20)
    zeros = np.zeros((2000, 2000), np.uint8)
    scipy_io.savemat(tmp_path / "a.mat", {"GTcls": {"Segmentation": zeros}}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"a\.mat: .*expected at most 1 MB unpacked"):
        READ(tmp_path / "a.mat")
