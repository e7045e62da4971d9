"""The tables of the papers as lists of runs, with what was published for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dcn.engine.recipe import load_recipe
from dcn.models.zoo.published import PUBLISHED, Published

PAPER_TABLES = {
    "table1": "Table 1: number of deformable layers",
    "table2": "Table 2: effective dilation by size of the object",
    "table3": "Table 3: dilation, deformable convolution, deformable RoI pooling",
    "table4": "Table 4: parameters and forward time",
    "table5": "Table 5: COCO",
    "voc": "Pascal VOC 2007: README of the original code, and the paper where that has no number",
    "coco": "COCO: README of the original code",
    "fpn": "FPN on COCO: README of the original code",
    "deeplab": "DeepLab: README of the original code",
    "zoo": "mmdetection's models on COCO",
}

_README, _MMDETECTION = "README", "mmdetection"


@dataclass(frozen=True)
class Line:
    """One row of a table: a run and what was published for it.

    Attributes:
        model: name of ``dcn models``.
        recipe: name or file of the recipe that is evaluated.
        published: by name of the metric, in percent.
        data: what the published numbers were measured on.
        source: who published them, and where.
    """

    model: str
    recipe: str
    published: dict[str, float]
    data: str
    source: str


def lines_of(table: str) -> list[Line]:
    """The rows of a table, plain before deformable.

    Raises:
        ValueError: the table has no trainings of its own (``table4``), or its name is unknown.
    """
    if table == "table2":
        return [Line(TABLE2_MODEL, TABLE2_RECIPE, {}, "VOC 2007 test", "the paper (ICCV 2017), table 2")]
    if table not in _SELECTED:
        raise ValueError(f"table: expected one of {', '.join(PAPER_TABLES)}, got {table!r}")
    chosen = _SELECTED[table]
    rows = [(model, row) for model, own in PUBLISHED.items() for row in own if chosen(row)]
    if table == "voc":
        rows = _readme_first(rows)
    return [Line(model, row.recipe, row.numbers, row.data, row.source) for model, row in rows]


def _of_table(number: int) -> Callable[[Published], bool]:
    names = (f"table {number}", f"tables {number} and", f"and {number}")
    return lambda row: any(name in row.source for name in names)


_SELECTED: dict[str, Callable[[Published], bool]] = {
    "table1": _of_table(1),
    "table3": _of_table(3),
    "table5": _of_table(5),
    "voc": lambda row: row.recipe.endswith(("_r101_voc", "_r101_dcn_voc")),
    "coco": lambda row: _README in row.source and row.data == "COCO test-dev",
    "fpn": lambda row: _README in row.source and row.data == "COCO minival",
    "deeplab": lambda row: _README in row.source and "mIoU" in row.metrics,
    "zoo": lambda row: _MMDETECTION in row.source,
}


def _readme_first(rows: list[tuple[str, Published]]) -> list[tuple[str, Published]]:
    """One row for each recipe: the README's where it has one."""
    chosen: dict[str, tuple[str, Published]] = {}
    for model, row in sorted(rows, key=lambda item: _README not in item[1].source):
        chosen.setdefault(row.recipe, (model, row))
    order = [row.recipe for _, row in rows]
    return sorted(chosen.values(), key=lambda item: order.index(item[1].recipe))


TABLE2_MODEL, TABLE2_RECIPE = "rfcn_r101_dconv3", "rfcn_r101_dconv3_voc"

TABLE2: dict[str, dict[str, tuple[float, float]]] = {
    "c5.2": {"small": (5.3, 3.3), "medium": (5.8, 3.5), "large": (8.4, 4.5), "background": (6.2, 3.0)},
    "c5.1": {"small": (2.5, 1.3), "medium": (3.1, 1.5), "large": (5.1, 2.5), "background": (3.2, 1.2)},
    "c5.0": {"small": (2.2, 1.2), "medium": (2.9, 1.3), "large": (4.2, 1.6), "background": (3.1, 1.1)},
}
"""Table 2: mean and standard deviation by layer (res5c, res5b, res5a) and by what lies at the filter's centre."""


@dataclass(frozen=True)
class Download:
    """Files that a run needs and that this package does not bring.

    Attributes:
        folder: where they belong, below ``--data``.
        files: names under which they are published.
        then: what must be in the folder afterwards.
    """

    folder: str
    files: tuple[str, ...]
    then: str


DOWNLOADS: dict[str, Download] = {
    "VOCdevkit": Download(
        "VOCdevkit",
        ("VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar"),
        "VOCdevkit/VOC2007 and VOCdevkit/VOC2012 with JPEGImages, Annotations and ImageSets",
    ),
    "VOCdevkit/VOC2012": Download(
        "VOCdevkit",
        ("VOCtrainval_11-May-2012.tar",),
        "VOCdevkit/VOC2012 with JPEGImages, SegmentationClass and ImageSets/Segmentation",
    ),
    "SBD": Download("SBD", ("benchmark.tgz",), "cls, train.txt and val.txt of the Semantic Boundaries Dataset"),
    "coco": Download(
        "coco",
        ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip"),
        "train2017, val2017 and annotations",
    ),
    "cityscapes": Download(
        "cityscapes",
        ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
        "leftImg8bit and gtFine (an account of the Cityscapes site is needed)",
    ),
}
"""By folder below ``--data``."""

IMAGES = {
    ("VOCdevkit", "2007_trainval+2012_trainval"): 16_551,
    ("VOCdevkit/VOC2012", "train_aug"): 10_582,
    ("coco", "train2017"): 117_266,
    ("cityscapes", "train"): 2_975,
}
"""Training images by folder and split: what the lengths of trainings are estimated from without the data."""


def images_of(recipe: str) -> int | None:
    """Training images of a shipped recipe; ``None`` where it is not known."""
    data = load_recipe(recipe).data
    return IMAGES.get((folder_of(data.root), data.train))


def folder_of(root: str | None) -> str:
    """The folder below ``--data`` that stands for a recipe's ``data.root``."""
    return (root or "").removeprefix("data/")
