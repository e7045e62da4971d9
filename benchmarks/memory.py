"""Peak memory of one call, measured in a process of its own.

`python -m benchmarks.memory SUITE INDEX DIRECTION COMPETITOR` prints the peak, as a multiple of inputs + outputs +
gradients. Method: make the inputs, run a tiny case once (libraries, thread pools), give freed memory back to the
system, set the high-water mark of the resident set back (`/proc/self/clear_refs`), run once and keep the results, read
the mark. Linux with glibc only.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import SUITES, ConvCase
from benchmarks.competitors import Competitor, available, run


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_ratio(competitor: Competitor, case: ConvCase, train: bool) -> float:
    tensors = case.tensors()
    # Few channels too: our library keeps its workspace, and a large one would hide what the call needs.
    tiny = replace(case, batch=1, channels=8, groups=min(case.groups, 8), height=8, width=8)
    run(competitor, competitor.prepare(tiny, tiny.tensors()[2]), tiny.tensors(), train)
    operator = competitor.prepare(case, tensors[2])
    given = tensors if train else tensors[:3]
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tensors left behind would be used again unseen
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    results = run(competitor, operator, tensors, train)
    extra = _status("VmHWM") - before
    inputs = sum(t.nbytes for t in given)
    return (inputs + extra) / (inputs + sum(t.nbytes for t in results))


def measure(suite: str, index: int, direction: str, competitor: str) -> float | None:
    """`peak_ratio` in a fresh process, or None where the system does not offer it."""
    if sys.platform != "linux":
        return None
    command = [sys.executable, "-m", "benchmarks.memory", suite, str(index), direction, competitor]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    _suite, _index, _direction, _name = sys.argv[1:]
    _competitor = next(c for c in available() if c.name == _name)
    print(peak_ratio(_competitor, SUITES[_suite][int(_index)], _direction == "train"))
