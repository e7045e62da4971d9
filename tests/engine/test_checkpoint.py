from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dcn.engine import checkpoint
from dcn.engine.checkpoint import Checkpoints, find_weights, read_weights, save_weights
from tests.engine.tiny import TinyDetector, new_detector


def _filled(value: float) -> TinyDetector:
    model = new_detector()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return model


def test_weights_come_back_with_what_rebuilds_the_network(tmp_path: Path) -> None:
    model = new_detector()
    save_weights(tmp_path / "w.safetensors", model, "tiny", {"width": 0.5, "size": [1, 2]}, step=7)
    state, info = read_weights(tmp_path / "w.safetensors")
    assert (info.model, info.classes, info.step) == ("tiny", ("dark", "bright"), 7)
    assert info.options == {"width": 0.5, "size": [1, 2]}
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def _foreign(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path)


def _broken(path: Path) -> None:
    path.write_bytes(b"not safetensors at all")


@pytest.mark.parametrize(
    ("make", "message"),
    [(None, "no such weights file"), (_foreign, "does not name its network"), (_broken, "not a readable safetensors")],
    ids=["missing", "foreign", "broken"],
)
def test_unusable_weights_are_named(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "w.safetensors"
    if callable(make):
        make(path)
    with pytest.raises(ValueError, match=message):
        read_weights(path)


@pytest.mark.parametrize("moment", ["_write_state", "link"])
def test_weights_and_state_agree_whenever_the_process_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Step 2 is cut off after its weights were written (before the state), or after the state (before the link)."""
    files = Checkpoints(tmp_path, "tiny", {})
    files.save(_filled(1.0), 1, {"mark": 1})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    if moment == "link":
        monkeypatch.setattr(checkpoint, "_link", die)
    else:
        monkeypatch.setattr(files, "_write_state", die)
    with pytest.raises(KeyboardInterrupt):
        files.save(_filled(2.0), 2, {"mark": 2})
    model = new_detector()
    state = Checkpoints(tmp_path, "tiny", {}).load(model)
    assert state is not None
    assert state["step"] == state["mark"] == model.layer.bias[0].item()
    assert state["step"] == (2 if moment == "link" else 1)


def test_only_the_last_weights_are_kept(tmp_path: Path) -> None:
    files = Checkpoints(tmp_path, "tiny", {})
    files.save(_filled(1.0), 1, {})
    files.save(_filled(2.0), 2, {})
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["last.safetensors", "step_00000002.safetensors"]
    last: dict[str, Tensor] = read_weights(tmp_path / "weights" / "last.safetensors")[0]
    assert float(last["layer.bias"][0]) == 2.0


def test_the_state_opens_without_running_code(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "tiny", {}).save(new_detector(), 3, {"best": 0.5})
    state = torch.load(tmp_path / "trainer.pt", weights_only=True)
    assert (state["step"], state["best"]) == (3, 0.5)


def test_the_best_weights_are_preferred(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is it a run"):
        find_weights(tmp_path)
    files = Checkpoints(tmp_path, "tiny", {})
    files.save(new_detector(), 1, {})
    assert find_weights(tmp_path).name == "last.safetensors"
    files.save_best(new_detector(), 1)
    assert find_weights(tmp_path).name == "best.safetensors"
