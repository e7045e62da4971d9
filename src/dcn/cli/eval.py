"""``dcn eval``: a model on a data set, or a file of results against a file of annotations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dcn.cli.words import (
    add_colors,
    add_device,
    add_outside,
    add_speed_options,
    add_split,
    colors_of,
    examples,
    names_of,
    one_source,
    speed_of,
)

_EXAMPLES = """\
examples:
  dcn eval runs/bccd_deformable/0
  dcn eval runs/bccd_deformable/0 --split val --save transforms.test_short=640
  dcn eval runs/bccd_deformable/0 --report
  dcn eval runs/cards_plain/0 tta.flip=true tta.scales=240x400,320x534
  dcn eval model.safetensors --recipe bccd_deformable data.root=data/bccd
  dcn eval model.safetensors --recipe rfcn_r101_coco data.root=data/coco --split test-dev2017 --save
  dcn eval cells.onnx --recipe bccd_deformable data.root=data/bccd
  dcn eval --results detections.json --annotations instances_val2017.json --iou-type segm
  dcn eval --results detections.json --annotations instances_val2017.json --report
  dcn eval --results results/ --annotations VOCdevkit/VOC2007 --method 11point --thresholds 0.5 0.7
  dcn eval --results val_maps/ --annotations VOCdevkit/VOC2012 --image-set val
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``eval``."""
    parser = subparsers.add_parser("eval", help="evaluate a model, or a file of results", **examples(_EXAMPLES))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN_OR_WEIGHTS key=value",
        help="a run folder, a weights file or a file of `dcn export`; key=value changes of its recipe, lists as a,b",
    )
    add_split(parser, "test")
    parser.add_argument("--recipe", help="the recipe that describes the data, for weights outside of a run folder")
    parser.add_argument("--batch", type=int, help="images per forward pass (default: eval.batch_size)")
    add_device(parser)
    add_speed_options(parser)
    parser.add_argument("-o", "--output", help="folder for the files (default: eval/ in the run folder)")
    parser.add_argument(
        "--save",
        action="store_true",
        help="write the detections too, as COCO JSON and VOC files, or the segmentation maps, as PNGs",
    )
    parser.add_argument("--report", action="store_true", help="write a page too: kinds of error, worst images ...")
    files = parser.add_argument_group("result files instead of a model")
    files.add_argument("--results", help="COCO result JSON, folder or file of VOC results, or folder of index PNGs")
    file_options = [
        files.add_argument("--annotations", help="COCO annotation JSON, VOC folder, or folder of index PNGs"),
        files.add_argument("--iou-type", choices=("bbox", "segm"), default="bbox", help="COCO: boxes or masks"),
        files.add_argument(
            "--format",
            choices=("auto", "coco", "voc", "masks"),
            default="auto",
            help="how to evaluate",
        ),
        files.add_argument("--method", choices=("area", "11point"), default="area", help="VOC: how AP is computed"),
        files.add_argument("--thresholds", type=float, nargs="+", help="VOC: IoU thresholds (default 0.5 0.7)"),
        files.add_argument("--image-set", help="VOC: list in ImageSets/Main (default: all annotations)"),
        files.add_argument("--classes", help="class names in order, separated by commas"),
        add_outside(files),
        *add_colors(files),
    ]
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    parser.set_defaults(run=_run, file_options=file_options)


def _run(arguments: argparse.Namespace) -> int:
    metrics = _evaluate_model(arguments) if arguments.results is None else _evaluate_files(arguments)
    if metrics is None and not arguments.json:
        print("no annotations to evaluate on; the predictions are written")
    elif arguments.json:
        print(json.dumps({} if metrics is None else metrics.to_dict(), indent=2))
    else:
        print(metrics)
    return 0


def _evaluate_files(arguments: argparse.Namespace) -> Any:
    from dcn.metrics import evaluate_files, evaluate_mask_files

    if arguments.words or arguments.annotations is None:
        got = f"the model {arguments.words[0]!r}" if arguments.words else "no --annotations"
        raise ValueError(f"--results: expected --annotations beside it and no model, got {got}; see `dcn eval --help`")
    if arguments.format == "masks" or (arguments.format == "auto" and _are_masks(Path(arguments.results))):
        if arguments.report:
            raise ValueError("--report: expected a file of detections, got segmentation masks; report a run instead")
        return evaluate_mask_files(
            arguments.results,
            arguments.annotations,
            classes=names_of(arguments.classes),
            split=arguments.image_set,
            **colors_of(arguments),
        )
    if arguments.report:
        _report_files(arguments)
    return evaluate_files(
        arguments.results,
        arguments.annotations,
        format=arguments.format,
        iou_type=arguments.iou_type,
        method=arguments.method,
        thresholds=arguments.thresholds,
        split=arguments.image_set,
        classes=names_of(arguments.classes),
        outside=arguments.outside,
    )


def _report_files(arguments: argparse.Namespace) -> None:
    """The page about a file of detections; one of masks or of VOC is refused there."""
    from dcn.runs.report_files import report_files

    page = report_files(
        arguments.results,
        arguments.annotations,
        output=arguments.output,
        iou_type=arguments.iou_type,
        classes=names_of(arguments.classes),
        outside=arguments.outside,
    )
    print(page)


def _are_masks(results: Path) -> bool:
    """Whether a folder of results holds images."""
    from dcn.formats.file_names import image_files

    return results.is_dir() and bool(image_files(results, below=True))


def _refuse_file_options(arguments: argparse.Namespace) -> None:
    options: list[argparse.Action] = arguments.file_options
    given = [one.option_strings[0] for one in options if getattr(arguments, one.dest) != one.default]
    if given:
        hint = "; for a model it is data.outside=clip" if given == ["--outside"] else ""
        raise ValueError(f"{', '.join(given)}: expected --results beside it, got a model{hint}")


def _evaluate_model(arguments: argparse.Namespace) -> Any:
    from dcn.analysis.memory import keep_freed_memory
    from dcn.runs.evaluate import evaluate

    _refuse_file_options(arguments)
    source, changes = one_source(arguments.words)
    if arguments.batch is not None:
        changes.append(f"eval.batch_size={arguments.batch}")
    keep_freed_memory()
    return evaluate(
        source,
        arguments.split,
        recipe=arguments.recipe,
        device=arguments.device,
        output=arguments.output,
        save=arguments.save,
        report=arguments.report,
        changes=changes,
        **speed_of(arguments),
    )
