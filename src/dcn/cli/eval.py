"""``dcn eval``: a model on a data set, or a file of results against a file of annotations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dcn.cli.words import (
    add_colors,
    add_device,
    add_file_options,
    add_speed_options,
    colors_of,
    examples,
    names_of,
    one_source,
    refuse_given,
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
  dcn eval --results yolo/labels/ --annotations data/yolo --split val
  dcn eval --results results/ --annotations VOCdevkit/VOC2007 --method 11point --thresholds 0.5 0.7
  dcn eval --results val_maps/ --annotations VOCdevkit/VOC2012 --split val
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
    parser.add_argument(
        "--split",
        help="train, val or test of the recipe, or the data's own name of a split (default test); for result files a "
        "split of the folder of annotations, of VOC a list in ImageSets/Main (default the only one)",
    )
    recipe = "the recipe that describes the data, for weights outside of a run folder"
    saved = "write the detections too, as COCO JSON and VOC files, or the segmentation maps, as PNGs"
    model_options = [
        parser.add_argument("--recipe", help=recipe),
        parser.add_argument("--batch", type=int, help="images per forward pass (default: eval.batch_size)"),
        add_device(parser),
        *add_speed_options(parser),
        parser.add_argument("--save", action="store_true", help=saved),
    ]
    default = "eval/ in the run folder; for result files only the page of --report is written, beside them"
    where = f"folder for the files (default: {default})"
    parser.add_argument("-o", "--output", help=where)
    report = "write a page too: kinds of error, worst images ..."
    page = parser.add_argument("--report", action="store_true", help=report)
    files = parser.add_argument_group("result files instead of a model")
    files.add_argument("--results", help="JSON, text files or folder of detections, or folder of index PNGs")
    annotations, *shared = add_file_options(files)
    method = files.add_argument("--method", choices=("area", "11point"), default="area", help="VOC: how AP is computed")
    rules = ("auto", "coco", "voc", "masks")
    box_options = [
        *(one for one in shared if one.dest != "classes"),
        method,
        files.add_argument("--thresholds", type=float, nargs="+", help="VOC: IoU thresholds (default 0.5 0.7)"),
    ]
    absent = "masks: IoU of a class that occurs nowhere, 0 or left out of the mean (default zero)"
    mask_options = [
        *add_colors(files),
        files.add_argument("--ignore", type=int, nargs="+", help="masks: values that do not count, beside 255"),
        files.add_argument("--absent", choices=("zero", "skip"), default="zero", help=absent),
    ]
    format = files.add_argument("--format", choices=rules, default="auto", help="how to evaluate (default auto)")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    of_files = [annotations, format, *shared, *box_options, *mask_options]
    parser.set_defaults(
        run=_run,
        model_options=model_options,
        file_options=list(dict.fromkeys(of_files)),
        box_options=[*box_options, page],
        mask_options=mask_options,
    )


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
    from dcn.metrics.files import are_masks
    from dcn.runs.result_files import score_boxes, score_masks

    if arguments.words or arguments.annotations is None:
        got = f"the model {arguments.words[0]!r}" if arguments.words else "no --annotations"
        raise ValueError(f"--results: expected --annotations beside it and no model, got {got}; see `dcn eval --help`")
    refuse_given(arguments, arguments.model_options, "a model, got result files")
    shared: dict[str, Any] = {
        "output": arguments.output,
        "split": arguments.split,
        "classes": names_of(arguments.classes),
    }
    if arguments.format == "masks" or (arguments.format == "auto" and are_masks(Path(arguments.results).expanduser())):
        refuse_given(arguments, arguments.box_options, "detections as --results, got segmentation masks")
        masks: dict[str, Any] = {"ignore": arguments.ignore or (), "absent": arguments.absent, **colors_of(arguments)}
        return score_masks(arguments.results, arguments.annotations, **shared, **masks)
    refuse_given(arguments, arguments.mask_options, "segmentation masks as --results, got detections")
    return score_boxes(
        arguments.results,
        arguments.annotations,
        **shared,
        report=arguments.report,
        format=arguments.format,
        iou_type=arguments.iou_type,
        method=arguments.method,
        thresholds=arguments.thresholds,
        outside=arguments.outside,
    )


def _evaluate_model(arguments: argparse.Namespace) -> Any:
    from dcn.analysis.memory import keep_freed_memory
    from dcn.runs.evaluate import evaluate

    hint = "; for a model it is data.outside=clip" if arguments.outside != "refuse" else ""
    got = f"a model{hint}" if arguments.words else "none"
    refuse_given(arguments, arguments.file_options, f"--results beside it, got {got}")
    source, changes = one_source(arguments.words)
    if arguments.batch is not None:
        changes.append(f"eval.batch_size={arguments.batch}")
    keep_freed_memory()
    return evaluate(
        source,
        arguments.split or "test",
        recipe=arguments.recipe,
        device=arguments.device,
        output=arguments.output,
        save=arguments.save,
        report=arguments.report,
        changes=changes,
        **speed_of(arguments),
    )
