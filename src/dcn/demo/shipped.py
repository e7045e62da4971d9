"""What the demos show where the user names nothing: the models that come with the package, and generated images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dcn.data.datasets.synthetic import Synthetic
from dcn.engine import load_recipe
from dcn.runs.find_inputs import find_images
from dcn.runs.images import open_image

DETECTOR = "letters_detection"
SEGMENTER = "letters_segmentation"
"""Names of the recipes that trained them, see `dcn.runs.sources.shipped_models`."""

IMAGES = 4


def sample_images(count: int = IMAGES, model: str = DETECTOR) -> list[tuple[str, Tensor]]:
    """Generated images that a shipped model has not seen: those of the test split of its recipe."""
    options: dict[str, Any] = {**load_recipe(model).data.options, "length": count}
    dataset = Synthetic("test", **options)
    return [(f"letters_{index}", dataset[index].image) for index in range(count)]


def named_images(words: Sequence[str], model: str = DETECTOR) -> list[tuple[str, Tensor]]:
    """Names and pixels of image files, folders and patterns; where there is no word, those of :func:`sample_images`.

    Raises:
        ValueError: as :func:`dcn.runs.find_inputs.find_images`, or a file cannot be read.
    """
    if not words:
        return sample_images(model=model)
    return [(path.stem, open_image(path)) for path in find_images(words)]
