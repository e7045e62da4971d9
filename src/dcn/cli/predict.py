"""``dcn predict``: images into pictures and JSON, or into segmentation maps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dcn.cli.words import add_device, add_speed_options, examples, is_change, names_of, speed_of

_EXAMPLES = """\
examples:
  dcn predict runs/bccd_deformable/0 photos/ --output predictions
  dcn predict runs/bccd_deformable/0 "photos/*.jpg" --score 0.3 transforms.test_short=640
  dcn predict runs/cards_plain/0 photo.jpg tta.flip=true tta.suppression=soft_nms_gaussian tta.sigma=0.6
  dcn predict runs/camvid_deformable/0 photos/ tta.scales=0.75,1,1.25 tta.window=1024,1024
  dcn predict cells.onnx photos/
  dcn predict faster_rcnn_r50_fpn --weights faster_rcnn_r50_fpn_1x_coco.pth photo.jpg
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``predict``."""
    help_text = "detect objects in images, or segment them"
    parser = subparsers.add_parser("predict", help=help_text, **examples(_EXAMPLES))
    parser.add_argument("source", help="a run folder, a weights file, a file of `dcn export`, or the name of a model")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="IMAGES key=value",
        help="image files, folders, patterns; then key=value changes of tta.*, transforms.test_short, transforms.long",
    )
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="folder (default predictions)")
    parser.add_argument(
        "--score", "--min-score", dest="min_score", type=float, help="detectors: score threshold (default 0.5)"
    )
    parser.add_argument("--batch", type=int, default=1, help="images per forward pass (default 1)")
    parser.add_argument("--keep-size", action="store_true", help="do not resize the images")
    parser.add_argument("--no-pictures", action="store_true", help="write only the JSON files, or the maps")
    parser.add_argument("--weights", help="weights file for the name of a model (default: published weights)")
    parser.add_argument("--classes", help="class names for the name of a model, in order, separated by commas")
    add_device(parser)
    add_speed_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Exit code 1 where an image could not be read."""
    from dcn.analysis.memory import keep_freed_memory
    from dcn.runs.predict import find_images, open_predictor, predict_files

    changes = [word for word in arguments.words if is_change(word) and not Path(word).exists()]
    paths = find_images([word for word in arguments.words if word not in changes])
    keep_freed_memory()
    predictor = open_predictor(
        arguments.source,
        arguments.weights,
        changes,
        classes=names_of(arguments.classes),
        device=arguments.device,
        **speed_of(arguments),
    )
    score = predictor.task.default_score if arguments.min_score is None else arguments.min_score
    done = predict_files(
        predictor,
        paths,
        arguments.output,
        min_score=score,
        resize=None if arguments.keep_size else "default",
        batch_size=arguments.batch,
        pictures=not arguments.no_pictures,
    )
    print(f"{arguments.output}: {done}")
    return 0 if done.skipped == 0 else 1
