"""One process at a time in a run folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK_FILE = ".lock"

_held: dict[Path, int] = {}


class LockedError(ValueError):
    """Another process trains in the run folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for the duration; a process may take its own lock again.

    The lock is one of the operating system: it ends with its process, so the file that a killed process left does
    not count. Processes that the holder starts (loaders of images) do not inherit it.

    Raises:
        LockedError: another process holds it; the message names that process and its machine.
    """
    key = folder.resolve()
    if key in _held:
        _held[key] += 1
    else:
        file = _acquire(folder / LOCK_FILE)
        _held[key] = 1
    try:
        yield
    finally:
        _held[key] -= 1
        if not _held[key]:
            del _held[key]
            (folder / LOCK_FILE).unlink(missing_ok=True)
            file.close()


def _acquire(path: Path) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        if not _lock(file):
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            file.close()
            raise LockedError(f"{path.parent}: {holder} trains in this run folder; wait for it or stop it, then resume")
        # The holder before may have removed the file between our opening and locking it.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    file.truncate(0)
    begun = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {socket.gethostname()} (since {begun})\n")
    file.flush()
    return file


def _lock(file: IO[str]) -> bool:
    """Whether this process now holds the file."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _lock_windows(file)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        import errno

        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        # A file system without locks: nothing can be known about others.
    return True


def _lock_windows(file: IO[str]) -> bool:
    import importlib

    msvcrt = importlib.import_module("msvcrt")
    # Locked bytes cannot be read by others: the lock lies behind what the file says.
    file.seek(1 << 20)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    finally:
        file.seek(0)
    return True
