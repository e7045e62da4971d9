"""The verbs of ``dcn data`` that split, convert and measure a folder of data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dcn.cli.words import add_colors, add_outside, colors_of
from dcn.data.auto import AUTO, TEST_SHARE, VAL_SHARE, find_layout, split_of_pool
from dcn.data.catalog import FORMATS, find_format, open_dataset, options_of
from dcn.data.converting import FORMATS as WRITTEN
from dcn.data.converting import convert
from dcn.data.dataset import Dataset
from dcn.data.pixel_statistics import has_masks, pixel_counts, pixel_statistics, pixel_table
from dcn.data.statistics import (
    DEFAULT_RATIOS,
    DEFAULT_SCALE,
    Anchors,
    BoxSizes,
    best_scale,
    box_sizes,
    evaluate_anchors,
    propose_anchors,
    statistics,
    statistics_table,
)
from dcn.formats.splits import SPLITS_FILE, write_splits


def add_verbs(verbs: Any) -> None:
    """Add ``split``, ``convert``, ``stats`` and ``anchors``."""
    split = verbs.add_parser("split", help="divide images into train, val and test, and record it in splits.json")
    split.add_argument("path", type=Path, help="folder in a known layout")
    split.add_argument("--val", type=float, default=VAL_SHARE, help=f"share for validation (default {VAL_SHARE})")
    split.add_argument("--test", type=float, default=TEST_SHARE, help=f"share for the test (default {TEST_SHARE})")
    split.add_argument("--seed", type=int, default=0, help="of the random choice (default 0)")
    split.add_argument("-o", "--output", type=Path, help=f"file to write (default: {SPLITS_FILE} in the folder)")
    add_outside(split)
    add_colors(split)
    split.set_defaults(run=_split)
    to = verbs.add_parser("convert", help="write images and their objects in another format")
    to.add_argument("path", type=Path, help="folder in a known layout")
    to.add_argument("--to", choices=WRITTEN, required=True, help="the format to write")
    to.add_argument("-o", "--output", type=Path, required=True, help="folder to write; no file in it is replaced")
    to.add_argument("--boxes", action="store_true", help="write boxes alone, where there are polygons or masks too")
    add_outside(to)
    to.set_defaults(run=_convert)
    stats = verbs.add_parser("stats", help="sizes, aspect ratios and numbers of objects; or pixels of each class")
    _add_input(stats)
    stats.add_argument("--format", help="such as coco, voc or yolo (default: detected from the layout)")
    add_colors(stats)
    stats.add_argument("--semantic", action="store_true", help="count the pixels of outlines instead of boxes")
    stats.add_argument("--plot", type=Path, help="write the diagrams as a PNG")
    stats.set_defaults(run=_stats)
    anchors = verbs.add_parser("anchors", help="propose anchor_scale and ratios for the objects of a folder")
    _add_input(anchors)
    anchors.add_argument("--ratios", type=int, default=3, help="how many ratios (default 3)")
    anchors.set_defaults(run=_anchors)


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="folder in a known layout")
    parser.add_argument("--split", help="one split (default: all images)")
    short, long = "shorter side to which images are resized, as", "upper limit of the longer side, as"
    parser.add_argument("--short", type=int, default=800, help=f"{short} transforms.short (default 800)")
    parser.add_argument("--long", type=int, default=1333, help=f"{long} transforms.long (default 1333)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_outside(parser)


def open_splits(root: Path, split: str | None = None, format: str | None = None, **options: Any) -> dict[str, Dataset]:
    """The splits of a folder by name: those for training, validation and test, or all that there is."""
    if format not in (None, AUTO):
        return _open_as(root, split, format, options)
    layout = find_layout(FORMATS, root)
    known = options_of(layout.format)
    options = {name: value for name, value in options.items() if name in known}
    if split is not None:
        return {split: open_dataset(AUTO, root, split, **options)}
    if layout.is_split:
        return {name: open_dataset(AUTO, root, name, **options) for name in layout.names}
    if layout.format == "voc":
        options["classes"] = "auto"
    names = {"train": layout.pool} | ({"test": layout.roles["test"]} if "test" in layout.roles else {})
    return {name: open_dataset(layout.format, root, part, **options) for name, part in names.items()}


def _open_as(root: Path, split: str | None, format: str, options: dict[str, Any]) -> dict[str, Dataset]:
    """The splits that a folder has in a format."""
    row, known = find_format(format), options_of(format)
    if row.splits is None:
        raise ValueError(f"format: expected one that has files, got {format!r}, which is generated")
    options = {name: value for name, value in options.items() if name in known}
    if format == "voc":
        options["classes"] = "auto"
    names = [split] if split is not None else row.splits(root)
    if not names:
        raise ValueError(f"{root}: expected a folder in the layout of {format!r} ({row.says}), got another one")
    return {name: open_dataset(format, root, name, **options) for name in names}


def _split(arguments: argparse.Namespace) -> int:
    """Make and record a split."""
    root = arguments.path.expanduser()
    layout = find_layout(FORMATS, root)
    if layout.recorded is not None:
        raise ValueError(f"{root / SPLITS_FILE}: the folder is split already; remove the file to split it anew")
    if layout.is_split:
        raise ValueError(f"{root}: expected a folder without a split, got one with {', '.join(layout.splits)}")
    dataset = next(iter(open_splits(root, masks=False, outside=arguments.outside, **colors_of(arguments)).values()))
    splits = split_of_pool(dataset, root, layout, arguments.val, arguments.test, arguments.seed)
    path = arguments.output or root / SPLITS_FILE
    write_splits(path, splits)
    print(f"{root}: {layout.format} ({layout.says})\n{path}: {splits}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    """Write a folder in another format; 1 where a box or polygon moved too far."""
    root = arguments.path.expanduser()
    layout = find_layout(FORMATS, root)
    datasets = open_splits(root, masks=arguments.to == "coco" and not arguments.boxes, outside=arguments.outside)
    result = convert(datasets, arguments.to, arguments.output.expanduser(), boxes=arguments.boxes)
    print(f"{root}: {layout.format} ({layout.says})\n{arguments.output}: {result}")
    return 1 if result.far else 0


def _sizes(arguments: argparse.Namespace) -> BoxSizes:
    datasets = open_splits(arguments.path.expanduser(), arguments.split, masks=False, outside=arguments.outside)
    return box_sizes(list(datasets.values()), arguments.short, arguments.long)


def _stats(arguments: argparse.Namespace) -> int:
    """Print statistics, and draw them."""
    root, semantic = arguments.path.expanduser(), arguments.semantic
    options: dict[str, Any] = {"semantic": True} if semantic else {"masks": False, "unlabelled": "keep"}
    options |= {"outside": arguments.outside, **colors_of(arguments)}
    datasets = list(open_splits(root, arguments.split, arguments.format, **options).values())
    if has_masks(datasets):
        return _pixel_stats(arguments, datasets)
    sizes = box_sizes(datasets, arguments.short, arguments.long)
    content = statistics(sizes)
    print(json.dumps(content, indent=1) if arguments.json else statistics_table(content))
    if arguments.plot is not None:
        from dcn.vis.data_plots import data_histograms

        columns = {
            "side of objects at the model's input, pixels (log)": sizes.sides.tolist(),
            "height / width of objects (log)": sizes.ratios.tolist(),
            "objects per image": list(sizes.per_image),
        }
        counts = {name: entry["objects"] for name, entry in content["classes"].items()}
        arguments.plot.write_bytes(data_histograms(columns, counts))
    return 0


def _pixel_stats(arguments: argparse.Namespace, datasets: list[Dataset]) -> int:
    """Print how many pixels and images each class has, and draw it."""
    content = pixel_statistics(pixel_counts(datasets))
    print(json.dumps(content, indent=1) if arguments.json else pixel_table(content))
    if arguments.plot is not None:
        from dcn.vis.data_plots import class_bars

        columns = {"share of the pixels": "share", "images with the class": "images"}
        rows = {
            title: {name: entry[key] for name, entry in content["classes"].items()} for title, key in columns.items()
        }
        arguments.plot.write_bytes(class_bars(rows))
    return 0


def _anchors(arguments: argparse.Namespace) -> int:
    """Print the anchors that fit, beside the default ones."""
    sizes = _sizes(arguments)
    proposals = {
        "default": evaluate_anchors(sizes, DEFAULT_SCALE, DEFAULT_RATIOS),
        "scale alone": best_scale(sizes, DEFAULT_RATIOS),
        "scale and ratios": propose_anchors(sizes, arguments.ratios),
    }
    if arguments.json:
        print(json.dumps({name: vars(anchors) for name, anchors in proposals.items()}, indent=1))
        return 0
    for name, anchors in proposals.items():
        print(f"{name + ':':17} {_anchors_line(anchors)}")
    scale = proposals["scale alone"].scale
    print(f"in a recipe or on the command line: model.options.anchor_scale={scale:g} (with the default ratios)")
    return 0


def _anchors_line(anchors: Anchors) -> str:
    ratios = ", ".join(f"{ratio:g}" for ratio in anchors.ratios)
    covered = f"mean best IoU {anchors.overlap:.3f}, {anchors.recall:.1%} of the objects at 0.5 or more"
    return f"anchor_scale {anchors.scale:g}, ratios {ratios}: {covered}"
