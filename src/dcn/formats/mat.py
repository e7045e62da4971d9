"""MATLAB files of version 5, as the Semantic Boundaries Dataset has them: unpacked within a bound, read by scipy."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcn.extras import require
from dcn.formats.documents import MEGABYTE, read_bytes

MAX_FILE = 16 * MEGABYTE
MAX_UNPACKED = 128 * MEGABYTE
_HEADER, _COMPRESSED = 128, 15


def read_label_mat(path: Path) -> Tensor:
    """``GTcls.Segmentation`` of a file of SBD as ``[H, W]`` int64, the values as stored (0 is background).

    Raises:
        ValueError: the file cannot be read, is damaged, unpacks to more than 128 MB or holds something else; scipy,
            which reads the format, is not installed.
    """
    require("scipy")
    from scipy.io import loadmat

    data = read_bytes(path, MAX_FILE, "mask file")
    try:
        content: Any = loadmat(io.BytesIO(_unpacked(data)), variable_names=["GTcls"])
        labels = np.asarray(content["GTcls"]["Segmentation"][0, 0])
        if labels.ndim != 2 or labels.dtype.kind not in "ui":
            raise ValueError(f"expected integers of shape [H, W], got {labels.dtype} of shape {list(labels.shape)}")
    except Exception as error:  # scipy's reader raises errors of any kind on a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a label file of SBD (a struct GTcls with Segmentation): {reason}") from error
    return torch.from_numpy(labels.astype(np.int64))


def _unpacked(data: bytes) -> bytes:
    """The file with its compressed elements unpacked, never to more than `MAX_UNPACKED`.

    Raises:
        ValueError: too much, or an element that is longer than the file.
        zlib.error: a damaged element.
    """
    if data[126:128] not in (b"IM", b"MI"):
        return data  # another version: scipy says what
    order = "<" if data[126:128] == b"IM" else ">"
    parts, at, total = [data[:_HEADER]], _HEADER, 0
    while at + 8 <= len(data):
        kind, length = struct.unpack(f"{order}II", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise ValueError("the file breaks off")
        if kind == _COMPRESSED:
            packed = zlib.decompressobj()
            body = packed.decompress(body, MAX_UNPACKED - total + 1)
            total += len(body)
            if total > MAX_UNPACKED:
                raise ValueError(f"expected at most {MAX_UNPACKED // MEGABYTE} MB unpacked, got more")
            if not packed.eof:
                raise ValueError("a compressed element breaks off")
            parts.append(body)
        else:
            parts.append(data[at : at + 8] + body)
        at += 8 + length
    return b"".join(parts)
