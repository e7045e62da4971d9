"""Which backend computes a call: the first of an ordered table that can, or the one that was named."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from torch import Tensor

from dcn.kernels import cpu, reference, triton

Table = tuple[tuple[str, ModuleType], ...]
"""Names and kernel modules of one operator, the fastest first. The last one takes every call."""

_FOLDERS: dict[str, ModuleType] = {"triton": triton, "cpu": cpu, "reference": reference}


def check_name(table: Table, backend: str | None) -> None:
    """Refuse a backend that the operator does not have.

    Raises:
        ValueError: ``backend`` is neither ``None`` nor a name of ``table``.
    """
    if backend is None:
        return
    names = [name for name, _ in table]
    if backend not in names:
        raise ValueError(f"backend: expected None or one of {names}, got {backend!r}; None chooses by itself")


def _named(table: Table, backend: str | None) -> str | None:
    if backend is None and (named := os.environ.get("DCN_BACKEND")):
        if named not in [name for name, _ in table]:
            raise ValueError(
                f"DCN_BACKEND: expected one of {[name for name, _ in table]} for this operator, got {named!r}; "
                "unset the environment variable to choose by itself"
            )
        return named
    check_name(table, backend)
    return backend


def choose(table: Table, backend: str | None, *args: Any, **call: Any) -> ModuleType:
    """The kernel module that computes the call described by ``args`` and ``call``.

    Args:
        table: the operator's backends in order of preference.
        backend: a name, or ``None`` for ``$DCN_BACKEND``, and without that the first backend that can.
        args: what the ``unsupported`` functions of the modules are asked with, in their order.
        call: the same by name.

    Raises:
        ValueError: the backend that was named is unknown or cannot compute this call (with its reason), or none can.
    """
    for name, module in table:  # named and able, without what an error needs
        if name == backend and module.unsupported(*args, **call) is None:
            return module
    named = _named(table, backend)
    reasons = []
    for name, module in table:
        if named is not None and name != named:
            continue
        reason = module.unsupported(*args, **call)
        if reason is None and named is None:
            reason = _FOLDERS[name].only_if_named()
        if reason is None:
            return module
        reasons.append(f"{name}: {reason}")
    if named is None:
        raise ValueError(f"backend: none can compute this call; {'; '.join(reasons)}")
    raise ValueError(
        f"backend: expected one that can compute this call, got {named!r} ({reasons[0]}); backend=None takes one that "
        "can"
    )


def recordable(table: Table, backend: str | None, *args: Any, **call: Any) -> bool:
    """Whether a compiler can make the launches of this call itself, by what its backend says of it."""
    module = choose(table, backend, *args, **call)
    name = next(name for name, candidate in table if candidate is module)
    return bool(_FOLDERS[name].recordable(next(arg for arg in args if isinstance(arg, Tensor))))


def reasons(table: Table, *args: Any, **call: Any) -> dict[str, str | None]:
    """Per backend why it cannot compute the call, ``None`` where it can."""
    return {name: module.unsupported(*args, **call) for name, module in table}
