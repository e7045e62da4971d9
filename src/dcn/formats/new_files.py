"""New files that never replace one that is there."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import TracebackType


class NewFiles:
    """A set of files that are written together: none replaces another's, and a failure leaves none behind,
    nor the folders made for them.

    Use it as a context: ``with NewFiles() as new: new.open(path)``.
    """

    def __init__(self) -> None:
        self._made: list[Path] = []
        self._folders: list[Path] = []

    def __enter__(self) -> NewFiles:
        return self

    def open(self, path: Path) -> io.BufferedWriter:
        """A new file, with the folders above it.

        Raises:
            ValueError: the file exists.
        """
        self._folders += [folder for folder in reversed(path.parents) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("xb")
        except FileExistsError as error:
            message = "exists already and is not replaced; choose another folder or remove it"
            raise ValueError(f"{path}: {message}") from error
        self._made.append(path)
        return file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for path in self._made:
                path.unlink(missing_ok=True)
            for folder in reversed(self._folders):
                with contextlib.suppress(OSError):  # somebody else's file is in it
                    folder.rmdir()
