"""Files that survive a kill: weights as safetensors with what rebuilds the model, and the trainer's state.

Both carry checksums, the last two checkpoints are kept, and nothing that is not finite is written.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcn.checksums import TENSORS_KEY, check_tensors, tensors_checksum
from dcn.colors import Color, class_colors
from dcn.engine.atomic import link, write_atomically

LOGGER = logging.getLogger("dcn")

STATE_FILE = "trainer.pt"
PREVIOUS_FILE = "trainer_previous.pt"
_KEPT = 2
# What torch.load raises for files that are cut off, changed or of another kind.
_UNREADABLE = (
    RuntimeError,
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about its model.

    Attributes:
        model: name of the model.
        classes: class names in the order of the labels.
        options: keyword options of the builder.
        step: steps of training made, where training wrote the file.
        plugins: modules that the training used; names alone, nothing is imported because of them.
        colors: RGB (0..255) of each class, where the masks of the training had colours of their own.
    """

    model: str
    classes: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    plugins: tuple[str, ...] = ()
    colors: tuple[Color, ...] | None = None


def save_weights(
    path: str | Path,
    model: nn.Module,
    name: str,
    options: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    step: int | None = None,
    plugins: Sequence[str] = (),
) -> None:
    """Write the weights and what rebuilds the model as one safetensors file, atomically; equal weights, equal bytes.

    Args:
        path: the file.
        model: its ``state_dict`` is written; ``model.classes`` gives the class names unless ``classes`` does, and
            with them ``model.colors``, if there are any, their colours.
        name: of the model.
        options: keyword options it was built with; must be JSON data.
        classes: class names.
        step: steps of training made so far.
        plugins: names of the modules that added the model to the table, or were used in the training.
    """
    from safetensors.torch import save

    own: Any = model
    names, colors = (own.classes, getattr(own, "colors", None)) if classes is None else (classes, None)
    metadata = _metadata(WeightsInfo(name, tuple(names), dict(options), step, tuple(plugins), colors))
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata[TENSORS_KEY] = tensors_checksum(state, metadata)
    write_atomically(Path(path), *_with_ordered_metadata(save(state, metadata)))


def _with_ordered_metadata(content: bytes) -> tuple[bytes, memoryview]:
    """The same safetensors file with its metadata in alphabetical order; the library's order is random."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The data starts at a multiple of 8 bytes; the format allows spaces after the header.
    ordered += b" " * (-len(ordered) % 8)
    return struct.pack("<Q", len(ordered)) + ordered, memoryview(content)[8 + length :]


def halve_weights(source: str | Path, path: str | Path) -> None:
    """Write a weights file of half the size: numbers are rounded to float16, and read as float32 again.

    Raises:
        ValueError: as :func:`read_weights`, or a number is too large for float16.
    """
    from safetensors.torch import save

    state, info = read_weights(source)
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    if broken := not_finite(half.items()):
        raise ValueError(f"{source}: expected numbers that fit into float16, got others in {', '.join(broken)}")
    metadata = _metadata(info)
    metadata[TENSORS_KEY] = tensors_checksum(half, metadata)
    write_atomically(Path(path), *_with_ordered_metadata(save(half, metadata)))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Read a file of :func:`save_weights`.

    Raises:
        ValueError: the file is missing, damaged, not safetensors, or does not say which model it is for.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected weights of this package, got a file that is not safetensors, or is cut off ({error}); "
            "`dcn import` converts checkpoints of other programs"
        ) from None
    check_tensors(path, state, metadata)
    if not {"model", "classes"} <= metadata.keys():
        raise ValueError(f"{path}: the file does not name its model; give the name, and this file as the weights")
    try:
        return state, _info(metadata)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path}: the file is damaged: its metadata is not that of a weights file") from None


def _metadata(info: WeightsInfo) -> dict[str, str]:
    """What a file holds beside its tensors; :func:`_info` reads it."""
    metadata = {"model": info.model, "options": json.dumps(info.options), "classes": json.dumps(info.classes)}
    if info.step is not None:
        metadata["step"] = str(info.step)
    if info.plugins:
        metadata["plugins"] = json.dumps(info.plugins)
    if info.colors is not None:
        metadata["colors"] = json.dumps(info.colors)
    return metadata


def _info(metadata: Mapping[str, str]) -> WeightsInfo:
    step = int(metadata["step"]) if "step" in metadata else None
    classes, options = json.loads(metadata["classes"]), json.loads(metadata.get("options", "{}"))
    plugins = json.loads(metadata.get("plugins", "[]"))
    if not isinstance(options, dict) or not isinstance(classes, list) or not isinstance(plugins, list):
        raise TypeError
    names, modules = tuple(map(str, classes)), tuple(map(str, plugins))
    colors = class_colors(json.loads(metadata["colors"]), len(names)) if "colors" in metadata else None
    return WeightsInfo(metadata["model"], names, options, step, modules, colors)


def not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors in which a value is NaN or infinite."""
    return [name for name, value in named if value.is_floating_point() and not bool(torch.isfinite(value).all())]


class Checkpoints:
    """The last two checkpoints of a run folder: weights and trainer state as one unit.

    ``trainer.pt`` names the weights file that belongs to it and is replaced after that file is complete; so whatever
    moment the process is killed at, the state and the weights it names are of the same step.

    Args:
        folder: the run folder.
        name: of the model.
        options: keyword options it was built with.
        plugins: modules that the training uses.

    Attributes:
        step: of the last good checkpoint; ``None``: there is none.
    """

    def __init__(self, folder: Path, name: str, options: Mapping[str, Any], plugins: Sequence[str] = ()) -> None:
        self.folder, self.name, self.options, self.plugins = folder, name, options, plugins
        self.step: int | None = None

    def save(self, model: nn.Module, step: int, state: dict[str, Any]) -> None:
        """Write weights and state of ``step``; ``last.safetensors`` is the same file under a steady name."""
        weights = self.folder / "weights" / f"step_{step:08d}.safetensors"
        save_weights(weights, model, self.name, self.options, step=step, plugins=self.plugins)
        if self.step not in (None, step):
            link(self.folder / STATE_FILE, self.folder / PREVIOUS_FILE)
        self._write_state({**state, "step": step, "weights": weights.name})
        link(weights, weights.with_name("last.safetensors"))
        self.step = step
        self._remove_old(weights)

    def _remove_old(self, newest: Path) -> None:
        """Keep the newest files up to this step; later ones are of a run that was taken back to an earlier step."""
        files = sorted(newest.parent.glob("step_*.safetensors"))
        kept = [path for path in files if path.name <= newest.name][-_KEPT:]
        for path in files:
            if path not in kept:
                path.unlink()

    def save_best(self, model: nn.Module, step: int) -> None:
        """Write ``best.safetensors``."""
        path = self.folder / "weights" / "best.safetensors"
        save_weights(path, model, self.name, self.options, step=step, plugins=self.plugins)

    def load(self, model: nn.Module) -> dict[str, Any] | None:
        """Put the saved weights into ``model`` and return the state; ``None`` where nothing was saved yet.

        A damaged checkpoint is named in the log, and the one before is taken.

        Raises:
            ValueError: both are damaged, or they are of another model.
        """
        problems: list[str] = []
        for name in (STATE_FILE, PREVIOUS_FILE):
            if not (self.folder / name).is_file():
                continue
            try:
                state, weights = self._read(name)
            except ValueError as error:
                problems.append(str(error))
                continue
            _load_weights(model, weights, self.folder)
            if problems:
                LOGGER.warning("%s; the checkpoint before it is used: step %d", "; ".join(problems), state["step"])
            if name == PREVIOUS_FILE:
                link(self.folder / PREVIOUS_FILE, self.folder / STATE_FILE)
            self.step = state["step"]
            return state
        if problems:
            raise ValueError(
                f"{'; '.join(problems)}; no other checkpoint is there. To train again from step 0, delete {STATE_FILE} "
                f"and {PREVIOUS_FILE}; to start a new run from weights that are whole, use model.weights=FILE"
            )
        return None

    def _read(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        path = self.folder / name
        state = read_state(path)
        weights, info = read_weights(self.folder / "weights" / Path(str(state["weights"])).name)
        if info.step != state["step"]:
            raise ValueError(
                f"{path}: expected weights of its step {state['step']}, got step {info.step} in {state['weights']}"
            )
        return state, weights

    def _write_state(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / STATE_FILE, buffer.getbuffer())

    def what_is_there(self) -> str:
        """What can be resumed, for the end of a message."""
        if self.step is None:
            return "no checkpoint was saved yet"
        return f"the last good checkpoint is that of step {self.step}; `dcn train --resume {self.folder}` resumes it"


def read_state(path: Path) -> dict[str, Any]:
    """Read a trainer state; nothing in it is run, and its checksums are compared.

    Raises:
        ValueError: it is damaged, or not a trainer state.
    """
    try:
        # The archive has a checksum for each record, which torch.load does not look at.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path}: the file is damaged or cut off ({reason or type(error).__name__})") from None
    if damaged is not None:
        raise ValueError(f"{path}: the file is damaged: its contents do not match its checksum")
    if not isinstance(state, dict) or not {"step", "weights"} <= state.keys():
        raise ValueError(f"{path}: expected the state of a training, got something else")
    return state


def _load_weights(model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{folder}: the checkpoint is of another model than the recipe names; resume with the settings of model "
            f"and data that the run has, or start a new run with model.weights={folder} ({detail})"
        ) from None


def find_weights(run: Path) -> Path:
    """The best weights of a run folder, or the last ones where none was evaluated yet.

    Raises:
        ValueError: the folder holds neither.
    """
    for name in ("best", "last"):
        path = run / "weights" / f"{name}.safetensors"
        if path.is_file():
            return path
    raise ValueError(
        f"{run}: expected weights/best.safetensors or weights/last.safetensors, got neither; is it a run folder?"
    )
