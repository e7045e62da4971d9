"""What every format begins with: a model's function, its record, and the inputs on which it is traced."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcn.export.metadata import Metadata, describe
from dcn.export.network import network_of
from dcn.models.inference import prepare
from dcn.models.inference.prepare import Precision

_CELLS = 4
"""Divisors per side of the example image with which a model of dynamic size is traced."""
_REMARKS = (
    "torch.fx.experimental.symbolic_shapes",
    "torch.onnx._internal.exporter._registration",
    "torch.export.pt2_archive._package",
    "onnxscript",
    "onnx_ir",
)
"""Loggers that speak of sizes of a trace, and of packages that this one does without."""


@dataclass(frozen=True)
class Form:
    """What is exported of a model.

    Attributes:
        size: ``(height, width)`` of the input; ``None``: any.
        batch: images of one call; ``None``: any number.
        raw: end before detections are selected, or before the class of a pixel is.
        precision: of weights and maps.
    """

    size: tuple[int, int] | None = None
    batch: int | None = 1
    raw: bool = False
    precision: str = "float32"


@dataclass(frozen=True)
class Function:
    """A model as a function, and how it is traced.

    Attributes:
        network: of :mod:`dcn.export.network`, in evaluation mode.
        metadata: the record.
        example: inputs.
        shapes: which of their axes are dynamic, as ``torch.export.export`` takes them; ``None``: none.
    """

    network: nn.Module
    metadata: Metadata
    example: tuple[Tensor, ...]
    shapes: tuple[Any, ...] | None


def function_of(model: nn.Module, name: str, form: Form) -> Function:
    """The function of a model.

    Args:
        model: a model of :func:`dcn.models.build` with its weights; it is not changed.
        name: the model's name, for the record.
        form: what is exported of it.

    Raises:
        ValueError: a model of another kind, a size that is no multiple of the model's divisor, or a batch below 1.
    """
    half: Precision = "float16" if form.precision == "float16" else "float32"
    ready = prepare(model, half)
    network = network_of(ready, form.raw).eval()
    metadata = describe(ready, name, form.size, precision=form.precision, batch=form.batch, raw=form.raw)
    divisor, size = metadata.divisor, form.size
    if size is not None and (min(size) < 1 or size[0] % divisor or size[1] % divisor):
        raise ValueError(f"size: expected multiples of {divisor}, got {size[0]}x{size[1]}")
    if form.batch is not None and form.batch < 1:
        raise ValueError(f"batch: expected 1 or more images, or None for any number, got {form.batch}")
    side = max(divisor, 32) * _CELLS
    example = _example(metadata, size or (side, side + max(divisor, 32)))
    return Function(network, metadata, example, _dynamic(metadata))


def _example(metadata: Metadata, size: tuple[int, int]) -> tuple[Tensor, ...]:
    # An axis of length 1 is taken for a constant.
    batch = metadata.batch or 2
    sizes = torch.tensor([size] * batch, dtype=torch.float32)
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
    if metadata.task != "detection":
        return images, sizes
    return (images, sizes, sizes * 1.5) if metadata.raw else (images, sizes, sizes * 1.5, torch.tensor(0.05))


def _dynamic(metadata: Metadata) -> tuple[Any, ...] | None:
    """Any size that is a multiple of the divisor, any number of images, or neither."""
    images: dict[int, Any] = {}
    rest: dict[int, Any] = {}
    if metadata.batch is None:
        images[0] = rest[0] = torch.export.Dim("batch", min=1)
    if metadata.size is None:
        images |= _any_size(metadata.divisor)
    if not images:
        return None
    if metadata.task != "detection":
        return images, rest
    return (images, rest, rest) if metadata.raw else (images, rest, rest, None)


def _any_size(divisor: int) -> dict[int, Any]:
    if divisor == 1:
        return {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    # Named after what they are multiplied by, since torch derives the input's size from them.
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    return {2: divisor * rows, 3: divisor * columns}


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings about itself: its own deprecations, and remarks on the sizes of a trace."""
    loggers = [logging.getLogger(name) for name in _REMARKS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary name beside a file, which takes the file's name at the end or is gone.

    Raises:
        OSError: the file cannot be written, said before the work begins; the message names the file.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename not in (str(temporary), str(path.parent)):
            raise
        number = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno  # of mkdir: the folder is a file
        raise OSError(number, os.strerror(number or 0), str(path)) from error
    finally:
        with suppress(OSError):  # a parent that is a file, say
            temporary.unlink()
