"""Training and evaluation stop at the first problem of the data; its message ends with the command that lists all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from dcn.data.auto import AUTO
from dcn.engine.config import DataConfig
from dcn.engine.log import shell_command

T = TypeVar("T")


@contextmanager
def naming_the_check(data: DataConfig) -> Iterator[None]:
    """Add the command ``dcn data check`` to an error that names a file of the data.

    Args:
        data: of the recipe.

    Raises:
        ValueError: of the type that was raised inside.
    """
    try:
        yield
    except ValueError as error:
        root = "" if data.root is None else str(Path(data.root).expanduser())
        if not root or not str(error).startswith(root + os.sep) or "`dcn data check" in str(error):
            raise
        raise type(error)(f"{error}; `{check_command(data, root)}` lists all problems of the data") from error


def checked(batches: Iterator[T], data: DataConfig) -> Iterator[T]:
    """The same batches; an error about a file of the data names the command."""
    with naming_the_check(data):
        yield from batches


def check_command(data: DataConfig, root: str) -> str:
    """The command that checks the data of a recipe with its options, as far as the command line has them."""
    words = [] if data.format == AUTO else ["--format", data.format]
    words += ["--classes", ",".join(data.classes)] if data.format == "voc" and data.classes is not None else []
    for name in ("annotations", "images", "colors", "unknown_colors"):
        value = data.options.get(name)
        words += [f"--{name.replace('_', '-')}", value] if isinstance(value, str) else []
    words += ["--upright"] if data.options.get("upright") is True else []
    return shell_command("dcn", "data", "check", root, *words)
