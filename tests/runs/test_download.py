"""Downloads against a server on this machine that breaks off, lies, redirects, is slow or does not have the file."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dcn.runs.download import download, fetch, file_sha256

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked.

    Attributes:
        address: of its root.
        breaks: bytes after which each of the first connections breaks off.
        statuses: answers of the first connections instead of the file.
        ranges: whether it sends parts.
        stall: seconds it is silent in the middle of the first connection.
        etag: of the file.
        asked: the Range header of each request.
    """

    address: str = ""
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    stall: float = 0.0
    etag: str = '"one"'
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range"))
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/file")
                self.end_headers()
                return
            status = state.statuses.pop(0) if state.statuses else 200 if self.path == "/file" else 404
            if status != 200:
                self.send_error(status)
                return
            self.send_file()

        def send_file(self) -> None:
            start, asked = 0, self.headers.get("Range")
            if asked and state.ranges and self.headers.get("If-Range") == state.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.send_header("ETag", state.etag)
            self.end_headers()
            stop = state.breaks.pop(0) if state.breaks else len(CONTENT)
            middle = (start + stop) // 2
            self.wfile.write(CONTENT[start:middle])
            silence, state.stall = state.stall, 0.0
            time.sleep(silence)
            with contextlib.suppress(OSError):  # the client may have left
                self.wfile.write(CONTENT[middle:stop])

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_arrives_whole_and_is_checked(server: Server, tmp_path: Path) -> None:
    target = download(f"{server.address}/file", tmp_path / "a" / "w.pth", sha256=SHA256[:8])
    assert file_sha256(target) == SHA256
    assert left_over(target.parent) == ["w.pth"]


def test_a_file_that_is_there_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(CONTENT)
    download(f"{server.address}/file", tmp_path / "w.pth", sha256=SHA256)
    assert server.asked == []


@pytest.mark.parametrize(
    ("ranges", "asked"),
    [
        pytest.param(True, [None, "bytes=2000000-", "bytes=4000000-"], id="server-sends-parts"),
        pytest.param(False, [None, "bytes=2000000-", "bytes=4000000-"], id="server-sends-all"),
    ],
)
def test_broken_connections_are_taken_up_again(
    server: Server, tmp_path: Path, ranges: bool, asked: list[str | None]
) -> None:
    server.breaks, server.ranges = [2_000_000, 4_000_000], ranges
    download(f"{server.address}/file", tmp_path / "w", sha256=SHA256, pause=0.01)
    assert server.asked == asked
    assert left_over(tmp_path) == ["w"]


def test_a_part_of_an_earlier_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.breaks = [3_000_000]
    with pytest.raises(ValueError, match="3000000 bytes are kept, and the same command continues there"):
        download(f"{server.address}/file", tmp_path / "w", sha256=SHA256, attempts=1)
    (tmp_path / "w.part").write_bytes(b"x" * 3_000_000)
    server.etag = '"two"'
    download(f"{server.address}/file", tmp_path / "w", sha256=SHA256)
    assert server.asked == [None, "bytes=3000000-"]


def test_an_interrupted_download_is_continued_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.breaks = [1_500_000]
    with pytest.raises(ValueError, match="failed after 1 attempts"):
        download(f"{server.address}/file", tmp_path / "w", attempts=1)
    download(f"{server.address}/file", tmp_path / "w", sha256=SHA256)
    assert server.asked == [None, "bytes=1500000-"]


def test_a_wrong_checksum_leaves_no_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"expected SHA-256 00000000..., got {SHA256[:8]}"):
        download(f"{server.address}/file", tmp_path / "w", sha256="00000000")
    assert left_over(tmp_path) == []


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    assert file_sha256(download(f"{server.address}/moved", tmp_path / "w")) == SHA256


def test_a_missing_file_is_told_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="/none: the server answers 404"):
        download(f"{server.address}/none", tmp_path / "w")
    assert len(server.asked) == 1
    assert left_over(tmp_path) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    download(f"{server.address}/file", tmp_path / "w", sha256=SHA256, pause=0.01)
    assert len(server.asked) == 3


def test_a_silent_server_counts_as_a_broken_connection(server: Server, tmp_path: Path) -> None:
    server.stall = 1.5
    download(f"{server.address}/file", tmp_path / "w", sha256=SHA256, timeout=0.3, pause=0.01)
    assert len(server.asked) == 2


def test_no_server_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the download failed after 2 attempts"):
        download("http://127.0.0.1:9/file", tmp_path / "w", attempts=2, pause=0.01)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/file", "w.pth"])
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an http or https URL"):
        download(url, tmp_path / "w")


def test_two_processes_share_one_download(server: Server, tmp_path: Path) -> None:
    server.stall = 0.5
    call = (f"{server.address}/file", tmp_path / "w")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=download, args=call, kwargs={"sha256": SHA256}) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.asked) == 1


def test_a_small_file_comes_into_memory(server: Server) -> None:
    server.statuses, server.breaks = [503], [1_000_000]
    assert fetch(f"{server.address}/moved", most=len(CONTENT), pause=0.01) == CONTENT
    assert len(server.asked) == 6  # the redirect and what it leads to, in three attempts


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("file", {"most": 100}, "expected at most 100 bytes, got a file of 5,120,000"),
        ("file", {"most": len(CONTENT), "within": 0.0}, "expected the file within 0 seconds, got"),
        ("none", {"most": 100}, r"/none: the server answers 404 \(Not Found\)"),
    ],
    ids=["large", "slow", "missing"],
)
def test_a_file_that_is_refused_is_asked_for_once(
    server: Server, path: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fetch(f"{server.address}/{path}", **options)
    assert len(server.asked) == 1


def test_a_connection_that_breaks_again_and_again_is_given_up(server: Server) -> None:
    server.breaks = [1_000_000] * 3
    with pytest.raises(ValueError, match=r"the download failed after 3 attempts .*before the connection ended.$"):
        fetch(f"{server.address}/file", most=len(CONTENT), pause=0.01)


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:port/a", "ftp://127.0.0.1/a", "http:///a"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"http.*(URL|Invalid|no host)"):
        fetch(url, most=100, attempts=1)
