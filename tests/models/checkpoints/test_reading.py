from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dcn.models.checkpoints import read_state

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
        b"",
        b"not a checkpoint",
        pickle.dumps([1, 2], protocol=2),
        b"hello world, this is no pickle",
        b"\x80",
        b"\x80\x02h\x05.",
    ],
    ids=["empty", "text", "pickle", "text that begins like a pickle", "one byte", "nothing remembered"],
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
    with pytest.raises(ValueError, match="found nothing there"):
        read_state(tmp_path / "none.pth")
