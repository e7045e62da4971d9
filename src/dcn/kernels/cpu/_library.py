"""Finds, loads and describes the shared library of the CPU kernels.

Environment variables:
    ``DCN_CPU_LIBRARY``: path of a library to use instead of the installed one (development and sanitizer builds).
    ``DCN_CPU_ISA``: ``amx``, ``avx512bf16``, ``avx512``, ``avx2`` or ``generic`` forces an instruction set; default:
    the best of this machine.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

import torch

import dcn.kernels.cpu as package

ABI_VERSION = 2
MISSING_IMAGE = 2
"""The status of a RoI pooling whose boxes name an image that does not exist."""
_FILE_NAMES = {"win32": ("dcn_cpu.dll", "libdcn_cpu.dll"), "darwin": ("libdcn_cpu.dylib",)}
# Functions that take a packed call, and how many pointers follow it.
_CALLS = {
    "dcn_deform_conv_forward": 0,
    "dcn_deform_conv_backward": 0,
    "dcn_dcnv3_forward": 0,
    "dcn_dcnv3_backward": 0,
    "dcn_roi_mean_forward": 1,
    "dcn_roi_mean_backward_input": 2,
    "dcn_roi_mean_backward_locations": 3,
    "dcn_roi_max_forward": 1,
    "dcn_roi_max_backward": 2,
}


def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        RuntimeError: with the text of `reason` when there is none.
    """
    loaded, why = _load()
    if loaded is None:
        raise RuntimeError(f"the CPU kernels cannot run: {why}")
    return loaded


def reason() -> str | None:
    """Why the library cannot be used, or None when it can."""
    return _load()[1]


def isa() -> str:
    """Instruction set in use.

    ``amx`` (AVX-512, and products of tiles of bfloat16), ``avx512bf16`` (AVX-512 with dot products of bfloat16),
    ``avx512``, ``avx2`` or ``generic``.
    """
    name: bytes = library().dcn_isa_name()
    return name.decode()


def threads() -> int:
    """Number of threads a kernel call uses: torch's own setting."""
    return torch.get_num_threads()


def check(status: int, call: str) -> None:
    """Turn the status of a kernel call into an error.

    Args:
        status: what the C function returned; 0 is success.
        call: op, shapes and dtype of the call, for the message.

    Raises:
        RuntimeError: when ``status`` is not 0.
    """
    if status != 0:
        message: bytes = library().dcn_error_message()
        raise RuntimeError(f"{call} failed on the CPU: {message.decode()}; try a smaller input or backend='reference'")


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    path = _find()
    if path is None:
        return None, (
            "libdcn_cpu was not built (no C++ compiler when the package was installed?); "
            "install a C++17 compiler and reinstall deformable-convnets"
        )
    try:
        loaded = ctypes.CDLL(str(path))
        _declare(loaded)
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded: {error}"
    if loaded.dcn_abi_version() != ABI_VERSION:
        found = loaded.dcn_abi_version()
        return None, f"{path} is version {found} of the kernels, this code needs {ABI_VERSION}; reinstall the package"
    loaded.dcn_use_gomp(_gomp_parallel())
    return _select_isa(loaded)


def _find() -> Path | None:
    override = os.environ.get("DCN_CPU_LIBRARY")
    if override:
        return Path(override)
    names = _FILE_NAMES.get(sys.platform, ("libdcn_cpu.so",))
    candidates = [Path(folder) / name for folder in package.__path__ for name in names]
    return next((path for path in candidates if path.is_file()), None)


def _declare(loaded: ctypes.CDLL) -> None:
    loaded.dcn_error_message.restype = ctypes.c_char_p
    loaded.dcn_isa_name.restype = ctypes.c_char_p
    loaded.dcn_set_isa.argtypes = [ctypes.c_char_p]
    loaded.dcn_use_gomp.argtypes = [ctypes.c_void_p]
    loaded.dcn_use_gomp.restype = None
    for name, pointers in _CALLS.items():
        # The description of a call is packed bytes: filling a ctypes.Structure costs ten times as much.
        getattr(loaded, name).argtypes = [ctypes.c_char_p, *[ctypes.c_void_p] * pointers]


def _select_isa(loaded: ctypes.CDLL) -> tuple[ctypes.CDLL | None, str | None]:
    wanted = os.environ.get("DCN_CPU_ISA")
    if wanted and loaded.dcn_set_isa(wanted.encode()) != 0:
        return (
            None,
            f"DCN_CPU_ISA={wanted!r}: expected amx, avx512bf16, avx512, avx2 or generic, supported by this processor",
        )
    return loaded, None


def _gomp_parallel() -> int | None:
    """Address of ``GOMP_parallel`` in the OpenMP runtime torch has loaded, so that both use one pool of threads."""
    for path in _openmp_runtimes():
        try:
            function = ctypes.CDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value
    return None


def _openmp_runtimes() -> list[str]:
    """Paths of the OpenMP runtimes mapped into this process (Linux); the one bundled with torch first."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return []
    fields = (line.split(maxsplit=5) for line in maps.read_text().splitlines())
    paths = {field[5] for field in fields if len(field) == 6}
    found = [path for path in paths if Path(path).name.startswith(("libgomp", "libomp", "libiomp5"))]
    torch_folder = str(Path(torch.__file__).parent)
    return sorted(found, key=lambda path: (not path.startswith(torch_folder), path))
