"""What a network of the zoo costs: parameters, and multiply-adds for one image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dcn.analysis import Count

LEVELS = 4
"""Pyramid levels that regions are pooled from."""


def model_costs(name: str, size: tuple[int, int] | None = None) -> tuple[int, Count]:
    """Parameters and multiply-adds of a network with its default options; nothing is allocated or computed.

    Detectors are counted with as many regions as they keep in evaluation and, where they have masks, with as many masks
    as they keep detections: the most that an image can cost.

    Args:
        name: a key of :data:`dcn.models.MODELS`.
        size: ``(height, width)`` of the image; ``None``: the network's test size, width the longer side.
    """
    import torch

    from dcn.analysis import count_multiply_adds, count_parameters
    from dcn.models import MODELS
    from dcn.models.detection.original_box_head import LevelRoIPool
    from dcn.models.detection.roi_extractor import RoIExtractor

    with torch.device("meta"):
        model: Any = MODELS[name]()
    model = model.eval().to("meta")  # what was made by NumPy stood on the CPU
    size = size or model.test_size
    divisor = model.preprocess.divisor
    pixels = torch.empty(1, 3, *(-(-side // divisor) * divisor for side in size), device="meta")
    run = _prediction(model, pixels, size)
    return count_parameters(model), count_multiply_adds(model, run, {RoIExtractor: LEVELS, LevelRoIPool: LEVELS})


def _prediction(model: Any, pixels: Tensor, size: tuple[int, int]) -> Callable[[], object]:
    """The call from normalised pixels ``[1, 3, H, W]`` to scores, or to detections that nobody waits for."""
    import torch

    from dcn.models.detection.padded import make_frames
    from dcn.models.segmentation import DeepLab

    if isinstance(model, DeepLab):
        return lambda: model.scores(pixels)
    padded = pixels.shape[2], pixels.shape[3]
    frames = make_frames([size], [size], torch.device("cpu"), clipped=[padded])
    frames = replace(frames, **{field: value.to("meta") for field, value in vars(frames).items()})
    return lambda: model.detect(pixels, frames, model.score_threshold)
