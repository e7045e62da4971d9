"""Published weights: downloaded, checked and converted, and taken from files of the user's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dcn
from dcn.class_names import COCO_CLASSES
from dcn.cli.main import main
from dcn.engine.recipe import shipped_weights
from dcn.models import MODELS, build
from dcn.models.backbones import ResNetSpec
from dcn.models.checkpoints import read_state
from dcn.models.detection.pyramid.specs import RoIHeadSpec
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS, PublishedWeights
from dcn.runs import weights
from dcn.runs.download import file_sha256

BACKBONE = ResNetSpec(depth=18, width=0.125, stem_channels=8)
SMALL: dict[str, Any] = {"backbone": BACKBONE, "fpn_channels": 16, "roi_head": RoIHeadSpec(fc_channels=16)}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the folder that it serves."""
    folder = tmp_path / "site"
    folder.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", folder
    http.shutdown()
    http.server_close()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, site: tuple[str, Path]) -> Path:
    """A detector called ``tiny``, published on the local server; returns the published file."""
    address, folder = site
    monkeypatch.setenv("DCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(MODELS, "tiny", partial(MODELS["faster_rcnn_r18_fpn"], **SMALL))
    torch.manual_seed(0)
    state = build("tiny", COCO_CLASSES).state_dict()
    made = folder / "made.pth"
    torch.save({"state_dict": state, "meta": {"CLASSES": COCO_CLASSES}}, made)
    checksum = file_sha256(made)[:8]
    file = made.rename(folder / f"tiny_1x_coco-{checksum}.pth")
    row = PublishedWeights("detector", f"{address}/{file.name}", checksum, "this test")
    monkeypatch.setitem(PUBLISHED_WEIGHTS, "tiny", row)
    return file


def same_tensors(converted: Path, published: Path) -> bool:
    ours, theirs = read_state(converted).tensors, read_state(published).tensors
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_published_detector_is_downloaded_once(tiny: Path) -> None:
    converted = weights.get_weights("tiny")
    assert same_tensors(converted, tiny)
    tiny.unlink()  # the server has it no more
    assert weights.get_weights("tiny") == converted


def test_a_replaced_file_is_refused(tiny: Path) -> None:
    tiny.write_bytes(tiny.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"damaged or was replaced.*`dcn weights get tiny --from FILE`"):
        weights.get_weights("tiny")
    assert weights.cached_weights("tiny") is None


def test_a_local_copy_needs_no_network(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    tiny.rename(copy)
    assert same_tensors(weights.get_weights("tiny", copy), copy)


def test_another_training_of_the_model_is_taken_with_a_warning(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    own = tmp_path / tiny.name
    torch.save(build("tiny", COCO_CLASSES).state_dict(), own)
    with pytest.warns(UserWarning, match="not the published file"):
        assert same_tensors(weights.get_weights("tiny", own), own)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9], ids=lambda share: f"at-{share}")
def test_a_flipped_byte_is_refused(tiny: Path, tmp_path: Path, share: float) -> None:
    content = bytearray(tiny.read_bytes())
    content[int(len(content) * share)] ^= 0x10
    damaged = tmp_path / tiny.name
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="the file is damaged"):
        weights.get_weights("tiny", damaged)
    assert weights.cached_weights("tiny") is None


def test_a_file_without_checksums_of_its_own_must_be_the_published_one(tiny: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.pth"
    torch.save(read_state(tiny).tensors, old, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="without checksums of its own"):
        weights.get_weights("tiny", old)


def test_a_file_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save(build("faster_rcnn_r34_fpn", COCO_CLASSES, width=0.125, fpn_channels=16).state_dict(), other)
    with pytest.warns(UserWarning, match="not the published file"), pytest.raises(ValueError, match=r"other\.pth"):
        weights.get_weights("tiny", other)
    assert weights.cached_weights("tiny") is None


@pytest.mark.parametrize("name", ["faster_rcnn_r50_fpn_dconv_c3_c5", "resnet5"])
def test_an_unknown_name_is_answered_with_near_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"did you mean .*`dcn weights` lists all names"):
        weights.get_weights(name)


def test_the_table_is_complete() -> None:
    detectors = [name for name, row in PUBLISHED_WEIGHTS.items() if row.kind == "detector"]
    assert len(detectors) == 15
    assert set(detectors) <= set(MODELS)
    assert len(PUBLISHED_WEIGHTS) == 20
    for row in PUBLISHED_WEIGHTS.values():
        assert row.file_name.endswith(f"-{row.sha256}.pth")
        assert len(row.sha256) == 8


def test_the_command_lists_and_gets(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "get", "tiny", "--from", str(tiny)]) == 0
    assert "dcn predict tiny photo.jpg" in capsys.readouterr().out
    assert main(["weights"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny "))
    assert "downloaded" in line


@pytest.mark.parametrize("address", ["hf://owner", "hf://", "hf://a/b@", "hf:owner/name"])
def test_a_wrong_hub_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected hf://owner/name"):
        weights.hub_weights(address)


def test_weights_are_found_by_path_run_shipped_and_published_name(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / "run" / "weights" / "best.safetensors"
    own.parent.mkdir(parents=True)
    own.touch()
    assert weights.find_weights_file(own) == own
    assert weights.find_weights_file("~/run") == own
    for name in ("synthetic_r18.safetensors", "letters_segmentation.safetensors", "letters_segmentation"):
        assert weights.find_weights_file(name) in shipped_weights().values()
    assert same_tensors(weights.find_weights_file("tiny"), tiny)
    with pytest.raises(ValueError, match=r"model.weights: expected a file, .*, got 'resnet5'; did you mean 'resnet50'"):
        weights.find_weights_file("resnet5", "model.weights")


def test_a_model_is_loaded_and_predicts_by_its_name(tiny: Path, tmp_path: Path) -> None:
    image = tmp_path / "photo.png"
    Image.new("RGB", (64, 48), (90, 120, 30)).save(image)
    predictor = dcn.load("tiny", weights="published")
    assert predictor.classes == COCO_CLASSES
    assert main(["predict", "tiny", str(image), "--output", str(tmp_path / "out"), "--score", "0"]) == 0
    assert (tmp_path / "out" / "detections.json").is_file()
