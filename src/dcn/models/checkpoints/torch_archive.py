"""The tensors of a PyTorch file that also holds objects of other programs, without making any of these.

``torch.load(weights_only=True)`` refuses a whole training checkpoint because of one setting that is no plain container.
Here such objects stay what they are in the file: names (:mod:`dcn.models.checkpoints.pickle_format`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcn.models.checkpoints.pickle_format import Call, Name, PickleError, Reference, read_pickle

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DICTS = ("collections.OrderedDict", "collections.defaultdict")


def read_archive(path: Path) -> object:
    """The content of a file of ``torch.save``: plain data, with :class:`Call` for everything else, tensors too.

    Raises:
        PickleError: it is damaged, or made to do harm.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                return read_pickle(file, archive.getinfo(name).file_size)
    except StopIteration:
        raise PickleError("it is no file of torch.save") from None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise PickleError(f"it is damaged ({error})") from None


def as_mapping(value: object) -> Mapping[object, object] | None:
    """A dict of a file, an ordered one too; ``None``: it is something else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Call) and value.is_of(*_DICTS):
        first = value.arguments[0] if isinstance(value.arguments, tuple) and value.arguments else None
        if isinstance(first, list):  # Python 2 writes the entries as a list of pairs
            return {str(pair[0]): pair[1] for pair in first if isinstance(pair, list | tuple) and len(pair) == 2}
        return value.items
    return None


def read_tensors(path: Path, state: Mapping[object, object]) -> dict[str, Tensor] | None:
    """The tensors that a state dict of :func:`read_archive` describes; ``None``: it has other entries too.

    Raises:
        PickleError: a tensor whose numbers are not there.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder").strip() != b"little":
            raise PickleError("its numbers have the other byte order; save it again on this machine")
        storages: dict[str, Tensor] = {}
        tensors: dict[str, Tensor] = {}
        for name, value in state.items():
            tensor = _tensor(archive, root, storages, value)
            if tensor is None or not isinstance(name, str):
                return None
            tensors[name] = tensor
    return tensors


def _tensor(archive: zipfile.ZipFile, root: str, storages: dict[str, Tensor], value: object) -> Tensor | None:
    if not isinstance(value, Call) or not isinstance(value.arguments, tuple):
        return None
    if value.is_of("torch._utils._rebuild_parameter") and value.arguments:
        return _tensor(archive, root, storages, value.arguments[0])
    if not value.is_of("torch._utils._rebuild_tensor_v2"):
        return None
    try:
        reference, offset, size, stride, *_ = value.arguments
        return _storage(archive, root, storages, reference).as_strided(size, stride, offset)
    except PickleError:
        raise
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise PickleError(f"a tensor is damaged ({' '.join(str(error).split())[:100]})") from None


def _storage(archive: zipfile.ZipFile, root: str, storages: dict[str, Tensor], reference: Any) -> Tensor:
    """The numbers of a storage, read once."""
    if not isinstance(reference, Reference) or not isinstance(reference.key, tuple) or len(reference.key) < 3:
        raise PickleError("a tensor has no numbers")
    _, kind, key, *_ = reference.key
    name = f"{root}data/{key}"
    if not isinstance(kind, Name) or kind.name not in _DTYPES:
        raise PickleError(f"a tensor is of the type {kind}")
    known = f"{kind.name} {name}"
    if known not in storages:
        content, dtype = bytearray(archive.read(name)), _DTYPES[kind.name]
        storages[known] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return storages[known]
