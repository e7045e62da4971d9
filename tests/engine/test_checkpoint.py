from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dcn.engine import checkpoint
from dcn.engine.atomic import link
from dcn.engine.checkpoint import (
    PREVIOUS_FILE,
    STATE_FILE,
    Checkpoints,
    find_weights,
    halve_weights,
    read_state,
    read_weights,
    save_weights,
)
from tests.engine.tiny import TinyDetector, new_detector


def _filled(value: float) -> TinyDetector:
    model = new_detector()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return model


def test_weights_come_back_with_what_rebuilds_the_model(tmp_path: Path) -> None:
    model = new_detector()
    save_weights(tmp_path / "w.safetensors", model, "tiny", {"width": 0.5, "size": [1, 2]}, step=7)
    state, info = read_weights(tmp_path / "w.safetensors")
    assert (info.model, info.classes, info.step) == ("tiny", ("dark", "bright"), 7)
    assert info.options == {"width": 0.5, "size": [1, 2]}
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_weights_keep_the_colors_of_the_classes(tmp_path: Path) -> None:
    model: Any = new_detector()
    model.colors = ((1, 2, 3), (255, 0, 9))
    path, half = tmp_path / "w.safetensors", tmp_path / "half.safetensors"
    save_weights(path, model, "tiny", {}, plugins=("package.models",))
    halve_weights(path, half)
    for file in (path, half):
        info = read_weights(file)[1]
        assert (info.colors, info.plugins) == (((1, 2, 3), (255, 0, 9)), ("package.models",))


@pytest.mark.parametrize("colors", ["[[1, 2, 3]]", "[[1, 2], [3, 4]]", "[[1, 2, 3], [4, 5, 256]]", "7"])
def test_damaged_colors_are_said(tmp_path: Path, colors: str) -> None:
    path = tmp_path / "w.safetensors"
    metadata = {"model": "tiny", "classes": '["dark", "bright"]', "colors": colors}
    save_file({"x": torch.zeros(1)}, path, metadata)
    with pytest.raises(ValueError, match="its metadata is not that of a weights file"):
        read_weights(path)


def _foreign(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path)


def _broken(path: Path) -> None:
    path.write_bytes(b"not safetensors at all")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "no such weights file"),
        (_foreign, "does not name its model"),
        (_broken, "a file that is not safetensors, or is cut off"),
    ],
    ids=["missing", "foreign", "broken"],
)
def test_unusable_weights_are_named(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "w.safetensors"
    if callable(make):
        make(path)
    with pytest.raises(ValueError, match=message):
        read_weights(path)


@pytest.mark.parametrize("moment", ["previous", "state", "last"])
def test_weights_and_state_agree_whenever_the_process_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Step 3 is cut off after its weights were written, after the previous state was kept, or after its own state."""
    files = Checkpoints(tmp_path, "tiny", {})
    files.save(_filled(1.0), 1, {"mark": 1})
    files.save(_filled(2.0), 2, {"mark": 2})

    def die(source: Path, name: Path) -> None:
        if name.name == {"previous": PREVIOUS_FILE, "last": "last.safetensors"}.get(moment):
            raise KeyboardInterrupt
        link(source, name)

    monkeypatch.setattr(checkpoint, "link", die)
    if moment == "state":
        monkeypatch.setattr(files, "_write_state", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.save(_filled(3.0), 3, {"mark": 3})
    monkeypatch.setattr(checkpoint, "link", link)
    model = new_detector()
    state = Checkpoints(tmp_path, "tiny", {}).load(model)
    assert state is not None
    assert state["step"] == state["mark"] == model.layer.bias[0].item() == (3 if moment == "last" else 2)


def _interrupt(_: object) -> None:
    raise KeyboardInterrupt


def _three_checkpoints(folder: Path) -> None:
    files = Checkpoints(folder, "tiny", {})
    for step in (1, 2, 3):
        files.save(_filled(step), step, {"mark": step, "numbers": torch.full((500,), float(step))})


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    _three_checkpoints(tmp_path)
    names = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert names == ["last.safetensors", "step_00000002.safetensors", "step_00000003.safetensors"]
    last: dict[str, Tensor] = read_weights(tmp_path / "weights" / "last.safetensors")[0]
    assert float(last["layer.bias"][0]) == 3.0
    assert [read_state(tmp_path / name)["step"] for name in (STATE_FILE, PREVIOUS_FILE)] == [3, 2]


def _flip_a_bit(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)


def _cut(path: Path, where: float) -> None:
    path.write_bytes(path.read_bytes()[: int(where * path.stat().st_size)])


def _remove(path: Path, where: float) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [_flip_a_bit, _cut, _remove], ids=["bit", "cut", "gone"])
@pytest.mark.parametrize("name", ["weights/step_00000003.safetensors", STATE_FILE])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path, float], None], name: str
) -> None:
    _three_checkpoints(tmp_path)
    damage(tmp_path / name, 0.5)
    model, files = new_detector(), Checkpoints(tmp_path, "tiny", {})
    state = files.load(model)
    assert state is not None
    assert state["step"] == state["mark"] == model.layer.bias[0].item() == files.step == 2
    if not (damage is _remove and name == STATE_FILE):
        assert "the checkpoint before it is used: step 2" in caplog.text
        assert Path(name).name in caplog.text
    # The run continues from there, and the damaged file is no obstacle.
    files.save(_filled(3.0), 3, {"mark": 3})
    assert [read_state(tmp_path / file)["step"] for file in (STATE_FILE, PREVIOUS_FILE)] == [3, 2]


@pytest.mark.parametrize("where", [index / 40 for index in range(40)])
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path, where: float) -> None:
    weights = tmp_path / "weights" / "step_00000003.safetensors"
    for path in (weights, tmp_path / STATE_FILE):
        _three_checkpoints(tmp_path)
        _flip_a_bit(path, where)
        model = new_detector()
        state = Checkpoints(tmp_path, "tiny", {}).load(model)
        assert state is not None
        assert state["mark"] == model.layer.bias[0].item() == model.layer.weight[0, 0].item()
        assert state["numbers"].eq(state["mark"]).all()
        assert state["mark"] in (2, 3)


def test_two_damaged_checkpoints_say_what_to_do(tmp_path: Path) -> None:
    _three_checkpoints(tmp_path)
    _cut(tmp_path / STATE_FILE, 0.5)
    _flip_a_bit(tmp_path / "weights" / "step_00000002.safetensors", 0.9)
    with pytest.raises(ValueError, match=r"trainer.pt: .*step_00000002.* delete trainer.pt and trainer_previous.pt"):
        Checkpoints(tmp_path, "tiny", {}).load(new_detector())


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    _three_checkpoints(tmp_path)
    with pytest.raises(ValueError, match="the checkpoint is of another model than the recipe names"):
        Checkpoints(tmp_path, "tiny", {}).load(torch.nn.Linear(2, 2))


def test_a_checkpoint_without_checksums_is_read(tmp_path: Path) -> None:
    """Files of the first version have none."""
    _three_checkpoints(tmp_path)
    path = tmp_path / "weights" / "step_00000003.safetensors"
    state, info = read_weights(path)
    save_file(state, path, {"model": info.model, "classes": json.dumps(info.classes), "step": "3", "options": "{}"})
    (tmp_path / PREVIOUS_FILE).unlink()
    loaded = Checkpoints(tmp_path, "tiny", {}).load(new_detector())
    assert loaded is not None
    assert loaded["step"] == 3


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    for number in range(8):
        save_weights(tmp_path / f"{number}", _filled(1.0), "tiny", {"width": 0.5}, step=3)
    assert len({(tmp_path / f"{number}").read_bytes() for number in range(8)}) == 1


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
