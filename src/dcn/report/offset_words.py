"""What the history of a run says about its offsets, in words: whether they moved at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OFFSETS = "offsets/"
"""What the names of their numbers begin with in ``metrics.jsonl``."""
_STILL = 0.05
"""Offsets of convolutions whose mean is below this many cells are called near zero."""
_STILL_BINS = 0.02
"""Offsets of RoI pooling whose mean is below this share of the region's side are called near zero. On generated shapes
Faster R-CNN with offsets of 0.02 had 4 points of AP less than with 0.08 and 0.16 (docs/does_it_help.md)."""


def last_offset(history: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The last number that the rows of ``metrics.jsonl`` hold of the offsets: ``"mean"``, ``"pool"``, ..."""
    key = f"{OFFSETS}{name}"
    return next((float(row[key]) for row in reversed(history) if row.get(key) is not None), None)


def near_zero(convolutions: float | None, pooling: float | None) -> str:
    """What to say about offsets that hardly moved; empty where they moved.

    Args:
        convolutions: mean offset of deformable convolutions in cells of their input; ``None``: there are none.
        pooling: mean offset of deformable RoI pooling as a share of the region's side; ``None`` likewise.
    """
    said = []
    if convolutions is not None and convolutions < _STILL:
        said.append("The offsets stayed near zero: the deformable layers are still almost ordinary convolutions.")
    if pooling is not None and pooling < _STILL_BINS:
        said.append("The offsets of RoI pooling stayed near zero: its bins are still where they are without them.")
    if said:
        said.append(
            "More steps move them further, and so does AdamW: schedule.optimizer=adamw schedule.lr=0.0002 "
            "schedule.lr_batch_size=null schedule.weight_decay=0.02."
        )
    return " ".join(said)
