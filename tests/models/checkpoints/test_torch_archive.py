"""Training checkpoints with objects beside the weights, as Lightning writes them; torch.load is the oracle."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcn.models import build
from dcn.models.checkpoints import load_backbone, load_state, read_state

SMALL: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "fpn_channels": 8, "fc_channels": 8}


@pytest.fixture
def attribute_dict(monkeypatch: pytest.MonkeyPatch) -> type:
    """Lightning's class of hyperparameters, a dict, importable only in this test."""
    kind = type("AttributeDict", (dict,), {})
    kind.__module__ = "lightning.fabric.utilities.data"
    for name in ("lightning", "lightning.fabric", "lightning.fabric.utilities", kind.__module__):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[kind.__module__].AttributeDict = kind  # type: ignore[attr-defined]
    return kind


def _checkpoint(state: dict[str, Tensor], settings: object) -> dict[str, Any]:
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "hparams_name": "kwargs",
        "hyper_parameters": settings,
        "callbacks": {
            "ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": Path("x")}
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
    }


def test_tensors_of_every_kind(attribute_dict: type, tmp_path: Path) -> None:
    base = torch.arange(24.0)
    state: dict[str, Any] = {
        "plain": torch.randn(2, 3),
        "view": base.view(4, 6)[1:, ::2].t(),
        "same storage": base,
        "parameter": nn.Parameter(torch.randn(3)),
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "double": torch.randn(2, dtype=torch.float64),
        "counter": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "empty": torch.zeros(0, 4),
    }
    settings = attribute_dict(lr=0.1, act=F.relu, args=argparse.Namespace(a=[Path("q")]), size=(1, 2))
    torch.save(_checkpoint(state, settings), tmp_path / "x.ckpt")
    with pytest.raises(pickle.UnpicklingError, match=r"AttributeDict|relu"):  # torch's own reader refuses the file
        torch.load(tmp_path / "x.ckpt", weights_only=True)
    expected = torch.load(tmp_path / "x.ckpt", weights_only=False)["state_dict"]
    tensors = read_state(tmp_path / "x.ckpt").tensors
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(tensors[name], value.float() if name in ("half", "bfloat16") else value), name


@pytest.mark.parametrize("objects", [False, True], ids=["plain settings", "objects"])
@pytest.mark.parametrize("prefix", ["model.", "net.", "network.", "model.module.", "model._orig_mod.", "module.model."])
def test_a_detector_inside_a_lightning_module(prefix: str, objects: bool, attribute_dict: type, tmp_path: Path) -> None:
    source, model = (build("faster_rcnn_r18_fpn", ["a", "b"], **SMALL) for _ in range(2))
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    torch.save(_checkpoint(state, attribute_dict(lr=0.1) if objects else {"lr": 0.1}), tmp_path / "x.ckpt")
    file = read_state(tmp_path / "x.ckpt")
    assert load_state(model, file.tensors, "x.ckpt") == []
    torch.testing.assert_close(dict(model.state_dict()), dict(source.state_dict()))


def test_a_prefix_stays_where_a_name_lacks_it(tmp_path: Path) -> None:
    names = ["model.conv1.weight", "model.bn1.weight", "loss.weight"]
    torch.save(_checkpoint(dict.fromkeys(names, torch.ones(1)), {}), tmp_path / "x.ckpt")
    assert list(read_state(tmp_path / "x.ckpt").tensors) == names


class _Own(nn.Module):
    """A backbone whose own names begin like those of a Lightning module."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleList(nn.Conv2d(c, 4, 1, s) for c, s in ((3, 4), (4, 2), (4, 2), (4, 2)))
        self.out_channels = [4] * 4
        self.strides = (4, 8, 16, 32)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x := layer(x) for layer in self.model]


def test_a_module_whose_own_names_begin_so(tmp_path: Path) -> None:
    models: list[Any] = [build("faster_rcnn_r18_fpn", ["a"], backbone=_Own()) for _ in range(2)]
    torch.save(models[0].backbone.state_dict(), tmp_path / "x.pth")
    assert load_backbone(models[1], tmp_path / "x.pth") == []
    assert torch.equal(models[0].backbone.model[2].weight, models[1].backbone.model[2].weight)


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_beside_the_weights_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = {"w": torch.ones(2)}
    torch.save(_checkpoint(state, _Runs(zipfile.ZipFile, "should-not-exist", "w")), "x.ckpt")
    assert torch.equal(read_state("x.ckpt").tensors["w"], torch.ones(2))
    commands = {
        r"it asks for \w+.system, which runs commands": _Runs(os.system, "touch should-not-exist"),
        "it calls what another call gives": _Runs(Path.touch, Path("should-not-exist")),
    }
    for said, command in commands.items():
        torch.save(_checkpoint(state, command), "y.ckpt")
        with pytest.raises(ValueError, match=rf"y.ckpt: .*{said}: the file was made to do harm"):
            read_state("y.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["x.ckpt", "y.ckpt"]


def test_a_model_saved_as_an_object_is_refused(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: expected a PyTorch file with tensors only.* save its state_dict"):
        read_state(tmp_path / "x.pth")


def test_expanded_tensors_beside_objects_are_refused(attribute_dict: type, tmp_path: Path) -> None:
    torch.save(_checkpoint({"w": torch.ones(1).expand(100_000_000)}, attribute_dict()), tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"got 400,000,000 bytes of tensors: they are expanded"):
        read_state(tmp_path / "x.ckpt")


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "model_state"])
def test_where_a_training_keeps_its_weights(key: str, tmp_path: Path) -> None:
    args = argparse.Namespace(lr=0.1)
    torch.save({key: {"w": torch.ones(2)}, "optimizer": {"state": {}}, "args": args, "epoch": 4}, tmp_path / "x.pth")
    assert torch.equal(read_state(tmp_path / "x.pth").tensors["w"], torch.ones(2))
