from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dcn.api import load_model
from dcn.cli.main import main
from dcn.models import build


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of mmdetection's form, with an offset branch under its oldest name."""
    torch.manual_seed(0)
    state = build("faster_rcnn_r18_fpn_dconv_c3-c5", ["cat", "dog"]).state_dict()
    state = {name.replace("conv2.conv_offset", "conv2_offset"): value for name, value in state.items()}
    path = tmp_path_factory.mktemp("import") / "faster.pth"
    torch.save({"meta": {"CLASSES": ("cat", "dog")}, "state_dict": state}, path)
    return path


def test_a_checkpoint_of_mmdetection_becomes_a_file_that_knows_its_network(checkpoint: Path) -> None:
    output = checkpoint.with_suffix(".safetensors")
    name = "faster_rcnn_r18_fpn_dconv_c3-c5"
    assert main(["import", str(checkpoint), "-o", str(output), "--name", name]) == 0
    model = load_model(output)
    assert model.classes == ("cat", "dog")
    original = torch.load(checkpoint, weights_only=True)["state_dict"]
    own = {key.replace("conv2.conv_offset", "conv2_offset"): value for key, value in model.state_dict().items()}
    assert own.keys() == original.keys()
    assert all(torch.equal(own[key], value) for key, value in original.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "expected the network that"), (["--name", "faster_rcnn_r18_fpn"], "unexpected: backbone.layer2.0.conv2")],
    ids=["no-name", "another-network"],
)
def test_what_does_not_fit_is_named_and_nothing_written(
    checkpoint: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = checkpoint.with_name("wrong.safetensors")
    assert main(["import", str(checkpoint), "-o", str(output), *words]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
