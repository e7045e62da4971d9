"""What the machine is and what a process takes of it: memory of large maps, kept and measured."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next map instead of giving it back to the system.

    By default glibc maps every block of more than 32 MB afresh. The system then clears it page by page, at every
    layer: for a detector at 800 x 1333 about a quarter of the time. What is kept is used again by later maps of any
    size; the process stays as large as it was at its largest. It concerns the whole process, so that only commands
    call it, no import.

    Returns:
        Whether it was done; ``False`` where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def processor() -> str:
    """The name of the CPU, its architecture where the system does not tell."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8", errors="replace").splitlines() if table.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def reset_peak() -> None:
    """Start to measure :func:`peak_bytes` from here; does nothing where the system does not offer it.

    Memory that was freed and kept is given back first, or what uses it again would not be seen.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
    mark = Path("/proc/self/clear_refs")
    if mark.exists():
        mark.write_text("5", encoding="ascii")


def peak_bytes() -> int | None:
    """Largest resident memory of this process since :func:`reset_peak` in bytes; ``None`` where it is not known."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
