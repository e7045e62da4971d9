"""What a run writes while it goes: JSON lines, TensorBoard events, and the console."""

from __future__ import annotations

import json
import logging
import math
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dcn.engine.atomic import not_written, write_atomically
from dcn.extras import is_installed, missing_package

LOGGER = logging.getLogger("dcn")
METRICS_FILE = "metrics.jsonl"
_BAR = "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
_BAR_WIDTH = 62
"""Columns of the bar without its postfix, for a run of up to 99,999 steps."""


class RunLog:
    """Rows of numbers, in ``metrics.jsonl`` and, where TensorBoard is installed, as its events.

    Args:
        folder: the run folder.
        start: steps made before; rows of later ones are dropped, because they will be written again.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        self.path = folder / METRICS_FILE
        _keep_rows(self.path, start)
        self._file = self.path.open("a", encoding="utf-8")
        self._events = _event_writer(folder, start)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append one row of kind ``train`` or ``eval`` about the state after ``step``; NaN becomes null.

        Raises:
            OSError: the disk is full; the message names the file.
        """
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        try:
            self._file.write(json.dumps({"kind": kind, "step": step, **dict.fromkeys(values), **known}) + "\n")
            self._file.flush()
        except OSError as error:
            raise not_written(self.path, error) from error
        if self._events is not None:
            for name, value in known.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _event_writer(folder: Path, start: int) -> Any:
    if not is_installed("tensorboard"):
        LOGGER.info("no TensorBoard events are written: %s", missing_package("tensorboard"))
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; lines that a kill or a damaged disk left unreadable are skipped."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else []
    rows = [row for line in lines if line.endswith("\n") and (row := _row(line)) is not None]
    # A last line that was cut off is what every kill leaves; anything else is worth a word.
    if lost := sum(line.endswith("\n") for line in lines) - len(rows):
        LOGGER.warning("%s: %d unreadable lines are skipped", path, lost)
    return rows


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("kind"), str)
    return row if known else None


def _keep_rows(path: Path, start: int) -> None:
    rows = [row for row in read_rows(path) if row["step"] <= start]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


class Console:
    """The progress of a training: a bar on a terminal, plain lines elsewhere.

    Args:
        total: steps of the whole run.
        start: steps made before.
        show: off in all processes but the first.
    """

    def __init__(self, total: int, start: int = 0, show: bool = True) -> None:
        self.total, self.start, self.show = total, start, show
        self._begun = time.perf_counter()
        self._bar: Any = None
        if show and _terminal():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, dynamic_ncols=True, bar_format=_BAR)

    def advance(self) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.update()

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        """Show losses, rate and speed after ``step``; the bar shows as many as its line has room for."""
        words = [f"{name}={value:.4g}" for name, value in values.items()]
        if self._bar is not None:
            self._bar.set_postfix_str(fitting(words, shutil.get_terminal_size().columns - _BAR_WIDTH))
        elif self.show:
            LOGGER.info("step %d/%d %s eta %s", step, self.total, " ".join(words), self._eta(step))

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


def fitting(words: Iterable[str], columns: int) -> str:
    """As many of the words, from the first on, as fit into ``columns``."""
    line = ""
    for word in words:
        longer = f"{line} {word}" if line else word
        if len(longer) > columns:
            break
        line = longer
    return line


def duration(seconds: float) -> str:
    """``"1:02:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _terminal() -> bool:
    return sys.stderr.isatty()


def progress(items: Iterable[Any], total: int | None, title: str, show: bool = True) -> Iterator[Any]:
    """Pass items through, with a bar where there is a terminal; ``total`` is ``None`` where nobody knows it."""
    if not (show and _terminal()):
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=title, leave=False, dynamic_ncols=True)


def two_columns(rows: Mapping[str, object]) -> str:
    """Names and values below each other, such as the start of a run: model, weights, device, data."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def shell_command(*words: object) -> str:
    """A command line that can be copied into a shell, such as the next step after a run."""
    return shlex.join(str(word) for word in words)
