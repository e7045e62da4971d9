"""What the machine is and what a process takes of it: memory of large maps, kept and measured."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
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


def available_bytes() -> int | None:
    """Main memory that this process may still take, in bytes; ``None`` where it is not known.

    That is what the system has available, or less where the control group of a container or a batch system has a limit.
    Its files in the page cache count as available: the system drops them when memory is needed.
    """
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    lines = (line.split() for line in table.read_text(encoding="ascii").splitlines())
    known = {line[0]: int(line[1]) * 1024 for line in lines if len(line) > 1 and line[1].isdecimal()}
    free = known.get("MemAvailable:")
    limits = [room for folder in _control_groups() if (room := _room(folder)) is not None]
    return None if free is None else max(0, min([free, *limits]))


def _control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[Path]:
    """The control groups of this process that count memory, inner ones first, in versions 2 and 1."""
    lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        folder = base / path.lstrip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(base))


def _room(folder: Path) -> int | None:
    """What a control group may still take; ``None`` without a limit."""
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            most, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, usage))
            cached = (folder / "memory.stat").read_text(encoding="ascii").split()
        except OSError:
            continue
        if most.isdecimal() and int(most) < 2**60:  # version 1 writes a huge number for no limit
            pairs = dict(zip(cached[::2], cached[1::2], strict=False))
            return int(most) - int(taken) + int(pairs.get("inactive_file", pairs.get("total_inactive_file", "0")))
    return None


def resident_bytes() -> int | None:
    """Resident memory of this process in bytes; ``None`` where it is not known."""
    return _status("VmRSS:")


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
    return _status("VmHWM:")


def _status(entry: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(entry)), None)
