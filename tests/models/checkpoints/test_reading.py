from __future__ import annotations

import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dcn.checksums import TENSORS_KEY, tensors_checksum
from dcn.models.checkpoints import read_params, read_state

TENSORS = {"a.weight": torch.arange(4.0), "b": torch.ones(2, dtype=torch.int64)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"meta": {"epoch": 12}, "state_dict": OrderedDict(state)},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
    ],
    ids=["plain", "mmdetection", "model", "parallel"],
)
def test_forms_of_pytorch_files(wrap: object, tmp_path: Path) -> None:
    torch.save(wrap(TENSORS), tmp_path / "x.pth")  # type: ignore[operator]
    file = read_state(tmp_path / "x.pth")
    torch.testing.assert_close(file.tensors, TENSORS)


def test_meta_is_kept(tmp_path: Path) -> None:
    torch.save({"meta": {"CLASSES": ("a", "b")}, "state_dict": TENSORS}, tmp_path / "x.pth")
    assert read_state(tmp_path / "x.pth").meta == {"CLASSES": ("a", "b")}


def test_half_precision_is_widened(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, dtype=torch.float16), "n": torch.tensor(7)}, tmp_path / "x.pth")
    tensors = read_state(tmp_path / "x.pth").tensors
    assert (tensors["w"].dtype, tensors["n"].dtype) == (torch.float32, torch.int64)


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", {"model": "m", "options": '{"width": 0.5}', "odd": "{no json"})
    file = read_state(tmp_path / "x.safetensors")
    torch.testing.assert_close(file.tensors, TENSORS)
    assert file.meta == {"model": "m", "options": {"width": 0.5}, "odd": "{no json"}


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("should-not-exist"),)  # type: ignore[return-value]


def test_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": _Evil()}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: expected a PyTorch file with tensors only") as info:
        read_state(tmp_path / "x.pth")
    assert "it needs the object getattr" in str(info.value)
    assert "weights_only" not in str(info.value)  # torch's advice is to run the code
    assert not (tmp_path / "should-not-exist").exists()


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"not a checkpoint",
        pickle.dumps([1, 2], protocol=2),
        b"hello world, this is no pickle",
        b"\x80",
        b"\x80\x02h\x05.",
    ],
    ids=["text", "pickle", "text that begins like a pickle", "one byte", "nothing remembered"],
)
def test_garbage_is_one_message(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected a"):
        read_state(tmp_path / name)


def test_no_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"expected a state dict .* got a dict with the entries epoch, lr"):
        read_state(tmp_path / "x.pth")


def test_names_are_texts(tmp_path: Path) -> None:
    torch.save({"state_dict": {1: torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"expected a state dict \(names and tensors\), got a dict with the entries 1"):
        read_state(tmp_path / "x.pth")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.pth: expected a file of weights, got a name without"):
        read_state(tmp_path / "none.pth")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."], ids=lambda prefix: prefix.strip(".")
)
def test_prefixes_of_wrappers_are_removed(prefix: str, tmp_path: Path) -> None:
    inner = {"backbone._orig_mod.conv1.weight": torch.ones(1), "module_head.weight": torch.ones(2)}
    torch.save({f"{prefix}{name}": value for name, value in inner.items()}, tmp_path / "x.pth")
    assert set(read_state(tmp_path / "x.pth").tensors) == {"backbone.conv1.weight", "module_head.weight"}


def test_a_name_with_and_without_its_prefix_is_refused(tmp_path: Path) -> None:
    torch.save({"module.w": torch.ones(1), "w": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="expected w once, got it with and without a prefix"):
        read_state(tmp_path / "x.pth")


def _module_with(path: str, name: str) -> tuple[str, type]:
    kind = type(name, (), {"__init__": lambda self: setattr(self, "values", np.array([0.5]))})
    kind.__module__, kind.__qualname__ = path, name
    return path, kind


@pytest.fixture
def history_buffer(monkeypatch: pytest.MonkeyPatch) -> type:
    """mmengine's class of histories, importable only while the test writes a file."""
    path, kind = _module_with("mmengine.logging.history_buffer", "HistoryBuffer")
    for name in ("mmengine", "mmengine.logging", path):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[path].HistoryBuffer = kind  # type: ignore[attr-defined]
    return kind


def test_histories_of_mmengine_are_skipped(
    history_buffer: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {
        "meta": {"dataset_meta": {"classes": ("ace", "king")}, "best": np.float64(0.5)},
        "state_dict": TENSORS,
        "message_hub": {"log_scalars": {"train/loss": history_buffer()}},
    }
    torch.save(content, tmp_path / "epoch_12.pth")
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.delitem(sys.modules, name)
    file = read_state(tmp_path / "epoch_12.pth")
    torch.testing.assert_close(file.tensors, TENSORS)
    assert file.meta["dataset_meta"] == {"classes": ("ace", "king")}


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.params"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123456\n",
            "a Git LFS pointer, the text that stands for the file of 123,456 bytes; .* `git lfs pull`",
        ),
        (b"<!DOCTYPE html>\n<html><title>Sign in</title>", "a web page; download the file itself"),
        (b"", "an empty file; has the download failed"),
    ],
    ids=["git-lfs", "web-page", "empty"],
)
def test_what_is_no_file_of_weights_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected a file of weights, got {message}"):
        (read_params if name.endswith(".params") else read_state)(tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["float16", "float32"])
def test_expanded_tensors_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """400 MB out of a file of a kilobyte; tied weights of an ordinary file stay possible."""
    torch.save({"w": torch.ones(1, dtype=dtype).expand(100_000_000)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"got 400,000,000 bytes of tensors: they are expanded"):
        read_state(tmp_path / "x.pth")
    tied = torch.ones(1000)
    torch.save({"a": tied, "b": tied.view(10, 100)}, tmp_path / "tied.pth")
    assert read_state(tmp_path / "tied.pth").tensors["b"].shape == (10, 100)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(10_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for record in plain.infolist():
            bomb.writestr(record.filename, plain.read(record))
    with pytest.raises(ValueError, match=r"records are not compressed, got [\d,]+ bytes that unpack to 40,0"):
        read_state(tmp_path / "x.pth")


def test_deep_metadata_stays_text(tmp_path: Path) -> None:
    deep = "[" * 100_000
    save_file(TENSORS, tmp_path / "x.safetensors", {"options": deep})
    assert read_state(tmp_path / "x.safetensors").meta == {"options": deep}


def test_a_flipped_bit_in_our_own_weights_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = {"a": torch.arange(8.0)}
    save_file(tensors, path, {TENSORS_KEY: tensors_checksum(tensors, {})})
    assert torch.equal(read_state(path).tensors["a"], tensors["a"])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="the file is damaged: expected contents of the checksum"):
        read_state(path)


def test_a_flipped_bit_in_a_pytorch_file_is_noticed(tmp_path: Path) -> None:
    """torch.load takes such a file: it does not compare the checksums that torch.save wrote."""
    path = tmp_path / "x.pth"
    values = torch.full((1000,), 3.0)
    torch.save({"state_dict": {"a": values}}, path)
    content = bytearray(path.read_bytes())
    place = content.index(values.numpy().tobytes()[:64]) + 100
    content[place] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["state_dict"]["a"], values)
    with pytest.raises(ValueError, match=r"x.pth: expected a whole file, got one whose entry x/data/0 .* is damaged"):
        read_state(path)


@pytest.mark.parametrize("name", ["R-50.pkl", "R-50.pth"])
def test_a_pickle_of_arrays_is_read(name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    array = np.array([0.5, -1], np.float16)
    content = pickle.dumps({"model": OrderedDict({"stem.conv1.weight": array}), "__author__": "somebody"}, protocol=4)
    (tmp_path / name).write_bytes(content)
    file = read_state(tmp_path / name)
    torch.testing.assert_close(file.tensors, {"stem.conv1.weight": torch.tensor([0.5, -1.0])})
    assert file.meta == {"__author__": "somebody"}
    assert not recwarn.list
