"""Tensors out of a file, without running anything that the file contains."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcn.checksums import check_tensors
from dcn.models.checkpoints.pickle_format import ARRAY_NAMES, Call, HarmfulPickle, PickleError, array_of, read_pickle
from dcn.models.checkpoints.torch_archive import as_mapping, read_archive, read_tensors

MOST_NAMES = 100_000
"""Tensors, or names of classes, of one file; the largest models have a few thousand."""

_STATE_KEYS = ("state_dict", "model", "model_state_dict", "model_state")
_IN_PICKLES = ARRAY_NAMES | {"collections.OrderedDict"}
_WRAPPERS = ("model.", "net.", "network.")
"""Names of the one child that holds the model in somebody's Lightning module."""

_LFS = b"version https://git-lfs.github.com/spec/"
_SLACK = 64 * 2**20
"""Bytes that the tensors of a small file may take together, whatever the size of the file."""
_REPEATS = 4
"""How often the tensors of a file may hold its bytes: tied weights repeat some, half precision is widened."""

# What training checkpoints of mmengine hold beside the weights. None of it is created: an empty object stands for it.
_IGNORED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.ConfigDict",
    *(
        f"{module}.{name}"
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    ),
    "numpy.ndarray",
    "numpy.dtype",
)


@dataclass(frozen=True)
class StateFile:
    """The content of a checkpoint file.

    Attributes:
        tensors: by name, on the CPU; half precision is widened to float32.
        meta: what the file says about itself: metadata of safetensors, ``meta`` of mmdetection, or ``__author__`` of
            detectron2.
        prefix: what every name began with and was removed, such as ``model.`` of a Lightning module.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, object] = field(default_factory=dict)
    prefix: str = ""

    def tensors_for(self, module: nn.Module) -> dict[str, Tensor]:
        """The tensors; with the prefix where all names of the module begin with it."""
        if self.prefix and all(name.startswith(self.prefix) for name in module.state_dict()):
            return {f"{self.prefix}{name}": value for name, value in self.tensors.items()}
        return self.tensors


class Ignored:
    """Stands for an object of a file that nobody asks for; it takes any arguments and keeps nothing."""

    def __init__(self, *arguments: object) -> None:
        """Keep nothing."""

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


def read_state(path: str | Path) -> StateFile:
    """Reads a state dict from ``.safetensors``, a PyTorch file, or a pickle of arrays (detectron2's ``.pkl``).

    A PyTorch file may be the dict itself or hold it under ``state_dict``, ``model``, ``model_state_dict`` or
    ``model_state``. The prefixes ``module.`` (parallel training) and ``_orig_mod.`` (``torch.compile``) are removed
    from names, and ``model.``, ``net.`` or ``network.`` (Lightning) where every name has it. No object of a file is
    made but tensors, arrays and plain containers: what else lies beside the weights, such as the settings of a
    training, is skipped.

    Raises:
        ValueError: for a missing file, a file of another form (a Git LFS pointer, a web page), one with other objects
            than tensors among its weights, or one whose tensors are much larger than the file.
    """
    path = Path(path)
    check_file(path)
    if path.suffix == ".params":
        raise ValueError(
            f"{path}: expected a PyTorch or safetensors file, got one of MXNet; "
            f"convert it with `dcn import {path.name} -o FILE`"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return (
        _read_arrays(path) if path.suffix in (".pkl", ".pickle") and not zipfile.is_zipfile(path) else _read_torch(path)
    )


def check_file(path: Path) -> None:
    """Refuse what is no file of weights, whatever its name.

    Raises:
        ValueError: a missing or empty file, a folder, a Git LFS pointer, or a web page.
    """
    if path.is_dir():
        raise ValueError(f"{path}: expected a file of weights, got a folder")
    if not path.is_file():
        raise ValueError(
            f"{path}: expected a file of weights, got a name without a file (looked for from {Path.cwd()})"
        )
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError(f"{path}: expected a file of weights, got an empty file; has the download failed?")
    if start.startswith(_LFS):
        size = re.search(rb"^size (\d+)$", start, re.MULTILINE)
        of = f" of {int(size[1]):,} bytes" if size else ""
        raise ValueError(
            f"{path}: expected a file of weights, got a Git LFS pointer, the text that stands for the file{of}; "
            "fetch the file with `git lfs pull`"
        )
    if start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError(f"{path}: expected a file of weights, got a web page; download the file itself")


def _read_safetensors(path: Path) -> StateFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            meta = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, got something that is not one ({error})") from error
    check_tensors(path, tensors, meta)
    return _state_file(path, tensors, {key: _parsed(value) for key, value in meta.items()})


def _parsed(value: str) -> object:
    """Metadata values are strings; those that are JSON lists or objects are taken as such."""
    if not value.startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return value


def _read_torch(path: Path) -> StateFile:
    _check_archive(path)
    try:
        with torch.serialization.safe_globals([(Ignored, name) for name in _IGNORED]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what follows is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (a damaged pickle fails in any way: KeyError, IndexError, MemoryError)
        return _read_otherwise(path, error)
    meta: object = {}
    if isinstance(content, Mapping):
        meta = content.get("meta", {})
        content = _state_of(content)
    if not isinstance(content, Mapping) or not content or not _names_and_tensors(content):
        raise ValueError(f"{path}: expected a state dict (names and tensors), got {_describe(content)}")
    return _state_file(path, content, dict(meta) if isinstance(meta, Mapping) else {})


def _state_of(content: Mapping[Any, Any]) -> Any:
    """The state dict in a checkpoint, or the checkpoint itself."""
    return next((content[key] for key in _STATE_KEYS if key in content), content)


def _read_otherwise(path: Path, error: Exception) -> StateFile:
    """What torch refuses: a file with objects beside its weights, or a pickle of arrays under another ending.

    Raises:
        ValueError: it is neither.
    """
    reason, file = _reason(error), None
    try:
        file = _read_around(path) if zipfile.is_zipfile(path) else _arrays_in(path)
    except HarmfulPickle as harm:
        reason = f"{reason}; {harm}"
    except PickleError:
        pass  # torch's reason is the one that counts
    if file is None:
        raise ValueError(
            f"{path}: expected a PyTorch file with tensors only, got one that cannot be opened ({reason}); "
            "files that need other Python objects are refused because loading them would run their code. "
            "Where the file was made, save its state_dict alone"
        ) from None
    return file


def _read_around(path: Path) -> StateFile | None:
    """The weights of a PyTorch file and its ``meta``, without the objects that lie beside them; ``None``: none."""
    content = as_mapping(read_archive(path))
    state = None if content is None else as_mapping(_state_of(content))
    tensors = read_tensors(path, state) if state else None
    if content is None or not tensors:
        return None
    meta = as_mapping(content.get("meta", {}))
    return None if meta is None else _state_file(path, tensors, {str(key): value for key, value in meta.items()})


def _read_arrays(path: Path) -> StateFile:
    try:
        return _arrays_in(path)
    except PickleError as error:
        raise ValueError(
            f"{path}: expected a pickle of arrays, such as detectron2's, got one that cannot be read ({error}); "
            "other Python objects are refused because loading them would run their code"
        ) from None


def _arrays_in(path: Path) -> StateFile:
    """A pickle of arrays by name: the dict itself, or under ``model`` (detectron2) or ``blobs`` (Detectron).

    Raises:
        PickleError: it is something else.
    """
    with path.open("rb") as file:
        content = as_mapping(read_pickle(file, path.stat().st_size, _IN_PICKLES))
    state = None if content is None else as_mapping(content.get("blobs", _state_of(content)))
    if content is None or not state:
        raise PickleError("it is no dict of arrays")
    arrays: dict[str, Tensor] = {}
    left = _most_bytes(path)
    for name, value in state.items():
        if not str(name).endswith("_momentum"):
            arrays[str(name)] = _array(name, value)
            left -= arrays[str(name)].nbytes
        if left < 0:  # before all of them are made
            _check_amount(path, arrays)
    author = content.get("__author__")
    return _state_file(path, arrays, {"__author__": author} if isinstance(author, str) else {})


def _array(name: object, value: object) -> Tensor:
    array = array_of(value)
    if array is None:
        raise PickleError(f"{str(name)[:80]} is no array but {_describe(value)}")
    return torch.from_numpy(array)


def _check_archive(path: Path) -> None:
    """Refuse a compressed archive, and one whose records do not have their checksums.

    torch stores its records as they are, so they are never larger than the file. It writes a checksum for each, which
    `torch.load` does not look at.
    """
    if not zipfile.is_zipfile(path):
        return
    size, damaged = path.stat().st_size, None
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
            if unpacked <= size:
                damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError):
        return  # torch says what is wrong with it
    if unpacked > size:
        raise ValueError(
            f"{path}: expected a PyTorch file, whose records are not compressed, got {size:,} bytes that unpack to "
            f"{unpacked:,}; the file is damaged or made to fill the memory"
        )
    if damaged is not None:
        raise ValueError(
            f"{path}: expected a whole file, got one whose entry {damaged} does not have its checksum: it is damaged; "
            "copy or download it again (if it was saved without checksums, save it again with "
            "torch.serialization.set_crc32_options(True))"
        )


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to load the file with its code."""
    text = str(error)
    if match := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it needs the object {match[1]}"
    if "Unsupported operand" in text:
        return "it is not what torch.save writes: a pickle of another program, or a text"
    match = re.search(r"Unsupported [^.\n]+|PytorchStreamReader [^.\n]+", text)
    return match[0].strip() if match else type(error).__name__


def _names_and_tensors(content: Mapping[object, object]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        names = [str(name)[:40] if isinstance(name, str | int) else type(name).__name__ for name in list(content)[:8]]
        return f"a dict with the entries {', '.join(names) or '(none)'}"
    if isinstance(content, Call):
        return f"the object {content.function}"
    return "an object of Python" if isinstance(content, Ignored) else f"a {type(content).__name__}"


def _state_file(path: Path, tensors: Mapping[str, Tensor], meta: dict[str, object]) -> StateFile:
    """The tensors under their plain names, half precision widened.

    Raises:
        ValueError: too many tensors, tensors that are much larger than the file, or one name twice.
    """
    _check_amount(path, tensors)
    half = (torch.float16, torch.bfloat16)
    cleaned: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = _plain_name(name)
        if plain in cleaned:
            raise ValueError(f"{path}: expected {plain} once, got it with and without a prefix")
        cleaned[plain] = tensor.float() if tensor.dtype in half else tensor
    prefix = next((word for word in _WRAPPERS if all(name.startswith(word) for name in cleaned)), "")
    return StateFile({_plain_name(name.removeprefix(prefix)): value for name, value in cleaned.items()}, meta, prefix)


def _check_amount(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if len(tensors) > MOST_NAMES:
        raise ValueError(f"{path}: expected at most {MOST_NAMES:,} tensors, got {len(tensors):,}")
    size, total = path.stat().st_size, _bytes_of(tensors.values())
    if total > _most_bytes(path):
        raise ValueError(
            f"{path}: expected tensors about as large as the file of {size:,} bytes, got {total:,} bytes of tensors: "
            "they are expanded, or repeat one another; save copies (`tensor.clone()`)"
        )


def _most_bytes(path: Path) -> int:
    """What the tensors of a file may take together."""
    return _REPEATS * path.stat().st_size + _SLACK


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of all values, as float32 or larger."""
    return sum(tensor.numel() * max(tensor.element_size(), 4) for tensor in tensors)


def _plain_name(name: str) -> str:
    name = name.replace("._orig_mod.", ".")
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name
