"""The results as CSV: a row for each run, and for each layer whose reach was measured."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from dcn.engine.atomic import write_atomically
from dcn.engine.folder import versions
from dcn.engine.lock import LockedError, locked

R = TypeVar("R")


@dataclass(frozen=True)
class Keyed:
    """What every row begins with: the run, and the recipe by its digits.

    Attributes:
        system: name in the plan.
        variant: likewise.
        dataset: likewise.
        stage: ``start`` or ``tune``.
        seed: of the training.
        recipe: see :attr:`dcn.reproduce.plan.Job.recipe`.
    """

    system: str
    variant: str
    dataset: str
    stage: str
    seed: int
    recipe: str


@dataclass(frozen=True)
class Row(Keyed):
    """One run; what does not exist for its task is NaN, empty in the file.

    Attributes:
        AP: on the test split by the rules of COCO, 0 to 1.
        AP50: likewise at IoU 0.5.
        AP75: likewise at IoU 0.75.
        VOC50: mAP by the rules of Pascal VOC (area) at IoU 0.5.
        VOC70: likewise at IoU 0.7, the papers' second number.
        mIoU: of a segmentation model on the test split.
        accuracy: share of its pixels that are right.
        val: AP or mIoU on the validation images at the end of the training.
        offset: mean ``|offset|`` of the deformable convolutions on test images, in cells of their input map.
        offsets: the same layer by layer; of RoI pooling as a share of the region's side.
        parameters: how many the model has.
        steps: of the training.
        seconds: of the training.
        threads: that it ran with.
        commit: of the source.
        torch: version.
        machine: its processor.
        date: when it ended, UTC.
    """

    AP: float
    AP50: float
    AP75: float
    VOC50: float
    VOC70: float
    mIoU: float
    accuracy: float
    val: float
    offset: float
    offsets: str
    parameters: int
    steps: int
    seconds: float
    threads: int
    commit: str
    torch: str
    machine: str
    date: str


@dataclass(frozen=True)
class DilationRow(Keyed):
    """Effective dilation of one layer over the test images, by what lies at the filter's centre.

    Attributes:
        layer: its name.
        undeformed: without offsets.
        location: ``small``, ``medium``, ``large`` or ``background``.
        filters: how many.
        mean: over the filters.
        std: likewise.
    """

    layer: str
    undeformed: float
    location: str
    filters: int
    mean: float
    std: float


@dataclass(frozen=True)
class StepRow(Keyed):
    """A training step of one variant.

    Attributes:
        parameters: how many the model has.
        batch_size: images of a step.
        ms: processor time of the step, over all threads; median.
        repetitions: timed steps.
        threads: that computed.
        commit: of the source.
        torch: version.
        machine: its processor.
        date: UTC.
    """

    parameters: int
    batch_size: int
    ms: float
    repetitions: int
    threads: int
    commit: str
    torch: str
    machine: str
    date: str


def read_table(path: Path, kind: type[R]) -> list[R]:
    """The rows of a file; none where it does not exist.

    Raises:
        ValueError: other columns than those of the kind.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        expected = [name for name, _ in _columns(kind)]
        if reader.fieldnames != expected:
            raise ValueError(f"{path}: expected the columns {', '.join(expected)}, got {reader.fieldnames}")
        return [kind(**{name: _parsed(row[name], type_name) for name, type_name in _columns(kind)}) for row in reader]


def _columns(kind: Any) -> list[tuple[str, str]]:
    """Names and types of the fields of a dataclass, as text."""
    return [(field.name, str(field.type)) for field in fields(kind)]


def _parsed(text: str, kind: str) -> Any:
    if kind == "str":
        return text
    return int(text) if kind == "int" else float(text or "nan")


def append(path: Path, rows: Sequence[Keyed]) -> None:
    """Add rows at the end; several processes may do so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while rows and not _appended(path, rows):
        time.sleep(0.1)


def _appended(path: Path, rows: Sequence[Keyed]) -> bool:
    """Whether no other process was writing into the folder."""
    try:
        with locked(path.parent):
            _append(path, rows)
    except LockedError:
        return False
    return True


def _append(path: Path, rows: Sequence[Keyed]) -> None:
    before = path.read_bytes() if path.is_file() else b""
    # A process that is killed here leaves the file as it was.
    write_atomically(path, before + _encoded(rows, type(rows[0]), header=not path.is_file()))


def write_table(path: Path, rows: Iterable[Any], kind: type[Any]) -> None:
    """Write a whole file of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _encoded(rows, kind, header=True))


def _encoded(rows: Iterable[Any], kind: type[Any], *, header: bool) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, [name for name, _ in _columns(kind)], lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in asdict(row).items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def environment() -> dict[str, Any]:
    """What a row says about where and when it was made."""
    own = versions()
    return {
        "threads": own["threads"],
        "commit": _commit() or f"version {own['dcn']}",
        "torch": own["torch"],
        "machine": own["cpu"],
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
    }


def _commit() -> str:
    """The commit of the source; empty where the package is not a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
