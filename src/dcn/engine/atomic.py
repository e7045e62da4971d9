"""Files that are there whole or not at all, whatever moment the process is killed at."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def write_atomically(path: Path, *chunks: bytes | memoryview) -> None:
    """Write a file so that after a crash either the old or the whole new content is there.

    Raises:
        OSError: the disk is full or the folder cannot be written; the message names the file, and the old one stays.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def link(source: Path, name: Path) -> None:
    """Give a file a second name, replacing what stood there; a copy where the file system has no links."""
    temporary = _temporary(name)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        write_atomically(name, source.read_bytes())
        return
    temporary.replace(name)
    # Renaming one name of a file to another name of the same file leaves both.
    temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> list[Path]:
    """Remove what killed writers left in a folder that nobody else writes to; returns the files removed."""
    leftovers = [path for path in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(path.name)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def not_written(path: Path, error: OSError) -> OSError:
    """The error about a file that could not be written, with the room that is left."""
    try:
        free = f"{shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB are free there; "
    except OSError:
        free = ""
    reason = error.strerror or str(error)
    named = OSError(f"{path}: the file could not be written: {reason}; {free}make room, or choose another --output")
    named.errno = error.errno
    return named


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
