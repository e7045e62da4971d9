"""What a run records about its data where the layout was recognised: what it was taken for, and the split."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from dcn.data.auto import AUTO, find_layout
from dcn.data.catalog import FORMATS
from dcn.data.dataset import Dataset
from dcn.data.datasets.outlines import Outlines
from dcn.data.splitting import SplitPart
from dcn.engine.config import Recipe
from dcn.formats.color_tables import color_table
from dcn.formats.documents import read_json
from dcn.formats.splits import SPLITS_FILE
from dcn.models import MODELS

LOGGER = logging.getLogger("dcn")


def with_used_plugins(recipe: Recipe) -> Recipe:
    """The recipe with the names of the plug-ins that its model and its data format come from."""
    data = recipe.data
    format = data.format
    if format == AUTO and data.root is not None and Path(data.root).expanduser().is_dir() and FORMATS.has_plugins:
        format = find_layout(FORMATS, Path(data.root).expanduser()).format
    used = (MODELS.plugin_of(recipe.model.name), FORMATS.plugin_of(format))
    names = dict.fromkeys((*recipe.plugins, *(name for name in used if name is not None)))
    return replace(recipe, plugins=tuple(names))


def with_color_table(recipe: Recipe) -> Recipe:
    """The recipe with the colours of the masks in place of the file that says them: a run needs no file beside it."""
    data = recipe.data
    said = data.options.get("colors")
    if not isinstance(said, str) or data.root is None:
        return recipe
    table = color_table(said, Path(data.root).expanduser())
    return replace(recipe, data=replace(data, options={**data.options, "colors": table.to_dict()}))


def record_data(recipe: Recipe, training: Dataset, folder: Path) -> None:
    """Log what the folder of the data was taken for, and write ``splits.json`` into the run folder.

    Raises:
        ValueError: the run is resumed, and the images would be split in another way than before.
    """
    if recipe.data.format != AUTO or recipe.data.root is None:
        return
    record = _record(Path(recipe.data.root).expanduser(), training)
    path = folder / SPLITS_FILE
    if path.is_file():
        if read_json(path) != record:
            raise ValueError(
                f"{path}: the images of {recipe.data.root} are split in another way than when the run began, so "
                "that images of the validation may have been trained on; restore the data, or begin a new run"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _record(root: Path, training: Dataset) -> dict[str, Any]:
    layout = find_layout(FORMATS, root)
    LOGGER.info("data: %s: taken for %s (%s)", root, layout.format, layout.says)
    record: dict[str, Any] = {"format": layout.format, "layout": layout.says}
    training = training.dataset if isinstance(training, Outlines) else training
    if isinstance(training, SplitPart):
        origin = f"recorded in {root / SPLITS_FILE}" if layout.recorded else "made, as the folder has none"
        LOGGER.info("data: split %s: %s", origin, training.splits)
        return {**record, **training.splits.to_dict()}
    return {**record, "splits": dict(layout.roles)}
