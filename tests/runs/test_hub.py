"""Weights from a model hub, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import dcn
from dcn.engine.checkpoint import save_weights
from dcn.models import build
from dcn.runs.weights import hub_weights

pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
COMMIT = "a" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The files of the repository ``owner/letters``, by name."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            head, _, name = self.path.partition("/resolve/main/")
            if self.path.startswith("/api/models/owner/letters"):
                tree = [{"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in files.items()]
                content = json.dumps(tree).encode()
            elif head == "/owner/letters" and name in files:
                content = files[name]
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if head == "/owner/letters" else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield files
    server.shutdown()
    server.server_close()


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    torch.manual_seed(0)
    options = {"width": 0.125, "stem_channels": 8, "fpn_channels": 16, "fc_channels": 16}
    path = tmp_path / "own.safetensors"
    save_weights(path, build("faster_rcnn_r18_fpn", ("a", "b"), **options), "faster_rcnn_r18_fpn", options)
    return path.read_bytes()


@pytest.mark.parametrize("address", ["hf://owner/letters", "hf://owner/letters/best.safetensors"])
def test_weights_come_from_the_hub(hub: dict[str, bytes], weights: bytes, address: str) -> None:
    hub.update({"README.md": b"# letters", "best.safetensors": weights})
    assert hub_weights(address).read_bytes() == weights
    assert dcn.load(address).classes == ("a", "b")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param("hf://owner/letters", "expected one .safetensors file, got", id="none"),
        pytest.param("hf://owner/letters/other.safetensors", "hf://owner/letters/other.safetensors: ", id="file"),
        pytest.param("hf://owner/nothing/a.safetensors", "hf://owner/nothing/a.safetensors: ", id="repository"),
    ],
)
def test_what_is_not_there_is_a_clear_error(hub: dict[str, bytes], address: str, message: str) -> None:
    hub["README.md"] = b"# letters"
    with pytest.raises(ValueError, match=message):
        hub_weights(address)
