"""What a run leaves behind while it goes: the run folder, JSON lines, TensorBoard events, and the console."""

from __future__ import annotations

import json
import logging
import math
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

LOGGER = logging.getLogger("dcn")
METRICS_FILE = "metrics.jsonl"


def new_run_folder(output: Path, recipe: str, name: str | None = None) -> Path:
    """Make ``output/<recipe>/<name>``, or with the next free number as the name.

    Raises:
        ValueError: a folder of that name exists.
    """
    parent = output / recipe
    parent.mkdir(parents=True, exist_ok=True)
    if name is not None:
        folder = parent / name
        if folder.exists():
            raise ValueError(f"name: {folder} exists; choose another name or continue it with --resume {folder}")
        folder.mkdir()
        return folder
    number = 1 + max((int(p.name) for p in parent.iterdir() if re.fullmatch(r"\d+", p.name)), default=-1)
    folder = parent / str(number)
    folder.mkdir()
    return folder


def latest_run(parent: Path) -> Path:
    """The run in ``parent`` whose state was saved last.

    Raises:
        ValueError: there is none.
    """
    runs = sorted(parent.glob("*/recipe.yaml"), key=lambda path: _age(path.parent))
    if not runs:
        raise ValueError(f"--resume: no run in {parent}; give the folder of a run")
    return runs[-1].parent


def _age(run: Path) -> float:
    state = run / "trainer.pt"
    return (state if state.is_file() else run / "recipe.yaml").stat().st_mtime


def versions() -> dict[str, Any]:
    """What the run was made with: packages, Python, machine, devices."""
    import numpy as np

    import dcn

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "dcn": dcn.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text(errors="replace"))
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


class RunLog:
    """Rows of figures, in ``metrics.jsonl`` and as TensorBoard events.

    Args:
        folder: the run folder.
        start: updates made before; rows of later ones are dropped, because they will be written again.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / METRICS_FILE
        _keep_rows(self.path, start)
        self._file = self.path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, kind: str, step: int, figures: dict[str, float]) -> None:
        """Append one row of kind ``train`` or ``eval`` about the state after update ``step``; NaN becomes null."""
        known = {name: value for name, value in figures.items() if not math.isnan(value)}
        self._file.write(json.dumps({"kind": kind, "step": step, **dict.fromkeys(figures), **known}) + "\n")
        self._file.flush()
        for name, value in known.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._events.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a last line cut off by a kill is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _keep_rows(path: Path, start: int) -> None:
    rows = [row for row in read_rows(path) if row["step"] <= start]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)


class Console:
    """The progress of a training: a bar on a terminal, plain lines elsewhere.

    Args:
        total: updates of the whole run.
        start: updates made before.
        show: off in all processes but the first.
    """

    def __init__(self, total: int, start: int = 0, show: bool = True) -> None:
        self.total, self.start, self.show = total, start, show
        self._begun = time.perf_counter()
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True) if show and _terminal() else None

    def advance(self) -> None:
        """One update more."""
        if self._bar is not None:
            self._bar.update()

    def figures(self, step: int, figures: dict[str, float]) -> None:
        """Show losses, rate and speed after update ``step``."""
        text = " ".join(f"{name}={value:.4g}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self.show:
            LOGGER.info("step %d/%d %s eta %s", step, self.total, text, self._eta(step))

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self.show:
            LOGGER.info(text)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _eta(self, step: int) -> str:
        seconds = (time.perf_counter() - self._begun) / max(1, step - self.start) * (self.total - step)
        return duration(seconds)


def duration(seconds: float) -> str:
    """``"1:02:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _terminal() -> bool:
    return sys.stderr.isatty()


def progress(items: Iterable[Any], total: int, title: str, show: bool = True) -> Iterator[Any]:
    """Pass items through, with a bar where there is a terminal."""
    yield from tqdm(items, total=total, desc=title, leave=False, dynamic_ncols=True, disable=not (show and _terminal()))
