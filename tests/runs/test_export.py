"""Export of whole models: files, proofs, and the same answers from ``dcn.load`` of either."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from PIL import Image
from torch import Tensor

import dcn
from dcn.cli.main import main
from dcn.data.geometry import resize_image
from dcn.engine import save_weights
from dcn.export import example
from dcn.export.onnx import _name_slots
from dcn.export.parity import Parity, Tolerance
from dcn.models import build
from tests.made_videos import write_video
from tests.runs.small import OPTIONS, picture, write_photos

CLASSES = ("A", "X")
"""Those of the generated data with two classes; segmentation has the background too."""
RECIPES = {
    "mask_rcnn_r18_fpn": "base: synthetic_deformable\n",
    "deeplab_r18_dcn": "base: synthetic_segmentation\n",
}
DATA = "data: {options: {length: 3, size: [64, 64], num_classes: 2, glyph_size: [24, 38]}}\nworkers: 0\n"

MODELS: dict[str, dict[str, Any]] = {
    "mask_rcnn_r18_fpn": OPTIONS | {"deform_stages": ("c5",), "score_threshold": 0.05},
    "deeplab_r18_dcn": {"width": 0.125, "head_channels": 16, "test_size": (64, 96)},
}


def _classes(name: str) -> tuple[str, ...]:
    return CLASSES if name.startswith("mask") else ("background", *CLASSES)


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A weights file and its export of any size, made by the command line."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    torch.manual_seed(3)
    model = build(name, _classes(name), **MODELS[name])
    for module_name, parameter in model.named_parameters():
        if "conv_offset" in module_name:
            torch.nn.init.normal_(parameter, std=0.5)
    save_weights(folder / "model.safetensors", model, name, MODELS[name])
    (folder / "data.yaml").write_text(RECIPES[name] + DATA)
    images = [str(path) for path in write_photos(folder / "photos", "a.png", "b.png")]
    words = ["export", str(folder / "model.safetensors"), "-o", str(folder / "model.onnx"), "--images", *images]
    with redirect_stdout(StringIO()) as printed:
        words += ["--split", "test", "--recipe", str(folder / "data.yaml")]
        assert main([*words, "eval.images=2", "--with-example"]) == 0
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder / "model.safetensors", folder / "model.onnx"


def test_the_report_has_metrics_before_and_after(pair: tuple[Path, Path]) -> None:
    lines = pair[0].with_name("printed.txt").read_text().splitlines()
    assert lines[1].startswith("2 images")
    words = re.findall(r"(\w+) ([\d.-]+) -> ([\d.-]+)", lines[2])
    assert lines[2].startswith("test, 2 images: ")
    assert {name for name, _, _ in words} >= ({"mIoU"} if "mIoU" in lines[2] else {"AP", "AP50"})
    assert all(abs(float(before) - float(after)) < 0.02 for _, before, after in words)


def test_evaluation_is_that_of_the_weights(pair: tuple[Path, Path]) -> None:
    recipe = pair[0].with_name("data.yaml")
    before, after = (dcn.evaluate(path, recipe=recipe, output=pair[0].parent / "e") for path in pair)
    assert before is not None
    assert after is not None
    assert before.keys() == after.keys()
    assert all(after[name] == pytest.approx(value, abs=0.02, nan_ok=True) for name, value in before.items())


def test_the_file_is_timed_beside_the_weights(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "model", str(pair[1]), "--plain", str(pair[0]), "--repetitions", "1", "--size", "64x96"]
    assert main(words) == 0
    assert f"{pair[1]} takes" in capsys.readouterr().out
    assert main([*words, "--train"]) == 2
    assert "--train: an exported file holds final results" in capsys.readouterr().err


def _images() -> list[Tensor]:
    """Three sizes, one of them larger than the model's test size."""
    return [picture(0), picture(1)[:, :40, :57], picture(2).repeat(1, 2, 2)[:, :120, :70]]


def test_the_file_holds_standard_operators_and_its_record(pair: tuple[Path, Path]) -> None:
    proto = onnx.load(pair[1])
    onnx.checker.check_model(proto)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
    assert {node.domain for node in proto.graph.node} == {""}
    record = json.loads({entry.key: entry.value for entry in proto.metadata_props}["dcn"])
    assert (record["classes"], record["test_size"], record["size"]) == (list(_classes(record["model"])), [64, 96], None)
    assert record["version"] == dcn.__version__


def test_one_file_answers_as_the_weights_for_images_of_any_size(pair: tuple[Path, Path]) -> None:
    model, exported = (dcn.load(path, device="cpu") for path in pair)
    assert exported.classes == model.classes
    options: dict[str, Any] = {} if model.task.name == "segmentation" else {"min_score": 0.1}
    for image, first in zip(_images(), model.predict(_images(), **options), strict=True):
        second = exported.predict(image, **options)
        if model.task.name == "segmentation":
            assert (first.labels != second.labels).double().mean() < 1e-3
            continue
        assert len(first) == len(second) > 0
        torch.testing.assert_close(second.boxes, first.boxes, rtol=0, atol=0.1)
        torch.testing.assert_close(second.scores, first.scores, rtol=0, atol=1e-3)
        assert torch.equal(second.labels, first.labels)
        assert (first.masks != second.masks).double().mean() < 1e-3


def test_predict_from_the_command_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The same lines as of the weights, at the default size and at another."""
    photos = [str(path) for path in write_photos(tmp_path / "photos", "a.png", "b.png")]
    score = ["--score", "0.1"] if pair[0].parent.name.startswith("mask") else []
    for change in ([], ["transforms.test_short=48"]):
        results = []
        for path in pair:
            folder = tmp_path / f"{path.suffix[1:]}{len(change)}"
            words = ["predict", str(path), *photos, *change, *score, "--output", str(folder), "--no-pictures"]
            assert main(words) == 0
            (stream,) = folder.glob("[ds]e*.jsonl")
            results.append([json.loads(line) for line in stream.read_text().splitlines()])
        assert len(results[0]) == len(results[1]) == 2
        assert [sorted(line) for line in results[0]] == [sorted(line) for line in results[1]]
        for first, second in zip(*results, strict=True):
            assert len(first.get("annotations", [])) == len(second.get("annotations", []))
            assert bool(first.get("annotations")) == bool(score)


def test_a_video_gives_what_it_gives_with_the_weights(pair: tuple[Path, Path], tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", noise=True)
    for path in pair:
        assert main(["predict", str(path), str(clip), "--every", "5", "--output", str(tmp_path / path.suffix[1:])]) == 0
    first, second = ((tmp_path / path.suffix[1:]) for path in pair)
    (stream,) = first.glob("[ds]e*.jsonl")
    lines = [
        [json.loads(line) for line in (folder / stream.name).read_text().splitlines()] for folder in (first, second)
    ]
    keys = ("file_name", "frame", "time", "height", "width")
    assert [[line[key] for key in keys] for line in lines[0]] == [[line[key] for key in keys] for line in lines[1]]
    assert [line["frame"] for line in lines[1]] == [0, 5, 10]
    assert (second / "clip.mp4").is_file()


def test_the_example_runs_without_the_package(pair: tuple[Path, Path], tmp_path: Path) -> None:
    script = pair[1].with_name("model_example.py")
    assert "dcn." not in script.read_text().replace("`dcn export`", "")
    photo = write_photos(tmp_path, "a.png")[0]
    command = [sys.executable, "-I", str(script), str(pair[1]), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of the pixels" in done.stdout or done.stdout == "" or " at [" in done.stdout
    alone = subprocess.run(command[:3], capture_output=True, text=True, check=False)
    assert (alone.returncode, alone.stderr.strip()) == (1, f"usage: python {script} model.onnx photo.jpg [min_score]")


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_the_example_gives_what_the_package_gives(pair: tuple[Path, Path], mode: str, tmp_path: Path) -> None:
    photo = write_photos(tmp_path, "a.png")[0]
    image = Image.open(photo)
    if mode == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(photo)
    else:
        image.convert(mode).save(photo)
    predictor = dcn.load(pair[1])
    with redirect_stdout(StringIO()) as printed:
        example.main(str(pair[1]), str(photo), 0.1)
    lines = printed.getvalue().splitlines()
    if predictor.model.task == "segmentation":
        labels = predictor.predict(photo).labels
        shares = [(labels == label).float().mean().item() for label in labels.unique()]
        assert [line.split()[-4] for line in lines] == [f"{share:.1%}" for share in shares]
        return
    detections = predictor.predict(photo, min_score=0.1)
    assert len(detections.scores) > 0
    assert [line.split()[-1] for line in lines] == ["pixels"] * len(detections.scores)
    assert detections.masks is not None
    areas = detections.masks.sum((1, 2)).tolist()
    assert [int(line.split()[-2]) for line in lines] == pytest.approx(areas, abs=2)


@pytest.mark.parametrize(
    ("length", "name"),
    [pytest.param("Min(100, 3*s18*s30)", "detections", id="formula"), pytest.param(100, 100, id="number")],
)
def test_slots_have_a_name_in_place_of_a_formula(length: str | int, name: str | int) -> None:
    value = onnx_ir.Value(name="boxes", shape=onnx_ir.Shape(["batch", length, 4]))
    _name_slots(value, "detections")
    assert value.shape == ["batch", name, 4]


def test_a_broken_image_is_refused_before_the_export(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.setattr("dcn.runs.export.read_model", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        dcn.export(pair[0], tmp_path / "m.onnx", images=[tmp_path / "broken.jpg"])


@pytest.mark.parametrize("size", [(41, 67), (300, 211), (500, 90)], ids=["larger", "smaller", "long"])
def test_the_example_resizes_as_the_package_does(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = resize_image(image, 160, 256)[0].permute(1, 2, 0).numpy().astype(int)
    theirs = example.resized(image.permute(1, 2, 0).numpy(), 160, 256).astype(int)
    assert ours.shape == theirs.shape
    assert abs(ours - theirs).max() <= 1  # halves may be rounded to either side
    assert (ours != theirs).mean() < 0.01


def test_what_the_file_cannot_do_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="an exported file holds final results of one pass"):
        dcn.load(pair[1], tta=dcn.TTA(flip=True))
    with pytest.raises(ValueError, match="an exported file holds final results of one pass"):
        dcn.load(pair[1], precision="bfloat16")
    model = dcn.load(pair[1]).model.train()
    with pytest.raises(ValueError, match="runs in onnxruntime and holds final results"):
        model([picture()])


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Weights of a segmentation model, and its export for one size."""
    folder, name = tmp_path_factory.mktemp("fixed"), "deeplab_r18_dcn"
    torch.manual_seed(3)
    save_weights(folder / "model.safetensors", build(name, CLASSES, **MODELS[name]), name, MODELS[name])
    done = dcn.export(
        folder / "model.safetensors", folder / "model.onnx", size=(64, 80), images=[picture()[:, :48, :60]]
    )
    assert done.metadata.size == (64, 80)
    assert "64x80" in str(done)
    return folder / "model.safetensors", folder / "model.onnx"


def test_a_fixed_size_takes_what_fits_and_shrinks_the_rest(fixed: tuple[Path, Path]) -> None:
    first, second = (dcn.load(path, device="cpu").model for path in fixed)
    assert second([picture()[:, :30, :40]])[0].labels.shape == (30, 40)
    assert torch.equal(second([picture()])[0].labels, first([picture()])[0].labels)
    large = picture().repeat_interleave(2, 1).repeat_interleave(2, 2)
    labels = second([large])[0].labels
    assert labels.shape == (128, 160)
    assert (labels[::2, ::2] == first([picture()])[0].labels).double().mean() > 0.97


def test_an_export_that_differs_leaves_no_file(fixed: tuple[Path, Path], tmp_path: Path) -> None:
    strict = Tolerance(pixels=-1.0)
    with pytest.raises(ValueError, match="the exported model differs"):
        dcn.export(fixed[0], tmp_path / "m.onnx", size=(64, 80), images=[picture()[:, :48, :60]], tolerance=strict)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("own", [0.001, 1.0], ids=["conditioned", "undecided"])
def test_a_file_without_proof_is_kept_only_where_asked(
    own: float, fixed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Parity(1, 4, boxes=0.5, scores=0.0, pixels=0.0, unmatched=0.0, tolerance=Tolerance())
    monkeypatch.setattr("dcn.runs.export._proof", lambda *_: replace(found, rounding=replace(found, boxes=own)))
    path, undecided = tmp_path / "m.onnx", own == 1.0
    with pytest.raises(ValueError, match=r"boxes: 0\.5 is over 0\.1") as caught:
        dcn.export(fixed[0], path, size=(64, 80))
    assert ("--unproven keeps the file" in str(caught.value)) is undecided
    assert list(tmp_path.iterdir()) == []
    if undecided:
        assert "no proof" in str(dcn.export(fixed[0], path, size=(64, 80), unproven=True))
    else:
        with pytest.raises(ValueError, match="no file was written"):
            dcn.export(fixed[0], path, size=(64, 80), unproven=True)
    assert path.exists() is undecided


def test_wrong_names_and_sizes(fixed: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        dcn.export(fixed[0], tmp_path / "m.pt")
    assert main(["export", str(fixed[0]), "--size", "64"]) == 2


def test_an_onnxruntime_without_deformable_convolution_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Could not find an implementation for DeformConv(19) node")

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    (tmp_path / "x.onnx").touch()
    with pytest.raises(ValueError, match=r"DeformConv\(19\) node; install onnxruntime 1\.25 or newer for it"):
        dcn.load(tmp_path / "x.onnx")


def test_files_of_others_are_refused(fixed: tuple[Path, Path], tmp_path: Path) -> None:
    other = onnx.load(fixed[1])
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="expected a file of `dcn export`, got one without its metadata"):
        dcn.load(tmp_path / "other.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"expected an ONNX file that onnxruntime [\d.]+ can run"):
        dcn.load(tmp_path / "broken.onnx")
    entry = other.metadata_props.add()
    entry.key, entry.value = "dcn", json.dumps({"format": 1})
    onnx.save(other, tmp_path / "damaged.onnx")
    with pytest.raises(ValueError, match="its metadata entry 'dcn' is damaged"):
        dcn.load(tmp_path / "damaged.onnx")
