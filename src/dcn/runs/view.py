"""How a model looks at images: once, or several times with test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """One way to run a model.

    Attributes:
        size: ``(shorter side, largest longer side)`` to which images are resized before they are given to ``run``;
            ``None``: ``run`` takes them as they are.
        run: ``run(images, output_sizes, min_score)`` gives one prediction for each image ``[3, H, W]`` uint8, on the
            device of the model. ``output_sizes``: ``(height, width)`` in whose pixels predictions are given, by default
            those of ``images``. ``min_score``: the score threshold, by default the model's own.
    """

    size: Size | None
    run: Callable[[Sequence[Tensor], Sequence[Size] | None, float | None], list[Any]]
