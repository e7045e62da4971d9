"""How many threads a program gets, and what they do while they wait; decided before torch is loaded.

OpenMP threads that spin for cores that others use slow a training down many times: PyTorch hands out work in small
parts, and each part ends when its last thread has had its turn. A passive wait gives the core away instead.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path

WAIT_KEYS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that decide how threads of GNU and LLVM OpenMP wait; torch reads them when it is loaded."""
COUNT_KEYS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def prepare(environment: MutableMapping[str, str] | None = None) -> None:
    """Ask for a passive wait, and for as many threads as this process has cores; what the user has set stays.

    The command ``dcn`` calls it first. It has no effect once torch is loaded.

    Args:
        environment: default: that of the process.
    """
    environment = os.environ if environment is None else environment
    if "torch" in sys.modules:
        return
    if not any(environment.get(key) for key in WAIT_KEYS):
        environment.update(_PASSIVE)
    cores = available_cores()
    if not any(environment.get(key) for key in COUNT_KEYS) and cores < (os.cpu_count() or 1):
        environment["OMP_NUM_THREADS"] = str(cores)


def waits_actively(environment: MutableMapping[str, str] | None = None) -> bool:
    """Whether OpenMP threads spin while they wait, which is the default of its libraries."""
    environment = os.environ if environment is None else environment
    policy = environment.get("OMP_WAIT_POLICY", "").strip().upper()
    if policy:
        return policy != "PASSIVE"
    return environment.get("GOMP_SPINCOUNT", "").strip() != "0"


def available_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The cores that this process may use: its CPU affinity, and the quota of its container; at least 1.

    Args:
        cgroups: where control groups are mounted.
        own: the file that names the control groups of this process.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _quotas(cgroups, own)]
    return max(1, min([count, *quotas]))


def load_per_core() -> float | None:
    """Programs that want to run, per available core, in the last minute; ``None`` where the system does not tell."""
    try:
        return os.getloadavg()[0] / available_cores()
    except (OSError, AttributeError):
        return None


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Every limit in cores on the way from the control group of this process up to the root."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            yield from _walk(cgroups, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            for mount in (cgroups / controllers, cgroups / "cpu"):
                yield from _walk(mount, path, _quota_v1)


def _walk(mount: Path, path: str, read: Callable[[Path], float | None]) -> Iterator[float]:
    folder = mount / path.strip("/")
    for parent in (folder, *folder.parents):
        if parent != mount and mount not in parent.parents:
            return
        quota = read(parent)
        if quota is not None:
            yield quota


def _quota_v2(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return _ratio(quota[0], period[0]) if quota and period else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _ratio(quota: str, period: str) -> float | None:
    """``max`` and -1 mean no limit."""
    try:
        cores = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if 0 < cores < math.inf else None
