"""Checksums that files carry of themselves, so that a flipped bit or a missing end does not go unnoticed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

TENSORS_KEY = "dcn_sha256"
"""Name of the checksum in the metadata of a weights file; other programs have a ``sha256`` of their own."""

_SEAL = "# sha256 of the lines below: "


def tensors_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors and over the other metadata."""
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {TENSORS_KEY}):
        digest.update(f"{key}={metadata[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        # NumPy does not know every type of torch; bytes have no type.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Compare the tensors of a file with the checksum in its metadata; a file without one passes.

    Raises:
        ValueError: they differ.
    """
    stated = metadata.get(TENSORS_KEY)
    if stated is None:
        return
    actual = tensors_checksum(tensors, metadata)
    if stated != actual:
        raise ValueError(
            f"{path}: the file is damaged: expected contents of the checksum {stated[:8]}..., got {actual[:8]}...; use "
            "another copy of it, or another checkpoint of its run"
        )


def seal(text: str) -> str:
    """The text below a line that states its checksum."""
    return f"{_SEAL}{_checksum(text)}\n{text}"


def open_sealed(text: str, path: str | Path) -> str:
    """The text of :func:`seal`; a text without the line passes unchanged.

    Raises:
        ValueError: the text was cut off or changed.
    """
    first, newline, rest = text.partition("\n")
    if not first.startswith(_SEAL):
        return text
    stated = first.strip()[len(_SEAL) :]
    if not newline or stated != _checksum(rest):
        raise ValueError(
            f"{path}: the file is cut off or was changed after the run was started; if you changed it on "
            "purpose, remove its first line"
        )
    return rest


def _checksum(text: str) -> str:
    """Line ends do not count: version control and editors change them."""
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()
