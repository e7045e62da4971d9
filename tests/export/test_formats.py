"""Other files than ONNX in float32: programs of torch, half precision, integers, raw outputs, batches."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

import dcn
from dcn.cli.main import main
from dcn.colors import Color
from dcn.engine import save_weights
from dcn.export.metadata import KEY, describe, read_metadata
from dcn.export.quantize import _in_float
from dcn.models import build
from tests.runs.small import picture

NAME = "deeplab_r18_dcn"
CLASSES = ("A", "X", "B")
OPTIONS: dict[str, Any] = {"width": 0.125, "head_channels": 16, "test_size": (64, 96)}
SIZE = (64, 80)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation model whose classes differ and whose layers move."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    torch.manual_seed(3)
    model = build(NAME, CLASSES, **OPTIONS)
    for name, parameter in model.named_parameters():
        if "conv_offset" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_weights(path, model, NAME, OPTIONS)
    return path


def _images() -> list[Tensor]:
    return [picture(0)[:, :60], picture(1)[:, :40, :57], picture(2)]


def _both(first: Path, second: Path) -> tuple[Any, Any]:
    return dcn.load(first, device="cpu"), dcn.load(second, device="cpu")


def _share(first: Any, second: Any, images: Sequence[Tensor]) -> float:
    """Of the pixels that differ."""
    pairs = zip(first.predict(images, resize=None), second.predict(images, resize=None), strict=True)
    return max(float((a.labels != b.labels).double().mean()) for a, b in pairs)


@pytest.fixture(scope="module")
def program(weights: Path) -> Path:
    """A program of torch, of any size and batch."""
    path = weights.with_name("model.pt2")
    words = ["export", str(weights), "-o", str(path), "--format", "torch", "--batch", "dynamic"]
    assert main(words) == 0
    return path


def test_a_program_answers_as_the_weights(weights: Path, program: Path) -> None:
    first, second = _both(weights, program)
    assert second.model.metadata.batch is None
    assert _share(first, second, _images()) == 0
    for index, one in zip((0, 2), second.predict([picture(0), picture(2)], batch_size=2), strict=True):
        assert torch.equal(one.labels, first.predict(picture(index)).labels)
    with pytest.raises(ValueError, match=r"runs in torch\.export and holds final results"):
        second.model.train()([picture()])


def test_a_program_needs_the_operators_alone(program: Path) -> None:
    code = (
        "import sys, torch, dcn.ops\n"
        f"program = torch.export.load({str(program)!r}).module()\n"
        "labels = program(torch.zeros(1, 3, 96, 128, dtype=torch.uint8), torch.tensor([[96.0, 128.0]]))[0]\n"
        "assert labels.shape == (1, 96, 128) and 'dcn.models' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_archives_of_others_are_refused(program: Path, tmp_path: Path) -> None:
    """A foreign program is refused by its missing record, before anything of it is loaded."""
    cases = {"no archive": None, "another archive": ["x/readme"], "its metadata entry 'dcn'": ["x/models/model.json"]}
    for message, names in cases.items():
        path = tmp_path / "other.pt2"
        path.write_bytes(b"nothing")
        if names is not None:
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, "{}")
        match = "damaged one" if names is None else message
        with pytest.raises(ValueError, match=match):
            dcn.load(path)
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(tmp_path / "cut.pt2", "w") as target:
        for name in source.namelist():
            if not name.endswith("model.json"):
                target.writestr(name, source.read(name))
            else:
                target.writestr(name, "{")
    with pytest.raises(ValueError, match="can load"):
        dcn.load(tmp_path / "cut.pt2")


def test_aoti_says_that_it_needs_a_compiler(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def missing() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, none was found"):
        dcn.export(weights, tmp_path / "m.pt2", format="aoti")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("colors", [None, ((9, 80, 7), (0, 0, 255))], ids=["none", "own"])
def test_the_record_has_the_colors_of_the_masks(colors: tuple[Color, ...] | None) -> None:
    options: dict[str, Any] = {"width": 0.125, "stem_channels": 8, "head_channels": 8}
    model: Any = build("deeplab_r18", ("a", "b"), **options)
    model.colors = colors
    text = describe(model, "deeplab_r18", None).to_json()
    assert read_metadata(text, "m.onnx").colors == colors
    assert ("colors" in json.loads(text)) == (colors is not None)


def test_half_precision_has_half_the_weights(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    done = dcn.export(weights, path, precision="float16", size=SIZE, images=_images())
    assert (done.metadata.precision, done.parity.pixels < 0.02) == ("float16", True)
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 4}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert _share(*_both(weights, path), [picture(0)]) < 0.03


def test_integers_are_calibrated_on_images(weights: Path, tmp_path: Path) -> None:
    path, images = tmp_path / "small.onnx", _images()
    done = dcn.export(weights, path, precision="int8", calibration=images, size=SIZE, images=images)
    assert (done.metadata.precision, done.path) == ("int8", path)
    proto = onnx.load(path)
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert sum(node.op_type == "QuantizeLinear" for node in proto.graph.node) > 10
    assert json.loads({entry.key: entry.value for entry in proto.metadata_props}[KEY])["precision"] == "int8"
    assert _share(*_both(weights, path), [picture(0)]) < 0.3
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


def test_only_weights_of_layers_become_integers() -> None:
    """Sums within the arithmetic of boxes are products with constants too, and must stay as they are."""
    weights = {
        "model.backbone.conv1.weight": "Conv",
        "model.rpn_head.rpn_cls.weight": "Conv",
        "model.roi_head.fc_cls.weight": "Gemm",
        "model.roi_head.shared_fcs.0.weight": "Gemm",
        "val_7": "MatMul",
        "model.backbone.conv2.weight": "DeformConv",
    }
    nodes = [onnx.helper.make_node(kind, ["x", name], [f"y{name}"], name) for name, kind in weights.items()]
    tables = [onnx.numpy_helper.from_array(np.ones((5, 1), np.float32), name) for name in weights]
    kept = _in_float(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tables)))
    assert kept == ["model.rpn_head.rpn_cls.weight", "model.roi_head.fc_cls.weight", "val_7"]


def test_errors_of_onnxruntime_are_told(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a prediction, in the proof of an export and in a calibration; no file is left."""

    def fails(self: Any, *_: Any) -> Any:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Non-zero status code")

    path = tmp_path / "m.onnx"
    words: dict[str, Any] = {"size": SIZE, "images": _images()}
    dcn.export(weights, path, **words)
    predictor = dcn.load(path)
    path.unlink()
    monkeypatch.setattr("onnxruntime.InferenceSession.run", fails)
    message = r"expected results of the file for 1 image of 64x80, got the error: \[ONNXRuntimeError\].*; export with"
    with pytest.raises(ValueError, match=message):
        predictor.predict(picture(0))
    with pytest.raises(ValueError, match=message):
        dcn.export(weights, path, **words)
    message = r"calibration of the file on 3 images, got the error: \[ONNXRuntimeError\].*; use the precision float16"
    with pytest.raises(ValueError, match=message):
        dcn.export(weights, path, precision="int8", calibration=_images(), **words)
    assert list(tmp_path.iterdir()) == []


def test_raw_outputs_of_a_batch(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "raw.onnx"
    assert main(["export", str(weights), "-o", str(path), "--raw", "--batch", "2", "--size", "64x80"]) == 0
    outputs = [
        (entry.name, [d.dim_value for d in entry.type.tensor_type.shape.dim]) for entry in onnx.load(path).graph.output
    ]
    assert outputs == [("scores", [2, 3, 64, 80])]
    first, second = _both(weights, path)
    assert _share(first, second, [picture(0), picture(1), picture(2)]) < 1e-3
    pixels = picture(0)[None, :, :64, :80]
    exact = first.model.scores(first.model.preprocess(list(pixels)).pixels)
    assert second.model.scores(pixels).shape == exact.shape


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "int8"], "calibration: expected images .* got 0 images with int8"),
        (["--format", "torch"], r"ends in \.pt2 for the format torch"),
        (["--format", "torch", "-o", "m.pt2", "--precision", "int8"], "int8 is for the format onnx"),
        (
            ["--format", "torch", "-o", "m.pt2", "--with-example"],
            "with_example: expected an ONNX file with final results, .*, got torch",
        ),
        (["--batch", "0"], "--batch: expected a number of images from 1 on"),
        (["--recipe", "synthetic_plain"], "split: expected the name of a split for recipe synthetic_plain, got None"),
        (["--split", "val"], "expected the one that describes the data"),
        (["--size", "10x0"], "size: expected multiples of 1"),
    ],
    ids=["int8", "suffix", "int8-torch", "example", "batch", "recipe", "split", "size"],
)
def test_options_that_do_not_fit(
    weights: Path, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path / word) if word == "m.pt2" else word for word in words]
    assert main(["export", str(weights), "-o", str(tmp_path / "m.onnx"), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_file_is_not_exported_again(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is exported already"):
        dcn.export(program, tmp_path / "m.onnx")


def test_a_file_that_cannot_be_written_is_named_before_the_work(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("torch.onnx.export", None)  # not reached
    with pytest.raises(OSError, match="Not a directory") as error:
        dcn.export(weights, tmp_path / "file" / "model.onnx")
    assert error.value.filename == str(tmp_path / "file" / "model.onnx")
