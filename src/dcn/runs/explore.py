"""``dcn explore``: images through a model into the explorer's page."""

from __future__ import annotations

from collections.abc import Sequence
from os import fspath
from pathlib import Path
from typing import Any

import torch

from dcn.data.geometry import resize_image
from dcn.report.explorer import MIN_SCORE, Observation, observe, write_explorer
from dcn.runs.find_inputs import find_images
from dcn.runs.images import open_image
from dcn.runs.outputs import page_path
from dcn.runs.predict import open_predictor
from dcn.runs.predictor import Predictor
from dcn.runs.sources import StrPath

PAGE_FILE = "explorer.html"
"""The page in a folder."""

MOST_IMAGES = 24
"""Images on one page: each brings the offsets of all its layers, some megabytes."""


def explore(
    source: StrPath | Predictor,
    images: StrPath | Sequence[Any],
    output: StrPath = PAGE_FILE,
    *,
    weights: StrPath | None = None,
    min_score: float = MIN_SCORE,
    device: str | None = None,
    changes: Sequence[str] = (),
) -> Path:
    """Write an interactive page of what the units of a deformable model read, see :mod:`dcn.report.explorer`.

    >>> dcn.explore("runs/demo/deformable", ["photo.jpg"], "page.html")

    Args:
        source: a run folder, a weights file, a name of ``dcn models``, or a predictor.
        images: a file, folder or pattern, or a list of these and of arrays, tensors and ``PIL.Image``.
        output: the page to write, or a folder for its ``explorer.html``.
        weights: with a name: see :func:`dcn.load`.
        min_score: detections below this score are not shown.
        device: ``"cpu"``, ``"cuda"``, ...; ``None``: the GPU where there is one.
        changes: ``key=value`` words as of ``dcn predict``.

    Raises:
        ValueError: no such model or image, more than 24 images, or a model without a deformable layer.
    """
    path = page_path(output, PAGE_FILE)
    predictor = source if isinstance(source, Predictor) else open_predictor(source, weights, changes, device=device)
    predictor.task.check_score(min_score if predictor.task.default_score is not None else None)
    named = _named(images)
    if len(named) > MOST_IMAGES:
        raise ValueError(f"images: expected at most {MOST_IMAGES} on one page, got {len(named)}; name fewer")
    observations = [_observed(predictor, name, image, min_score) for name, image in named]
    title = f"Deformable sampling: {source if not isinstance(source, Predictor) else type(predictor.model).__name__}"
    return write_explorer(path, observations, title=title)


def _named(images: Any) -> list[tuple[str, Any]]:
    """Images and their names on the page."""
    items = [images] if isinstance(images, str | Path) or not isinstance(images, list | tuple) else list(images)
    named: list[tuple[str, Any]] = []
    for number, item in enumerate(items, start=1):
        if isinstance(item, str | Path):
            named += [(path.name, path) for path in find_images([fspath(item)])]
        else:
            named.append((f"image {number}", item))
    if not named:
        raise ValueError("images: expected at least one, got none")
    return named


def _observed(predictor: Predictor, name: str, image: Any, min_score: float) -> Observation:
    pixels = open_image(image)
    resized = resize_image(pixels, *predictor.size)[0]
    with torch.no_grad():
        return observe(predictor, resized, name=name, min_score=min_score)
