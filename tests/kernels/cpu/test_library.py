from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcn.kernels.cpu import _library

_DESCRIBE = """
from dcn.kernels.cpu import _library
why = _library.reason()
print("cannot run: " + why if why else _library.isa())
"""


def _describe(**variables: str) -> str:
    """What a fresh process with these environment variables says about the library."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", _DESCRIBE], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_installed_library_is_found_on_the_path_of_the_package() -> None:
    assert _library.reason() is None
    assert _library.library().dcn_abi_version() == _library.ABI_VERSION


def test_threads_are_those_of_torch() -> None:
    assert _library.threads() == torch.get_num_threads()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_the_openmp_pool_of_torch_is_found_first() -> None:
    runtimes = _library._openmp_runtimes()
    assert runtimes
    assert Path(torch.__file__).parent in Path(runtimes[0]).parents
    assert _library._gomp_parallel()


def test_an_instruction_set_can_be_forced() -> None:
    assert _describe(DCN_CPU_ISA="generic") == "generic"


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    said = _describe(DCN_CPU_ISA="avx9000")
    assert said.startswith("cannot run: DCN_CPU_ISA='avx9000': expected amx, avx512bf16, avx512, avx2 or generic")


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = tmp_path / "libdcn_cpu.so"
    path.write_bytes(b"not a library")
    said = _describe(DCN_CPU_LIBRARY=str(path))
    assert said.startswith(f"cannot run: {path} cannot be loaded:")


def test_a_missing_library_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "_find", lambda: None)
    loaded, why = _library._load.__wrapped__()
    assert loaded is None
    assert why is not None
    assert "install a C++17 compiler and reinstall" in why


def test_a_failed_call_names_the_call_and_the_reason() -> None:
    with pytest.raises(RuntimeError, match=r"^forward of \[1, 2\] failed on the CPU: .*backend='reference'$"):
        _library.check(1, "forward of [1, 2]")
