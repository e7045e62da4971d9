from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dcn.engine.lock import LOCK_FILE, LockedError, locked

HOLD = "import sys, time; from pathlib import Path; from dcn.engine.lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(300)"


def _holder(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        holder = f"process {process.pid} on {socket.gethostname()} .* trains in this run folder"
        try:
            with pytest.raises(LockedError, match=holder), locked(tmp_path):
                pass
        finally:
            process.kill()


def test_the_lock_of_a_killed_process_does_not_count(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK_FILE).is_file()
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on")
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_process_may_hold_its_lock_twice(tmp_path: Path) -> None:
    with locked(tmp_path):
        with locked(tmp_path / "." / ""):
            pass
        assert (tmp_path / LOCK_FILE).is_file()
    assert not (tmp_path / LOCK_FILE).exists()


def test_the_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass
