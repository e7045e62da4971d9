"""``dcn data``: look at data before training on it, and write the generated set to files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from dcn.class_names import VOC_CLASSES
from dcn.cli.data_tools import add_verbs, open_splits
from dcn.cli.words import add_colors, add_outside, colors_of
from dcn.data.catalog import open_dataset, options_of
from dcn.data.check import Findings, check_dataset, splits_of
from dcn.data.dataset import Dataset
from dcn.engine.config import DataConfig
from dcn.engine.parse import override, parse
from dcn.formats.coco import split_of
from dcn.formats.coco_writer import write_coco
from dcn.formats.images import write_image
from dcn.formats.problems import OutsideBoxes
from dcn.formats.voc import find_classes, read_split
from dcn.formats.voc_writer import write_voc
from dcn.runs.outputs import OutputFolder
from dcn.structures import Sample, SegmentationMap
from dcn.suggest import counted


def add_parser(subparsers: Any) -> None:
    """Add the verb ``data`` with its own verbs ``check``, ``show`` and ``write``."""
    parser = subparsers.add_parser("data", help="check, show, split, convert, measure or write data")
    verbs = parser.add_subparsers(dest="data_verb", required=True)
    check = verbs.add_parser("check", help="report everything that is wrong with a folder of data")
    _add_source(check)
    check.set_defaults(run=_check)
    show = verbs.add_parser("show", help="draw images with their boxes, masks and names")
    _add_source(show)
    add_outside(show)
    show.add_argument("--count", type=int, default=12, help="how many images, spread over the split (default 12)")
    show.add_argument(
        "-o", "--output", type=Path, default=Path("sheet.png"), help="picture to write (default sheet.png)"
    )
    show.set_defaults(run=_show)
    add_verbs(verbs)
    write = verbs.add_parser("write", help="write the generated set as files")
    write.add_argument("folder", type=Path, help="folder to write")
    write.add_argument(
        "words", nargs="*", metavar="key=value", help="options of the generated set, such as symbols=shapes"
    )
    write.add_argument("--format", choices=("voc", "coco"), default="voc", help="default voc")
    write.add_argument("--split", choices=("train", "val", "test"), default="train", help="default train")
    write.add_argument("--length", type=int, default=100, help="how many images (default 100)")
    write.add_argument("--seed", type=int, default=0, help="of the random choices (default 0)")
    write.add_argument("--difficulty", type=float, default=0.7, help="0 (easy) to 1 (hard); default 0.7")
    write.set_defaults(run=_write)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="folder in a known layout (for 'show' also: synthetic)")
    parser.add_argument("--format", help="such as coco, voc or yolo (default: detected from the layout)")
    parser.add_argument("--split", help="one split (default: all for 'check', the training split for 'show')")
    parser.add_argument("--classes", help="VOC: the class names in label order, separated by commas")
    parser.add_argument("--annotations", help="COCO: annotation file, relative to the folder")
    parser.add_argument("--images", help="COCO: image folder, relative to the folder")
    parser.add_argument("--upright", action="store_true", help="turn photos as their EXIF orientation says")
    add_colors(parser)


def _names(arguments: argparse.Namespace) -> list[str] | None:
    return None if arguments.classes is None else [name.strip() for name in arguments.classes.split(",")]


def _check(arguments: argparse.Namespace) -> int:
    """Print every problem and a summary; 1 where there is a problem."""
    findings = check_dataset(
        arguments.path,
        arguments.format,
        split=arguments.split,
        classes=_names(arguments),
        annotations=arguments.annotations,
        images=arguments.images,
        upright=arguments.upright,
        **colors_of(arguments),
    )
    for problem in findings.problems:
        print(problem.advice)
    for note in findings.notes:
        print(f"note: {note}")
    if findings.layout:
        print(f"{arguments.path}: taken for {findings.format} ({findings.layout})")
    print(_summary(arguments.path, findings))
    return 1 if findings.problems else 0


def _summary(path: str, findings: Findings) -> str:
    objects = ", ".join(f"{name} {count}" for name, count in findings.objects.items())
    number = "images of each class" if findings.by_image else counted(sum(findings.objects.values()), "object")
    seen = f"{counted(findings.images, 'image')}, {number} ({objects or 'none'})"
    verdict = counted(len(findings.problems), "problem") if findings.problems else "no problems"
    return f"{path}: {findings.format or 'unknown format'}, {seen}: {verdict}"


def _open(arguments: argparse.Namespace) -> Dataset:
    """The dataset that the arguments mean; the first split where none is named."""
    if arguments.path == "synthetic":
        return open_dataset("synthetic", None, arguments.split or "train")
    root = Path(arguments.path).expanduser()
    taken = {"upright": arguments.upright, "outside": arguments.outside, **colors_of(arguments)}
    options = {"annotations": arguments.annotations, "images": arguments.images, **taken}
    if arguments.format is None and arguments.annotations is None:
        named = {"classes": _names(arguments), "images": arguments.images}
        given = {name: value for name, value in named.items() if value is not None}
        return next(iter(open_splits(root, arguments.split, unlabelled="skip", **taken, **given).values()))
    format = arguments.format or "coco"
    split = arguments.split or (split_of(Path(arguments.annotations)) if arguments.annotations else None)
    split = split or _first(splits_of(format, root))
    if format == "voc":
        names = find_classes(read_split(root, split, OutsideBoxes(arguments.outside, split)))
        automatic = list(VOC_CLASSES) if set(names) <= set(VOC_CLASSES) else list(names)
        options["classes"] = _names(arguments) or automatic
    if "unlabelled" in options_of(format):
        options["unlabelled"] = "skip"
    known = {name: value for name, value in options.items() if name in options_of(format)}
    return open_dataset(format, root, split, **known)


def _first(splits: list[str]) -> str:
    return next((split for split in splits if "train" in split), splits[0] if splits else "train")


def _show(arguments: argparse.Namespace) -> int:
    """Write a contact sheet."""
    from dcn.vis.detections import contact_sheet

    if arguments.count < 1:
        raise ValueError(f"--count: expected 1 or more, got {arguments.count}")
    dataset = _open(arguments)
    folder = OutputFolder(arguments.output.parent)
    folder.check([arguments.output.name])
    count = min(arguments.count, len(dataset))
    pictures, captions = [], []
    for number in range(count):
        index = number * len(dataset) // count
        pictures.append(_annotated(dataset[index], dataset.classes))
        path = dataset.image_path(index)
        captions.append(path.name if path else str(index))
    sheet = contact_sheet(pictures, captions=captions)
    folder.write(arguments.output.name, lambda path: write_image(path, sheet))
    print(f"{arguments.output}: {count} of {len(dataset)} images of {dataset.name}")
    return 0


def _annotated(sample: Sample, classes: tuple[str, ...]) -> Tensor:
    """The image with its objects or with its segmentation mask."""
    from dcn.runs.tasks import DETECTION, SEGMENTATION
    from dcn.vis.enlarge import enlarge

    task = SEGMENTATION if isinstance(sample.target, SegmentationMap) else DETECTION
    return task.draw_target(*enlarge(sample.image, sample.target), classes)


def _write(arguments: argparse.Namespace) -> int:
    """Write a split of the generated set."""
    options = {"seed": arguments.seed, "length": arguments.length, "difficulty": arguments.difficulty}
    settings = {"format": "synthetic", "options": options}
    for word in arguments.words:
        override(settings, f"options.{word}")
    dataset = open_dataset("synthetic", None, arguments.split, **parse(DataConfig, settings).options)
    write = write_voc if arguments.format == "voc" else write_coco
    write(dataset, arguments.folder, arguments.split)
    print(f"{arguments.folder}: {len(dataset)} images of {dataset.name} as {arguments.format}")
    return 0
