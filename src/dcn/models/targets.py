"""The check of what training is given, the same for every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


def check_targets(images: Sequence[Tensor], targets: Sequence[T] | None) -> Sequence[T]:
    """The targets, one per image.

    Raises:
        ValueError: there are none, or not as many as images, or no images.
    """
    if targets is None or len(targets) != len(images) or not images:
        got = "None" if targets is None else len(targets)
        raise ValueError(
            f"targets: expected one per image in training mode ({len(images)} images), got {got}; "
            "call .eval() first to predict"
        )
    return targets
