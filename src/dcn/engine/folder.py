"""The folder of a run: its name, its lock, and the files that are written once."""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dcn.engine.atomic import remove_temporaries, write_atomically
from dcn.engine.checkpoint import STATE_FILE
from dcn.engine.config import Recipe
from dcn.engine.lock import LOCK_FILE, locked
from dcn.engine.log import METRICS_FILE, read_rows
from dcn.engine.recipe import dump_recipe, with_absolute_paths

RECIPE_FILE = "recipe.yaml"
VERSIONS_FILE = "versions.json"
_START_FILES = {RECIPE_FILE, VERSIONS_FILE, METRICS_FILE, LOCK_FILE}


def check_run_name(output: Path, recipe: str, name: str | None) -> None:
    """Check early what :func:`new_run_folder` needs; nothing is made.

    Raises:
        ValueError: the name is not that of a folder, or a folder of that name exists.
    """
    if name is None:
        return
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0"):
        raise ValueError(f"name: expected the name of a folder without slashes, got {name!r}")
    folder = output / recipe / name
    if folder.exists():
        raise ValueError(
            f"name: expected a new one, got {name!r}: {folder} exists; choose another name or continue it with "
            f"--resume {folder}"
        )


def new_run_folder(output: Path, recipe: str, name: str | None = None) -> Path:
    """Make ``output/<recipe>/<name>``, or with the next free number as the name.

    Call it when data and model have been opened, so that a failed start leaves no folder.

    Raises:
        ValueError: the name is not that of a folder, or a folder of that name exists.
    """
    check_run_name(output, recipe, name)
    parent = output / recipe
    parent.mkdir(parents=True, exist_ok=True)
    if name is not None:
        folder = parent / name
        folder.mkdir()
        return folder
    number = 1 + max((int(p.name) for p in parent.iterdir() if re.fullmatch(r"\d{1,9}", p.name)), default=-1)
    while True:
        folder = parent / str(number)
        try:
            folder.mkdir()
        except FileExistsError:  # another start has just taken this number
            number += 1
        else:
            return folder


def latest_run(parent: Path) -> Path:
    """The run in ``parent`` whose checkpoint was saved last.

    Raises:
        ValueError: there is none.
    """
    runs = sorted(parent.glob(f"*/{RECIPE_FILE}"), key=lambda path: _age(path.parent))
    if not runs:
        raise ValueError(f"--resume: expected a run in {parent}, got none; give the folder of a run")
    return runs[-1].parent


def _age(run: Path) -> float:
    state = run / STATE_FILE
    return (state if state.is_file() else run / RECIPE_FILE).stat().st_mtime


@contextmanager
def open_run(folder: Path, recipe: Recipe) -> Iterator[None]:
    """Hold a run folder: lock it, tidy it and write ``recipe.yaml`` and ``versions.json`` where they are not there.

    The first process of a run calls it, around :func:`dcn.engine.train`. ``recipe.yaml`` is replaced only where a
    resumed run has other settings. A new folder in which nothing was trained is removed again.

    Args:
        folder: exists.
        recipe: as it runs; paths in it are made absolute.

    Raises:
        LockedError: another process trains in the folder.
    """
    new = not (folder / RECIPE_FILE).exists()
    try:
        with locked(folder):
            remove_temporaries(folder)
            remove_temporaries(folder / "weights")
            _write_once(folder, recipe)
            yield
    except BaseException:
        if new:
            remove_if_untrained(folder)
        raise


def _write_once(folder: Path, recipe: Recipe) -> None:
    content = dump_recipe(with_absolute_paths(recipe)).encode()
    path = folder / RECIPE_FILE
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)
    if not (folder / VERSIONS_FILE).is_file():
        write_atomically(folder / VERSIONS_FILE, (json.dumps(versions(), indent=2) + "\n").encode())


def remove_if_untrained(folder: Path) -> None:
    """Remove a run folder that holds nothing but the files of a start; any other file keeps it."""
    events = folder / "tensorboard"
    others = [path for path in folder.iterdir() if path.name not in _START_FILES and path != events]
    if others or read_rows(folder / METRICS_FILE):
        return
    shutil.rmtree(folder)
    # The folder of the recipe, if this was its first run.
    with suppress(OSError):
        folder.parent.rmdir()


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
        match = re.search(r"model name\s*:\s*(.+)", info.read_text(errors="replace"))
        if match:
            return match.group(1).strip()
    return platform.processor() or platform.machine()
