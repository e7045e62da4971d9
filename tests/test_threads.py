from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcn import threads
from dcn.threads import COUNT_KEYS, WAIT_KEYS, available_cores, waits_actively

SOURCE = Path(__file__).parents[1] / "src"


def _prepared(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], cores: int = 2) -> dict[str, str]:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    threads.prepare(environment)
    return environment


def test_the_default_is_a_passive_wait_and_the_cores_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    actual = _prepared(monkeypatch, {})
    passive = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
    assert actual == {**passive, "OMP_NUM_THREADS": "2"}
    assert not waits_actively(actual)


@pytest.mark.parametrize("key", WAIT_KEYS)
def test_a_wait_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    actual = _prepared(monkeypatch, {key: "ACTIVE"})
    assert {name: actual[name] for name in WAIT_KEYS if name in actual} == {key: "ACTIVE"}


@pytest.mark.parametrize("key", COUNT_KEYS)
def test_a_count_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    actual = _prepared(monkeypatch, {key: "5"})
    assert {name: actual[name] for name in COUNT_KEYS if name in actual} == {key: "5"}


def test_the_choice_of_torch_stays_where_all_cores_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OMP_NUM_THREADS" not in _prepared(monkeypatch, {}, cores=8)


def test_nothing_changes_once_torch_is_loaded() -> None:
    import torch  # noqa: F401  # the point of the test

    environment: dict[str, str] = {}
    threads.prepare(environment)
    assert environment == {}


@pytest.mark.parametrize(
    ("environment", "active"),
    [
        ({}, True),
        ({"OMP_WAIT_POLICY": "passive"}, False),
        ({"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "0"}, True),
        ({"GOMP_SPINCOUNT": "0"}, False),
        ({"GOMP_SPINCOUNT": "300000"}, True),
    ],
)
def test_what_threads_do_while_they_wait(environment: dict[str, str], active: bool) -> None:
    assert waits_actively(environment) == active


def _group(root: Path, files: dict[str, str], own: str) -> int:
    for name, content in files.items():
        (root / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "fs" / name).write_text(content)
    (root / "own").write_text(own)
    return available_cores(root / "fs", root / "own")


@pytest.mark.parametrize(
    ("files", "own", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"a/cpu.max": "max 100000\n", "cpu.max": "300000 100000\n"}, "0::/a\n", 3),
        ({"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "100000 100000\n"}, "0::/a/b\n", 1),
        ({"a/cpu.max": "10000 100000\n"}, "0::/a\n", 1),
        (
            {"cpu,io/a/cpu.cfs_quota_us": "200000", "cpu,io/a/cpu.cfs_period_us": "100000"},
            "4:cpu,io:/a",
            2,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/\n", 64),
        ({"cpu.max": "no number\n"}, "0::/\n", 64),
        ({}, "no colons\n", 64),
    ],
    ids=["rounded-up", "of-a-parent", "smallest", "a-share", "version-1", "version-1-none", "unreadable", "foreign"],
)
def test_the_quota_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], own: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert _group(tmp_path, files, own) == cores


def test_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert available_cores(tmp_path, tmp_path / "missing") == 2


@pytest.mark.parametrize(
    "entry", [["-m", "dcn"], ["-c", "import sys; from dcn.cli.main import main; sys.exit(main())"]]
)
def test_the_command_waits_passively(entry: list[str]) -> None:
    """As a module and as the console script calls it; torch must not be loaded before."""
    environment = {key: value for key, value in os.environ.items() if key not in (*WAIT_KEYS, *COUNT_KEYS)}
    environment |= {"PYTHONPATH": str(SOURCE), "OMP_DISPLAY_ENV": "true"}
    command = [sys.executable, *entry, "doctor", "--json"]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in result.stderr
    assert "GOMP_SPINCOUNT = '0'" in result.stderr or "GOMP_SPINCOUNT" not in result.stderr
