"""Files over HTTP: to disk, resumed and checked, or into memory, with a limit; complete or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

CHUNK = 1 << 20
ATTEMPTS = 5
"""How often a broken connection is taken up again before the download gives up."""

_RETRIED = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may be different the next time."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never from an encrypted connection to an open one, nor to another protocol."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(("http:", "https:")):
            raise ValueError(f"{req.full_url}: expected a redirect to an http or https URL, got {newurl}")
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise ValueError(f"{req.full_url}: expected a redirect to an https URL, got {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    timeout: float = 30.0,
    attempts: int = ATTEMPTS,
    pause: float = 1.0,
    show: bool = True,
) -> Path:
    """Download a file; a file that is already there is checked and kept.

    What arrives is written to ``<target>.part`` and renamed when it is complete and its checksum is right. A ``.part``
    of an interrupted download is continued where the server allows it. Two processes that want the same file share one
    download: the second waits for the first. Proxies are taken from the environment (``https_proxy``, ``no_proxy``).

    Args:
        url: ``https://`` or ``http://`` URL.
        target: the file to write; its folder is made.
        sha256: the checksum, or its first digits, in hexadecimal; ``None``: not checked.
        timeout: seconds without a byte after which a connection counts as broken.
        attempts: connections that may fail, one after another without progress, before the download gives up.
        pause: seconds before the second attempt; doubled before each further one.
        show: draw a progress bar where standard error is a terminal and tqdm is installed.

    Returns:
        ``target``.

    Raises:
        ValueError: the server does not have the file or cannot be reached, or the checksum is another one.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(f"{target.name}.lock")):
        if target.is_file():
            verify(target, sha256)
            return target
        part = target.with_name(f"{target.name}.part")
        _retried(url, partial(_fetch, url, part, timeout, show), partial(_size, part), attempts, pause)
        part.with_suffix(".etag").unlink(missing_ok=True)
        try:
            verify(part, sha256)
        except ValueError as error:
            part.unlink()
            raise ValueError(f"{url}: the download is damaged or was replaced: {error}") from None
        part.replace(target)
    return target


def file_sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else _digest(file)


def _digest(file: IO[bytes]) -> str:
    total = hashlib.sha256()
    while chunk := file.read(CHUNK):
        total.update(chunk)
    return total.hexdigest()


def verify(path: Path, sha256: str | None) -> None:
    """Check a file against a checksum or its first digits.

    Raises:
        ValueError: the checksum is another one.
    """
    if sha256 is None:
        return
    got = file_sha256(path)
    if not got.startswith(sha256.lower()):
        raise ValueError(f"{path.name}: expected SHA-256 {sha256}..., got {got[: max(8, len(sha256))]}...")


def fetch(
    url: str, *, most: int, timeout: float = 20.0, within: float = 300.0, attempts: int = 3, pause: float = 0.5
) -> bytes:
    """The content of a file, in memory.

    Args:
        url: ``https://`` or ``http://`` URL.
        most: bytes after which it is given up.
        timeout: seconds without a byte after which a connection counts as broken.
        within: seconds for the whole file.
        attempts: connections that may fail before it is given up.
        pause: seconds before the second attempt; doubled before each further one.

    Raises:
        ValueError: the server does not have the file or cannot be reached, or the file is larger or slower.
    """
    return _retried(url, partial(_fetch_limited, url, most, timeout, within), None, attempts, pause)


def _fetch_limited(url: str, most: int, timeout: float, within: float) -> bytes:
    end = time.monotonic() + within
    content = bytearray()
    with _connected(_request(url), timeout) as answer:
        total = _length(answer)
        if total is not None and total > most:
            raise ValueError(f"{url}: expected at most {most:,} bytes, got a file of {total:,}")
        while chunk := answer.read1(CHUNK):
            content += chunk
            if len(content) > most:
                raise ValueError(f"{url}: expected at most {most:,} bytes, got more")
            if time.monotonic() > end:
                raise ValueError(f"{url}: expected the file within {within:g} seconds, got {len(content):,} bytes")
    if total is not None and len(content) < total:
        raise ConnectionError(f"expected {total} bytes, got {len(content)} before the connection ended")
    return bytes(content)


def _retried(url: str, once: Callable[[], T], kept: Callable[[], int] | None, attempts: int, pause: float) -> T:
    """What ``once`` gives; it is called again after an error that may be gone the next time.

    Args:
        url: for messages.
        once: brings the file, or what is missing of it.
        kept: the bytes that are on disk; ``None``: what a broken connection brought is lost.
        attempts: see :func:`download`.
        pause: likewise.
    """
    failures = 0
    while True:
        before = kept() if kept else 0
        try:
            return once()
        except urllib.error.HTTPError as error:
            if error.code not in _RETRIED:
                raise ValueError(f"{url}: the server answers {error.code} ({error.reason})") from None
            reason = f"the server answers {error.code} ({error.reason})"
        except http.client.InvalidURL as error:
            raise ValueError(f"{url}: expected an http or https URL ({error})") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        # A connection that brought something on its way is no failure of the server: the count starts again.
        failures = 1 if kept and kept() > before else failures + 1
        if failures >= attempts:
            rest = f"; {kept()} bytes are kept, and the same command continues there" if kept else ""
            raise ValueError(f"{url}: the download failed after {attempts} attempts ({reason}){rest}")
        time.sleep(pause * 2 ** (failures - 1))


def _request(url: str) -> urllib.request.Request:
    """A request; letters and spaces that a URL cannot hold are encoded."""
    plain = urllib.parse.quote(_checked(url), safe="%/:?#[]@!$&'()*+,;=~")
    return urllib.request.Request(plain, headers={"User-Agent": "deformable-convnets"})


def _connected(request: urllib.request.Request, timeout: float) -> Any:
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)


def _length(answer: Any) -> int | None:
    """The bytes that the server announces, if it announces any."""
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _fetch(url: str, part: Path, timeout: float, show: bool) -> None:
    """Bring ``part`` to its full length over one connection."""
    etag_file, start = part.with_suffix(".etag"), _size(part)
    etag = etag_file.read_text(encoding="utf-8") if etag_file.is_file() else ""
    request = _request(url)
    if start and etag:
        # The server sends the rest only of the same file; of another one it sends everything.
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", etag)
    try:
        answer = _connected(request, timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the part is not a beginning of the file
            raise
        part.unlink()
        raise ConnectionError("the file on the server is shorter than the part that is already downloaded") from None
    with answer:
        resumed = answer.status == 206
        etag_file.write_text(answer.headers.get("ETag", "").removeprefix("W/"), encoding="utf-8")
        length = _length(answer)
        total = None if length is None else length + (start if resumed else 0)
        with part.open("ab" if resumed else "wb") as file, _bar(part.stem, total, start if resumed else 0, show) as bar:
            while chunk := answer.read1(CHUNK):
                file.write(chunk)
                bar(len(chunk))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"expected {total} bytes, got {_size(part)} before the connection ended")


def _checked(url: str) -> str:
    try:
        scheme = urllib.parse.urlsplit(url).scheme
    except ValueError as error:
        raise ValueError(f"url: expected an http or https URL, got {url!r} ({error})") from None
    if scheme not in ("http", "https"):
        raise ValueError(f"url: expected an http or https URL, got {url!r}")
    return url


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _bar(title: str, total: int | None, start: int, show: bool) -> Iterator[Any]:
    """A function that counts bytes; it draws a bar where one can be seen."""
    try:
        from tqdm import tqdm
    except ImportError:
        show = False
    if not (show and sys.stderr.isatty()):
        yield lambda _: None
        return
    with tqdm(total=total, initial=start, desc=title, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
        yield bar.update


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; another process waits. The lock ends with the process, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait_for_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        locked = False
        while not locked:
            with suppress(OSError):  # it gives up after 10 seconds
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
                locked = True
        return
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX)
