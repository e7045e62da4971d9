"""Files that a command writes: different names, and no file of anybody else is replaced."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from dcn.runs.sources import StrPath

_PAGES = (".html", ".htm")

MANIFEST = ".dcn_outputs.jsonl"
"""Lists what a command wrote into a folder: a JSON object with ``file`` and ``sha256`` on each line."""

_CHUNK = 1 << 20
_ERRORS = "backslashreplace"  # bytes of a name that are no UTF-8 become `\\udcff`, which is how JSON writes them


def page_path(output: StrPath, name: str) -> Path:
    """Where a page goes: ``output`` itself where it ends in ``.html``, else ``name`` in the folder ``output``.

    Args:
        output: a file or a folder; neither has to exist.
        name: of the page in a folder.

    Raises:
        ValueError: another ending, or a folder that is a file.
    """
    path = Path(output).expanduser()
    if path.is_dir() or not path.suffix:
        path = path / name
    elif path.suffix.lower() not in _PAGES:
        raise ValueError(f"output: expected a page that ends in .html, or a folder, got {str(output)!r}")
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                raise ValueError(f"output: expected a folder, got the file {folder}")
            break
    return path


class Stems:
    """File stems that are all different: a number tells images of one name in two folders apart.

    Letter case does not count, because some file systems ignore it.

    Args:
        own: stems that belong to images to come; no other image gets one of these with a number.
    """

    def __init__(self, own: Iterable[str] = ()) -> None:
        self._own = {stem.casefold() for stem in own}
        self._used: set[str] = set()

    def __call__(self, wanted: str) -> str:
        """A stem that was not given before: the one that is wanted, or that with a number."""
        stem, number = wanted, 0
        while stem.casefold() in self._used or (number and stem.casefold() in self._own):
            number += 1
            stem = f"{wanted}_{number}"
        self._used.add(stem.casefold())
        return stem


def stems_of(paths: Sequence[Path]) -> list[str]:
    """A file stem for each path, all different; see :class:`Stems`."""
    stems = Stems(path.stem for path in paths)
    return [stems(path.stem) for path in paths]


class OutputFolder:
    """A folder in which a command replaces its own files of an earlier call, and no others.

    The folder is made when the first file is written. What was written is noted in :data:`MANIFEST` with its SHA-256:
    a file that was changed since belongs to the user.

    Args:
        folder: where to write.
        inputs: files that the command reads; none of them is ever written.

    Raises:
        ValueError: ``folder`` is a file.
    """

    def __init__(self, folder: str | Path, inputs: Iterable[Path] = ()) -> None:
        self.folder = Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"output: expected a folder, got the file {self.folder}")
        self._inputs = {identity for path in inputs if (identity := _identity(path)) is not None}
        self._own = _read_manifest(self.folder / MANIFEST)

    def protect(self, path: Path) -> None:
        """Add a file to those that are never written."""
        if (identity := _identity(path)) is not None:
            self._inputs.add(identity)

    def check(self, names: Iterable[str]) -> None:
        """Refuse names that must not be written, before anything is computed.

        Raises:
            ValueError: a file of that name is an input, or was not written by this command.
        """
        for name in names:
            self._check(name)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a temporary file of the same suffix, which becomes the file at the end.

        Raises:
            ValueError: as :meth:`check`.
        """
        self._check(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        temporary = self.folder / f".{os.getpid()}.tmp{path.suffix}"
        try:
            yield temporary
            self._note(name, _digest(temporary))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, name: str, write: Callable[[Path], None]) -> Path:
        """Write a file: ``write(path)`` writes it under its temporary name; see :meth:`writing`."""
        with self.writing(name) as temporary:
            write(temporary)
        return self.folder / name

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file in UTF-8; see :meth:`write`."""
        return self.write(name, partial(_write_text, text))

    @contextmanager
    def lines(self, name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Give a function that appends a JSON line to a file at once; the file starts empty."""
        self._check(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        # Without a checksum until it is complete: a killed command leaves a file that the next one may replace.
        self._note(name, None)
        path.unlink(missing_ok=True)
        with path.open("x", encoding="utf-8", errors=_ERRORS) as file:
            yield lambda row: _append(file, row)
        self._note(name, _digest(path))

    def _check(self, name: str) -> None:
        path = self.folder / name
        if not os.path.lexists(path):
            return
        if _identity(path) in self._inputs:
            raise ValueError(f"output: {path} is one of the inputs; choose another folder")
        if name not in self._own or not self._unchanged(name):
            raise ValueError(
                f"output: {path} exists, and this command did not write it; choose another folder or move the file"
            )

    def _unchanged(self, name: str) -> bool:
        path, digest = self.folder / name, self._own[name]
        return path.is_file() and not path.is_symlink() and digest in (None, _digest(path))

    def _note(self, name: str, digest: str | None) -> None:
        self._own[name] = digest
        with (self.folder / MANIFEST).open("a", encoding="utf-8", errors=_ERRORS) as file:
            _append(file, {"file": name, "sha256": digest})


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _append(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def _identity(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of a file; ``None`` where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            total.update(part)
    return total.hexdigest()


def _read_manifest(path: Path) -> dict[str, str | None]:
    """Names and checksums, the latest of each name; a line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}\n")]
    return {row["file"]: row["sha256"] for row in rows}
