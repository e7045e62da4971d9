"""Where the kernels run in tests, and Triton's interpreter made quick enough for them."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest
import torch

from dcn.kernels.triton import _runtime


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The card where there is one, else the CPU with the interpreter."""
    device = torch.device("cpu" if _runtime.interpreted() else "cuda")
    why = _runtime.reason(torch.empty(0, device=device)) if device.type == "cpu" or torch.cuda.is_available() else None
    if why is not None:
        pytest.skip(why)
    return device


@pytest.fixture(scope="package", autouse=True)
def quick_interpreter() -> Iterator[None]:
    """The interpreter replaces Triton's functions by its own again at every call of a device function.

    That takes 4 ms, against 0.1 ms for what the function does. Once per kernel is enough.
    """
    if not _runtime.interpreted():
        yield
        return
    from triton import language
    from triton.runtime import interpreter

    patch = interpreter._patch_lang
    scope = getattr(interpreter, "_LangPatchScope", lambda: None)  # Triton 3.5 has none and returns nothing

    def once(function: FunctionType) -> Any:
        used = [value for value in function.__globals__.values() if value is language or value is language.core]
        done = all(not language.core.is_builtin(module.load) for module in used)
        return scope() if done else patch(function)

    interpreter._patch_lang = once
    yield
    interpreter._patch_lang = patch
