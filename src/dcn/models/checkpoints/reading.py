"""Tensors out of a file, without running anything that the file contains."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class StateFile:
    """What a checkpoint file holds.

    Attributes:
        tensors: by name, on the CPU; half precision is widened to float32.
        meta: the file's own remarks: safetensors metadata, or mmdetection's ``meta``.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, object] = field(default_factory=dict)


def read_state(path: str | Path) -> StateFile:
    """Reads a state dict from ``.safetensors`` or from a PyTorch file.

    A PyTorch file may hold the dict itself or hold it under ``state_dict`` or ``model``; the prefix ``module.`` of
    parallel training is removed. It is opened with ``weights_only=True``: a file that needs other objects than
    tensors and plain containers is refused.

    Raises:
        ValueError: for a missing file, a file of another form, or one with other objects than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a checkpoint file, found nothing there")
    if path.suffix == ".params":
        raise ValueError(f"{path}: a file of MXNet; turn it into one of ours with `dcn import {path.name} -o FILE`")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_safetensors(path: Path) -> StateFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            meta = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, got something that is not one ({error})") from error
    return StateFile(_widen(tensors), {key: _parsed(value) for key, value in meta.items()})


def _parsed(value: str) -> object:
    """Metadata values are strings; those that are JSON lists or objects are taken as such."""
    if not value.startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _read_torch(path: Path) -> StateFile:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (a damaged pickle fails in any way: KeyError, IndexError, MemoryError)
        raise ValueError(
            f"{path}: expected a PyTorch file with tensors only, and it cannot be opened as one ({_reason(error)}); "
            "files that need other Python objects are refused because loading them would run their code. "
            "Where the file was made, save its state_dict alone"
        ) from None
    meta: object = {}
    if isinstance(content, Mapping):
        meta = content.get("meta", {})
        content = content.get("state_dict", content.get("model", content))
    if not isinstance(content, Mapping) or not content or not _names_and_tensors(content):
        raise ValueError(f"{path}: expected a state dict (names and tensors), got {_describe(content)}")
    return StateFile(_widen(content), dict(meta) if isinstance(meta, Mapping) else {})


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to load the file with its code."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it needs the object {found[1]}"
    found = re.search(r"Unsupported [^.\n]+|PytorchStreamReader [^.\n]+", text)
    return found[0].strip() if found else type(error).__name__


def _names_and_tensors(content: Mapping[object, object]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a dict with the entries {', '.join(map(str, list(content)[:8])) or '(none)'}"
    return f"a {type(content).__name__}"


def _widen(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    half = (torch.float16, torch.bfloat16)
    return {
        name.removeprefix("module."): tensor.float() if tensor.dtype in half else tensor
        for name, tensor in tensors.items()
    }
