"""Measurements on a GPU: `python -m benchmarks.gpu --output FOLDER`, from a source checkout with `PYTHONPATH=src`.

A suite is a module with `rows(settings) -> Iterator[Row]`; every row becomes a line of `FOLDER/<suite>.csv`. A suite
describes its work (`measure.Work`) and who can do it (`measure.Contender`), and `measure.rows` checks the results
against float64 first, then times all contenders in turns, then takes the peak memory. With `--dry` everything runs on
the CPU with tiny cases, the kernels in Triton's interpreter: nothing is measured, but the code is known to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        device: the card, or the CPU in a dry run.
        output: folder for tables and profiles.
        quick: fewer cases and repetitions: every suite within a few minutes.
        repetitions: timed calls of every contender.
        profile: write a profile of our own calls, one file per case.
    """

    device: torch.device
    output: Path
    quick: bool = False
    repetitions: int = 50
    profile: bool = False

    @property
    def dry(self) -> bool:
        """Whether there is no card: tiny cases, to see that everything runs."""
        return self.device.type == "cpu"
