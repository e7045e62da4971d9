"""What an exported file says about its model: the record that travels inside of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from dcn import __version__
from dcn.colors import Color, class_colors

KEY = "dcn"
"""Name of the record in a file."""
FORMAT = 1


@dataclass(frozen=True)
class Metadata:
    """What a file says about its model.

    Attributes:
        task: ``"detection"`` or ``"segmentation"``.
        model: name of the model.
        classes: names, in the order of the labels.
        test_size: shorter side and largest longer side to which images are resized before they are given.
        divisor: height and width of the input are multiples of it.
        size: ``(height, width)`` of the input, or ``None`` for any.
        masks: whether there are masks.
        score_threshold: of detections, where the caller does not say otherwise.
        max_detections: of an image.
        nms_iou: overlap above which a detection suppressed another of its class.
        precision: of weights and maps: ``"float32"``, ``"float16"`` or ``"int8"``.
        batch: images of one call; ``None``: any number.
        raw: whether the file ends before detections are selected, or before the class of a pixel is.
        inclusive_boxes: whether raw boxes end with their last pixel, see :class:`dcn.models.detection.Detector`.
        colors: RGB (0..255) of each class, where the model has colours of its own.
        version: of the package that wrote the file.
        format: of this record.
    """

    task: str
    model: str
    classes: tuple[str, ...]
    test_size: tuple[int, int]
    divisor: int
    size: tuple[int, int] | None
    masks: bool = False
    score_threshold: float = 0.0
    max_detections: int = 0
    nms_iou: float = 0.0
    precision: str = "float32"
    batch: int | None = 1
    raw: bool = False
    inclusive_boxes: bool = False
    colors: tuple[Color, ...] | None = None
    version: str = __version__
    format: int = FORMAT

    def to_json(self) -> str:
        """As text, for the file."""
        return json.dumps({key: value for key, value in asdict(self).items() if key != "colors" or value is not None})

    def __str__(self) -> str:
        size = "any size" if self.size is None else "{}x{}".format(*self.size)
        words = [self.model, self.task, size]
        words += [] if self.batch == 1 else [f"batches of {'any size' if self.batch is None else self.batch}"]
        words += ["raw outputs"] if self.raw else []
        return ", ".join([*words, self.precision])


def read_metadata(text: str | None, name: str) -> Metadata:
    """The record of a file named ``name``.

    Raises:
        ValueError: there is none, or not one that this version can read.
    """
    if not text:
        raise ValueError(
            f"{name}: expected a file of `dcn export`, got one without its metadata entry {KEY!r}; "
            "export the model with `dcn export`, or run the file with the program it is for"
        )
    try:
        fields = json.loads(text)
        if fields["format"] != FORMAT:
            raise ValueError(f"{name}: expected format {FORMAT}, got {fields['format']}; export the model anew")
        for key in ("classes", "test_size", "size"):
            fields[key] = None if fields[key] is None else tuple(fields[key])
        if fields.get("colors") is not None:
            fields["colors"] = class_colors(fields["colors"], len(fields["classes"]))
        return Metadata(**fields)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{name}: its metadata entry {KEY!r} is damaged ({error}); export the model anew") from error


def describe(model: Any, name: str, size: tuple[int, int] | None, **fields: Any) -> Metadata:
    """The record of a model.

    Args:
        model: a detector or a segmentation model.
        name: its name.
        size: of the input.
        fields: ``precision``, ``batch`` and ``raw``.
    """
    detector = model.task == "detection"
    limits = model.limits if detector else None
    return Metadata(
        task=model.task,
        model=name,
        classes=tuple(model.classes),
        test_size=(int(model.test_size[0]), int(model.test_size[1])),
        divisor=int(model.preprocess.divisor),
        size=size,
        masks=bool(model.has_masks) and not fields.get("raw", False),
        score_threshold=float(model.score_threshold) if detector else 0.0,
        max_detections=int(limits.max_detections) if limits else 0,
        nms_iou=float(limits.nms_iou) if limits else 0.0,
        inclusive_boxes=bool(model.inclusive_boxes) if detector else False,
        colors=None if detector else model.colors,
        **fields,
    )
