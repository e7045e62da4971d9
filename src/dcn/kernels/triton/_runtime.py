"""Whether Triton can run on given tensors, what it runs on, and the rules that all kernels share.

Nothing here imports Triton until a tensor that could use it is seen: ``import dcn`` works without it.

Environment variables (Triton's own):
    ``TRITON_INTERPRET=1``, set before Triton is imported: kernels run in Python on the CPU (tests).
    ``TRITON_CACHE_DIR``: where compiled kernels are kept between processes; default ``~/.triton/cache``.
Ours:
    ``DCN_OPAQUE_KERNELS=1``: ``torch.compile`` calls every operator as a unit instead of launching its kernels itself.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

OLDEST = (8, 0)  # compute capability: bfloat16 and TF32 matrix units came with it
INTERPRETER = "interpreter"
Result = TypeVar("Result")


@functools.cache
def _missing() -> str | None:
    """Why Triton cannot be imported."""
    try:
        importlib.import_module("triton.language")
    except ImportError as error:
        return f"Triton cannot be imported ({error}); pip install triton (Linux) brings it"
    return None


@functools.cache
def _interpreted() -> bool:
    if _missing() is not None:
        return False
    from triton import knobs

    return bool(knobs.runtime.interpret)


def interpreted() -> bool:
    """Whether the kernels run in Python on the CPU: ``TRITON_INTERPRET=1`` was set when Triton was imported."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0") and _interpreted()


def version() -> str | None:
    """Version of Triton, or None without it."""
    return None if _missing() is not None else str(importlib.import_module("triton").__version__)


def reason(*tensors: Tensor | None) -> str | None:
    """Why Triton cannot run on these tensors, all on one device, or None when it can; absent ones are left out."""
    first = tensors[0]
    return _reason(first.device if first is not None else next(t.device for t in tensors if t is not None))


@functools.cache
def _reason(device: torch.device) -> str | None:
    if device.type != "cuda":
        if device.type == "cpu" and interpreted():
            return None
        return f"the tensors are on {device}, Triton needs a GPU (or TRITON_INTERPRET=1, which is slow and for tests)"
    return _missing() or _too_old(device.index or 0)


def _too_old(index: int) -> str | None:
    if torch.version.hip is not None:
        return None
    capability = torch.cuda.get_device_capability(index)
    if capability >= OLDEST:
        return None
    name = torch.cuda.get_device_name(index)
    return f"{name} has compute capability {capability[0]}.{capability[1]}, the kernels need 8.0 (Ampere) or newer"


def generation(device: torch.device) -> str:
    """What the tile tables are chosen by: ``"sm_90"``, ``"gfx942"``, ... or ``"interpreter"``."""
    return INTERPRETER if interpreted() else _generation(device.index or 0)


@functools.cache
def _generation(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def multiprocessors(device: torch.device) -> int:
    """Number of streaming multiprocessors (compute units); 4 under the interpreter."""
    return 4 if interpreted() else _multiprocessors(device.index or 0)


@functools.cache
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def precision(tensor: Tensor) -> str:
    """How ``tl.dot`` multiplies: ``"tf32"``, ``"tf32x3"`` or ``"ieee"``; ``"interpreter"`` for the interpreter.

    Only float32 has a choice. TF32 is used where torch's own matrix products use it
    (``torch.backends.cuda.matmul.fp32_precision``, which ``allow_tf32`` and ``set_float32_matmul_precision`` set); else
    three TF32 products that together keep float32's accuracy, and on AMD, which has no such mode, plain float32.
    """
    if interpreted():
        return INTERPRETER
    if tensor.dtype != torch.float32 or torch.version.hip is not None:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


class _Recording(threading.local):
    on = False


_RECORDING = _Recording()


def recording() -> bool:
    """Whether a compiler records launches in this thread: sizes may be symbols, and nothing is computed."""
    return _RECORDING.on


@contextmanager
def record() -> Iterator[None]:
    """Within it, :func:`launcher` gives launches to the compiler that traces."""
    before, _RECORDING.on = _RECORDING.on, True
    try:
        yield
    finally:
        _RECORDING.on = before


def recordable(tensor: Tensor) -> bool:
    """Whether a compiler could launch kernels for this tensor: they are not interpreted, and nobody forbids it."""
    wanted = os.environ.get("DCN_OPAQUE_KERNELS", "0") in ("", "0") and not interpreted()
    present = tensor.device.type != "cuda" or torch.cuda.is_available()  # it may be the device of a fake tensor
    return wanted and present and _reason(tensor.device) is None


def once(cached: functools._lru_cache_wrapper[Result]) -> Callable[..., Result]:
    """The cached function; while a compiler records the plain one, because symbols cannot be looked up."""
    return cached.__wrapped__ if _RECORDING.on else cached


def launcher(kernel: Any) -> Any:
    """What ``[grid](...)`` launches: the kernel itself, or, for a compiler, a node of its graph."""
    return torch.library.wrap_triton(kernel) if _RECORDING.on else kernel


@contextmanager
def launching(tensor: Tensor, name: Callable[[], str]) -> Iterator[None]:
    """Make the tensor's device current, and let an error of the compiler or of a launch say which call it was.

    Args:
        tensor: any tensor of the call.
        name: gives operator, shapes and types of the call; asked only after an error.

    Raises:
        RuntimeError: with the name, the device and what to do.
    """
    if _RECORDING.on:  # nothing is launched
        yield
        return
    from triton.errors import TritonError

    try:
        with torch.cuda.device_of(tensor):
            yield
    except (RuntimeError, TritonError) as error:
        raise RuntimeError(
            f"{name()} on {tensor.device} failed in Triton {version()}: {error}; "
            "backend='reference' computes the same without it"
        ) from error
