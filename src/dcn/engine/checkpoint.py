"""Files that survive a kill: weights as safetensors with what rebuilds the network, and the trainer's state."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STATE_FILE = "trainer.pt"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that after a crash either the old or the whole new content is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about its network.

    Attributes:
        model: name in the zoo.
        classes: class names in the order of the labels.
        options: keyword options of the builder.
        step: updates made, where training wrote the file.
    """

    model: str
    classes: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    step: int | None = None


def save_weights(
    path: str | Path,
    model: nn.Module,
    name: str,
    options: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    step: int | None = None,
) -> None:
    """Write the weights and what rebuilds the network as one safetensors file, atomically.

    Args:
        path: the file.
        model: its ``state_dict`` is written; ``model.classes`` gives the class names unless ``classes`` does.
        name: of the network in the zoo.
        options: keyword options it was built with; must be JSON data.
        classes: class names.
        step: updates made so far.
    """
    from safetensors.torch import save

    names = model.classes if classes is None else classes
    metadata = {"model": name, "options": json.dumps(dict(options)), "classes": json.dumps(list(names))}  # type: ignore[arg-type]  # nn.Module attributes are untyped
    if step is not None:
        metadata["step"] = str(step)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_atomically(Path(path), save(state, metadata))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Read a file of :func:`save_weights`.

    Raises:
        ValueError: the file is missing, not safetensors, or says nothing about its network.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ValueError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    if not {"model", "classes"} <= metadata.keys():
        raise ValueError(f"{path}: the file does not name its network; give the name, and this file as the weights")
    step = int(metadata["step"]) if "step" in metadata else None
    options = json.loads(metadata.get("options", "{}"))
    return state, WeightsInfo(metadata["model"], tuple(json.loads(metadata["classes"])), options, step)


class Checkpoints:
    """The weights and the trainer state of a run folder as one unit.

    ``trainer.pt`` names the weights file that belongs to it and is replaced after that file is complete; so whatever
    moment the process is killed at, the state and the weights it names are of the same step.

    Args:
        folder: the run folder.
        name: of the network in the zoo.
        options: keyword options it was built with.
    """

    def __init__(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        self.folder, self.name, self.options = folder, name, options

    def save(self, model: nn.Module, step: int, state: dict[str, Any]) -> None:
        """Write weights and state of update ``step``; ``last.safetensors`` is the same file under a steady name."""
        weights = self.folder / "weights" / f"step_{step:08d}.safetensors"
        save_weights(weights, model, self.name, self.options, step=step)
        self._write_state({**state, "step": step, "weights": weights.name})
        _link(weights, weights.with_name("last.safetensors"))
        for old in weights.parent.glob("step_*.safetensors"):
            if old != weights:
                old.unlink()

    def save_best(self, model: nn.Module, step: int) -> None:
        """Write ``best.safetensors``."""
        save_weights(self.folder / "weights" / "best.safetensors", model, self.name, self.options, step=step)

    def load(self, model: nn.Module) -> dict[str, Any] | None:
        """Put the saved weights into ``model`` and return the state; ``None`` where nothing was saved yet."""
        path = self.folder / STATE_FILE
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        weights, _ = read_weights(self.folder / "weights" / state["weights"])
        model.load_state_dict(weights)
        return state

    def _write_state(self, state: dict[str, Any]) -> None:
        import io

        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.folder / STATE_FILE, buffer.getvalue())


def _link(source: Path, name: Path) -> None:
    """Give a file a second name, replacing what stood there; a copy where the file system has no links."""
    temporary = name.with_name(f".{name.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        write_atomically(name, source.read_bytes())
        return
    temporary.replace(name)


def find_weights(run: Path) -> Path:
    """The best weights of a run folder, or the last ones where none was judged yet.

    Raises:
        ValueError: the folder holds neither.
    """
    for name in ("best", "last"):
        path = run / "weights" / f"{name}.safetensors"
        if path.is_file():
            return path
    raise ValueError(f"{run}: no weights/best.safetensors or weights/last.safetensors in this folder; is it a run?")
