"""The ``.params`` container of MXNet: named arrays, little-endian, four generations of array records.

Layout (as written by ``mx.nd.save``): u64 ``0x112``, u64 0, u64 N, N array records, u64 N, N keys (u64 length and UTF-8
bytes). A record starts with a u32 that is a generation number, or, in the oldest generation, the number of axes:

========== ============== ====================================================================
generation first u32      then
========== ============== ====================================================================
V0         axes           u32 per axis; device i32 i32; dtype i32; data (no axes: nothing follows)
V1         0xF993FAC8     u32 axes, i64 per axis; device; dtype; data
V2         0xF993FAC9     i32 storage type (0 dense), then as V1
V3         0xF993FACA     as V2 with NumPy shapes: axes -1 is an absent array, no axes is a scalar
========== ============== ====================================================================

Files come from strangers: every size is compared with the bytes that are left before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from dcn.models.checkpoints.reading import MOST_NAMES, check_file

_FILE_MAGIC: Final = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MAX_AXES: Final = 32  # NumPy's own limit in the years of these files
_MIN_RECORD: Final = 4  # bytes of the shortest record: a V0 array without axes

_DTYPES: Final = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.uint8,
    torch.int32,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.int16,
    None,  # 9, 10, 11: unsigned 16, 32 and 64 bits, which these models never used
    None,
    None,
    torch.bfloat16,
)


class _Cursor:
    """A position in the bytes of a file that refuses to read past their end."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = memoryview(data)
        self.name = name
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self.data) - self.at

    def fail(self, problem: str) -> ValueError:
        """The error at this place of the file."""
        return ValueError(f"{self.name}: not a readable MXNet .params file: {problem} (byte {self.at})")

    def take(self, size: int, what: str) -> memoryview:
        """The next bytes; refuses to read beyond the end."""
        if size > self.left:
            raise self.fail(f"expected {size} bytes for {what}, got {self.left}; the file is cut short or damaged")
        part = self.data[self.at : self.at + size]
        self.at += size
        return part

    def numbers(self, layout: str, what: str) -> tuple[int, ...]:
        """The next numbers, in the layout of `struct`, little endian."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def count(self, what: str, smallest: int) -> int:
        """The next count of things of at least ``smallest`` bytes each; refuses one that cannot be."""
        (count,) = self.numbers("Q", f"the number of {what}")
        if count * smallest > self.left:
            raise self.fail(f"expected {count} {what}, got {self.left} bytes, which cannot hold them")
        if count > MOST_NAMES:
            raise self.fail(f"expected at most {MOST_NAMES:,} {what}, got {count:,}")
        return count


def _axes(cursor: _Cursor, magic: int) -> int | None:
    """The number of axes of the next record; ``None`` for a record that ends with its shape and holds no data."""
    if magic in (_V2, _V3):
        (storage,) = cursor.numbers("i", "the storage type")
        if storage != 0:
            raise cursor.fail(
                f"expected a dense array (storage type 0), got storage type {storage}; make the array dense first"
            )
    axes = cursor.numbers("i", "the number of axes")[0] if magic in (_V1, _V2, _V3) else magic
    absent = -1 if magic == _V3 else 0
    if axes == absent:
        return None
    if not 0 <= axes <= _MAX_AXES:
        raise cursor.fail(f"expected an array with at most {_MAX_AXES} axes, got {axes}")
    return axes


def _shape(cursor: _Cursor, magic: int) -> tuple[int, ...] | None:
    """The shape of the next record; ``None`` where MXNet stores none ("unknown"), and no data follow."""
    axes = _axes(cursor, magic)
    if axes is None:
        return None
    letter = "q" if magic in (_V1, _V2, _V3) else "I"
    shape = cursor.numbers(f"{axes}{letter}", "the shape") if axes else ()
    unknown = -1 if magic == _V3 else 0
    if any(size == unknown for size in shape):
        return None
    if any(size < 0 for size in shape):
        raise cursor.fail(f"expected sizes of 0 or more, got the shape {shape}")
    return shape


def _read_array(cursor: _Cursor) -> Tensor:
    (magic,) = cursor.numbers("I", "the start of an array")
    shape = _shape(cursor, magic)
    if shape is None:
        return torch.empty(0)
    _, _, code = cursor.numbers("iii", "device and dtype")  # the device may be a GPU: arrays are always read to the CPU
    dtype = _DTYPES[code] if 0 <= code < len(_DTYPES) else None
    if dtype is None:
        raise cursor.fail(f"expected a dtype code of 0-8 or 12, got {code}")
    size = math.prod(shape) * dtype.itemsize  # Python integers: no overflow
    data = cursor.take(size, f"an array of shape {list(shape)} and {dtype}")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    if dtype == torch.bool:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).ne(0).reshape(shape)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def _read_key(cursor: _Cursor) -> str:
    (length,) = cursor.numbers("Q", "the length of a key")
    text = bytes(cursor.take(length, "a key"))
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise cursor.fail(f"expected a key in UTF-8, got {text[:40]!r}") from error


def read_params(path: str | Path) -> dict[str, Tensor]:
    """Read every array of an MXNet ``.params`` file, of any generation (V0, V1, V2, V3), to the CPU.

    Args:
        path: the file. No code in it is ever executed: the format holds numbers and names only.

    Returns:
        Arrays by the keys of the file, ``arg:<name>`` for parameters and ``aux:<name>`` for batch-norm statistics, in
        the order and with the dtypes of the file. Arrays that MXNet stored without a shape come back with 0 elements.

    Raises:
        ValueError: the file is not of this format, is cut short, announces more than it holds, holds sparse arrays or
            an unknown dtype, or names an array twice or not at all. Nothing is returned of a damaged file.
    """
    check_file(Path(path))
    cursor = _Cursor(Path(path).read_bytes(), str(path))
    magic, reserved = cursor.numbers("QQ", "the header")
    if magic != _FILE_MAGIC or reserved != 0:
        raise cursor.fail(f"expected a start of {_FILE_MAGIC:#x}, 0x0, got {magic:#x}, {reserved:#x}")
    arrays = [_read_array(cursor) for _ in range(cursor.count("arrays", _MIN_RECORD))]
    keys = [_read_key(cursor) for _ in range(cursor.count("keys", 8))]
    if len(keys) != len(arrays):
        raise cursor.fail(
            f"expected a name for each of {len(arrays)} arrays, got {len(keys)}; save a dict of arrays, not a list"
        )
    if len(set(keys)) != len(keys):
        raise cursor.fail(f"expected each name once, got {Counter(keys).most_common(1)[0][0]!r} more than once")
    if cursor.left:
        raise cursor.fail(f"expected the end after the last key, got {cursor.left} more bytes")
    return dict(zip(keys, arrays, strict=True))


def _header(shape: tuple[int, ...], version: int) -> bytes:
    axes = len(shape)
    if version == 0:
        return struct.pack(f"<I{axes}I", axes, *shape)
    if version == 1:
        return struct.pack(f"<Ii{axes}q", _V1, axes, *shape)
    return struct.pack(f"<Iii{axes}q", _V2 if version == 2 else _V3, 0, axes, *shape)


def _record(name: str, array: Tensor, version: int) -> bytes:
    array = array.detach().cpu().contiguous()
    if array.dtype not in _DTYPES:
        raise ValueError(
            f"arrays: expected types that the .params format holds, got {array.dtype} for {name!r}; convert it first"
        )
    shape = tuple(array.shape)
    if version < 3 and (not shape or 0 in shape):
        raise ValueError(
            f"arrays: expected arrays with values, got shape {list(shape)} for {name!r}; version=3 can hold it"
        )
    cpu, device_number = 1, 0
    tail = struct.pack("<iii", cpu, device_number, _DTYPES.index(array.dtype))
    data = array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""
    return _header(shape, version) + tail + data


def write_params(path: str | Path, arrays: Mapping[str, Tensor], version: int = 2) -> None:
    """Write arrays as an MXNet ``.params`` file.

    Args:
        path: the file to write.
        arrays: arrays by key; MXNet expects keys ``arg:<name>`` and ``aux:<name>``.
        version: generation of the records, 0 to 3 (MXNet 0.12 and later write 2).

    Raises:
        ValueError: an unknown version, or a dtype or shape that this generation cannot hold.
    """
    if version not in (0, 1, 2, 3):
        raise ValueError(f"version: expected 0, 1, 2 or 3, got {version}")
    with Path(path).open("wb") as file:
        file.write(struct.pack("<QQQ", _FILE_MAGIC, 0, len(arrays)))
        for name, array in arrays.items():
            file.write(_record(name, array, version))
        file.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            text = name.encode("utf-8")
            file.write(struct.pack("<Q", len(text)) + text)
