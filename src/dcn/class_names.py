"""Names of the classes of the public data sets, in the order of their labels, without background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

IGNORE = 255
"""Label of pixels that belong to no class: they are neither trained nor evaluated."""

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Pascal VOC, alphabetical."""

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
"""COCO detection, by rising category id."""

CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Cityscapes, the 19 classes that are trained, by train id."""

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
"""CamVid in the 11 classes of SegNet."""


def class_names(count: int) -> tuple[str, ...]:
    """Names for ``count`` classes of which nothing else is known: COCO's for 80, VOC's for 20, else numbers."""
    return {80: COCO_CLASSES, 20: VOC_CLASSES}.get(count, tuple(f"class_{index}" for index in range(count)))


MOST_CLASSES = 100_000
"""More classes than any dataset has; a file that names more is refused before memory is taken for them."""


def check_class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Class names as a tuple.

    Raises:
        ValueError: a single text (it would be taken for its letters), something that is no text, no name, a name
            twice, or more than `MOST_CLASSES`.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes: expected a list of names, got the text {classes[:60]!r}; write [{classes[:60]!r}]")
    if len(classes) > MOST_CLASSES:
        raise ValueError(f"classes: expected at most {MOST_CLASSES} names, got {len(classes)}")
    names = tuple(classes)
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong:
        raise ValueError(f"classes: expected names that are texts, got {str(wrong[0])[:60]!r}")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if not names or twice:
        repeated = f" (repeated: {', '.join(twice[:5])})" if twice else ""
        raise ValueError(f"classes: expected one or more different names, got {len(names)}{repeated}")
    return names
