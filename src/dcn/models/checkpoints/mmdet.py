"""Checkpoints of mmdetection 2.x and 3.x: the names are ours but for the oldest form of the offset branches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dcn.class_names import CITYSCAPES_CLASSES, COCO_CLASSES, class_names
from dcn.models.checkpoints.reading import MOST_NAMES, StateFile, read_state

# Before version 2 of mmcv's operator the branch stood beside its layer: "conv2_offset" instead of "conv2.conv_offset".
_OLD_BRANCH = re.compile(r"(\.conv\d)_offset\.(weight|bias)$")


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under today's names.

    Raises:
        ValueError: a tensor is there under its old and its new name.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        new = _OLD_BRANCH.sub(r"\1.conv_offset.\2", name)
        if new != name and new in state:
            raise ValueError(f"{new}: expected once, got it under its old and its new name")
        renamed[new] = value
    return renamed


def _without_averages(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the running averages ``ema_backbone_conv1_weight`` that mmcv's hook keeps beside the weights."""
    averages = {"ema_" + name.replace(".", "_") for name in state}
    return {name: value for name, value in state.items() if name not in averages}


def is_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a whole detector."""
    return any(name.startswith("backbone.") for name in state)


def is_backbone_alone(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a classifier of mmpretrain, or of its backbone: nothing else but ``head.fc``."""
    others = (name for name in state if not name.startswith("backbone."))
    return is_detector(state) and all(name.startswith(("head.fc.", "data_preprocessor.")) for name in others)


def backbone_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the backbone alone, under their names inside of it."""
    prefix = "backbone."
    return {name.removeprefix(prefix): v for name, v in rename(state).items() if name.startswith(prefix)}


def classes_of(file: StateFile) -> tuple[str, ...] | None:
    """The names of the classes that a checkpoint carries in ``meta``.

    Early files write the names of COCO with underscores (``traffic_light``); they become the names of the data set.
    Without names, those of the data set that has as many classes as the classifier has rows for (80: COCO, 20: VOC),
    else numbers; ``None`` for a model without such a classifier.

    Raises:
        ValueError: the file states no or more classes than any data set has.
    """
    stated = file.meta.get("dataset_meta")  # mmdetection 3
    meta = dict(stated) if isinstance(stated, Mapping) else file.meta
    names = meta.get("CLASSES", meta.get("classes"))
    if isinstance(names, list | tuple):
        return _plain_names(names)
    rows = [len(value) for name, value in file.tensors.items() if name.endswith("fc_cls.bias")]
    if not rows:
        return None
    _check_count(rows[0] - 1)
    return class_names(rows[0] - 1)  # the last row is the background


def _plain_names(names: Sequence[object]) -> tuple[str, ...]:
    _check_count(len(names))
    plain = tuple(map(str, names))
    spaced = tuple(name.replace("_", " ") for name in plain)
    return spaced if spaced in (COCO_CLASSES, CITYSCAPES_CLASSES) else plain


def _check_count(count: int) -> None:
    if not 0 < count <= MOST_NAMES:
        raise ValueError(f"classes: expected 1 to {MOST_NAMES:,} in a checkpoint, got {count:,}")


def read_detector(path: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """A whole detector: tensors under our names, and the names of its classes (:func:`classes_of`).

    Running averages beside the weights are left out.

    Raises:
        ValueError: for a file that cannot be read (:func:`dcn.models.checkpoints.read_state`) or holds no detector.
    """
    return detector_in(read_state(path), path)


def detector_in(file: StateFile, path: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """What :func:`read_detector` returns, of a file that was read; ``path`` is for the message."""
    if not is_detector(file.tensors):
        raise ValueError(
            f"{path}: expected a detector of mmdetection (names 'backbone. ...'), "
            f"got names such as {', '.join(list(file.tensors)[:3])}"
        )
    return rename(_without_averages(file.tensors)), classes_of(file)
