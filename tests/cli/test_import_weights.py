from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dcn.cli.main import main
from dcn.models import MODELS, build
from dcn.models.backbones import ResNet
from dcn.models.checkpoints import export_mxnet, load_backbone
from dcn.models.checkpoints.mxnet import write_params
from dcn.models.options import make_model
from dcn.runs.load import read_model


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
    model = read_model(output)
    assert model.classes == ("cat", "dog")
    original = torch.load(checkpoint, weights_only=True)["state_dict"]
    own = {key.replace("conv2.conv_offset", "conv2_offset"): value for key, value in model.state_dict().items()}
    assert own.keys() == original.keys()
    assert all(torch.equal(own[key], value) for key, value in original.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected the name of the model"),
        (["--name", "faster_rcnn_r18_fpn"], "unexpected: backbone.layer2.0.conv2"),
    ],
    ids=["no-name", "another-network"],
)
def test_what_does_not_fit_is_named_and_nothing_written(
    checkpoint: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = checkpoint.with_name("wrong.safetensors")
    assert main(["import", str(checkpoint), "-o", str(output), *words]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_file_of_the_original_code_tells_everything_itself(tmp_path: Path) -> None:
    """R-FCN for Pascal VOC in the oldest form of the format, as training writes it: with ``_test`` copies."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"anchor_scales": (8, 16, 32), "max_detections": 300}
    with torch.device("meta"):
        original = make_model(MODELS["rfcn_r101"], 20, **options)
    original = original.to_empty(device="cpu")
    for tensor in original.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_()
    arrays = export_mxnet(original)
    assert {"arg:rfcn_bbox_weight", "arg:rfcn_bbox_weight_test"} <= arrays.keys()
    source, output = tmp_path / "rfcn_voc-0007.params", tmp_path / "rfcn.safetensors"
    write_params(source, arrays, version=0)
    assert main(["import", str(source), "-o", str(output)]) == 0
    imported: Any = read_model(output)
    assert (imported.classes[0], imported.classes[19]) == ("aeroplane", "tvmonitor")
    assert imported.max_detections == 300
    own, actual = original.state_dict(), imported.state_dict()
    assert all(torch.equal(own[key], actual[key]) for key in own if not key.endswith("num_batches_tracked"))
    assert main(["import", str(source), "-o", str(output), "--name", "rcnn_r101"]) == 2
    assert main(["import", str(source), "-o", str(output), "--classes", "cat,dog"]) == 2


def test_the_name_of_a_file_tells_its_network(checkpoint: Path) -> None:
    """Files of mmdetection begin with the name of their configuration."""
    source = checkpoint.with_name("faster_rcnn_r18_fpn_dconv_c3-c5_1x_coco_20200130-d68aed1e.pth")
    source.write_bytes(checkpoint.read_bytes())
    output = checkpoint.with_name("named.safetensors")
    assert main(["import", str(source), "-o", str(output)]) == 0
    model: Any = read_model(output)
    assert model.backbone.layer4[1].conv2.conv_offset.weight.shape[0] == 18


@pytest.mark.parametrize("form", ["pth", "state_dict", "params", "safetensors", "mmpretrain"])
def test_an_imagenet_network_becomes_a_backbone(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    caffe = form == "params"
    network = ResNet(50, width=0.125, style="caffe" if caffe else "pytorch", pool="ceil" if caffe else "floor")
    state = network.state_dict() | {"fc.weight": torch.randn(1000, 256), "fc.bias": torch.randn(1000)}
    source, output = tmp_path / f"resnet50.{form.replace('state_dict', 'pth')}", tmp_path / "backbone.safetensors"
    if caffe:
        write_params(source, export_mxnet(network) | {"arg:fc1000_bias": torch.zeros(1000)}, version=1)
    elif form == "mmpretrain":
        own = {f"backbone.{name}": value for name, value in network.state_dict().items()}
        torch.save({"meta": {}, "state_dict": own | {f"head.{n}": state[n] for n in ("fc.weight", "fc.bias")}}, source)
    elif form == "safetensors":
        save_file(state, source)
    else:
        torch.save({"epoch": 90, "state_dict": state} if form == "state_dict" else state, source)
    assert main(["import", str(source), "-o", str(output)]) == 0
    said = capsys.readouterr().out
    assert "backbone for model.backbone_weights" in said
    assert "depth=50, width=0.125, stem_channels=64, " in said
    options: dict[str, Any] = {"style": "caffe", "pool": "ceil", "preprocess": "rgb_mean"} if caffe else {}
    detector: Any = build("faster_rcnn_r50_fpn_dconv_c3-c5", ["cat"], width=0.125, fpn_channels=8, **options)
    kept = load_backbone(detector, output)
    assert kept
    assert all(".conv_offset." in name for name in kept)
    own = detector.backbone.state_dict()
    assert all(torch.equal(own[name], v) for name, v in network.state_dict().items() if v.is_floating_point())
    # Another network would see other colours or strides with these weights.
    wrong = build("faster_rcnn_r50_fpn", ["cat"], width=0.125, fpn_channels=8, preprocess="bgr_caffe")
    with pytest.raises(ValueError, match="expected a model built with"):
        load_backbone(wrong, output)


def test_a_network_without_a_name_here_becomes_a_backbone_and_the_rest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The original's demo of pooling has a head for given regions and no proposal network."""
    arrays = export_mxnet(ResNet(50, width=0.125, style="caffe", pool="ceil"))
    arrays |= {"arg:fc1000_bias": torch.zeros(1000), "arg:rfcn_cls_weight": torch.zeros(3, 3, 1, 1)}
    write_params(tmp_path / "demo.params", arrays)
    assert main(["import", str(tmp_path / "demo.params"), "-o", str(tmp_path / "demo.safetensors")]) == 0
    assert capsys.readouterr().out.rstrip().endswith("pool=ceil; left out: arg:rfcn_cls_weight")


class _Hostile:
    """Unpickling it would make a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("zipped", [True, False], ids=["torch.save", "pickle"])
def test_a_hostile_file_is_refused_and_not_run(
    zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, trace, output = tmp_path / "evil.pth", tmp_path / "trace", tmp_path / "out.safetensors"
    content = {"state_dict": {"backbone.conv1.weight": torch.zeros(1)}, "meta": _Hostile(trace)}
    if zipped:
        torch.save(content, source)
    else:
        source.write_bytes(pickle.dumps(content))
    assert main(["import", str(source), "-o", str(output), "--name", "faster_rcnn_r50_fpn"]) == 2
    message = capsys.readouterr().err
    assert "refused because loading them would run their code" in message
    assert message.count("\n") == 1
    assert not trace.exists()
    assert not output.exists()


def test_every_key_that_does_not_fit_is_named(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(checkpoint, weights_only=True)
    state = content["state_dict"]
    del state["neck.fpn_convs.1.conv.bias"]
    state["rpn_head.rpn_conv.weight"] = torch.zeros(3, 3)
    state["roi_head.extra"] = torch.zeros(2)
    source, output = checkpoint.with_name("broken.pth"), checkpoint.with_name("broken.safetensors")
    torch.save(content, source)
    assert main(["import", str(source), "-o", str(output), "--name", "faster_rcnn_r18_fpn_dconv_c3-c5"]) == 2
    message = capsys.readouterr().err
    for line in (
        "missing: neck.fpn_convs.1.conv.bias [256]",
        "unexpected: roi_head.extra [2]",
        "misshapen: rpn_head.rpn_conv.weight: expected [256, 256, 3, 3], got [3, 3]",
    ):
        assert line in message
    assert not output.exists()


def test_the_output_is_a_safetensors_file(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(checkpoint), "-o", str(checkpoint.with_name("out.pth"))]) == 2
    assert "--output: expected a name that ends in .safetensors" in capsys.readouterr().err
