"""SIGINT and SIGTERM end a training after the step that is running."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NOTE = b"\nstopping after this step; a second signal stops at once\n"


@contextmanager
def stop_requests(tell: bool = False) -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM in the list that is given; a second one acts at once.

    Outside the main thread signals cannot be caught, and the list stays empty.

    Args:
        tell: say on standard error that the request was heard.
    """
    seen: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)
        if tell:
            os.write(2, _NOTE)
        for name, handler in before.items():
            signal.signal(name, handler)

    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            before[name] = signal.signal(name, note)
    except ValueError:
        before.clear()
    try:
        yield seen
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
