"""``dcn bench``: how fast a model is, and which of its parts take the time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn.cli.words import add_device, add_speed_options, examples

if TYPE_CHECKING:
    from dcn.bench.workload import Workload

_EXAMPLES = """\
examples:
  dcn bench model faster_rcnn_r50_fpn_dconv_c3-c5
  dcn bench model rfcn_r101_dcn --size 600x1000 --batch 2 --train
  dcn bench model cells.onnx --plain runs/bccd_deformable/0
  dcn bench model faster_rcnn_r50_fpn_dconv_c3-c5 --precision bfloat16 --batch 8 --cuda-graph --json r50.json

Without --weights the weights are random and behave like trained ones: offsets have a standard deviation of 2 pixels,
the proposal network fills all its slots, and ten pairs of region and class pass the score threshold for every
detection that is kept. The deformable and the plain model run in turns. Times of parts come from separate passes that
wait for every part. In training, the times of deformable layers cover their forward pass only.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``bench``."""
    parser = subparsers.add_parser("bench", help="measure the speed of a model")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    model = kinds.add_parser("model", help="measure a model beside its plain form", **examples(_EXAMPLES))
    model.add_argument("name", help="a model of `dcn models`, a run, a weights file, or a file of `dcn export`")
    model.add_argument("--plain", metavar="NAME", help="the model or file beside it (default: its plain form)")
    model.add_argument("--no-plain", action="store_true", help="measure the model alone")
    model.add_argument("--weights", help="weights of the model (default: random, see below)")
    model.add_argument("--size", default=None, metavar="HxW", help="image size (default: the model's test size)")
    model.add_argument("--batch", type=int, default=1, help="images per call (default 1)")
    model.add_argument("--train", action="store_true", help="training steps instead of inference")
    model.add_argument("--repetitions", type=int, default=5, help="timed calls of each model (default 5)")
    model.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file too")
    add_device(model)
    add_speed_options(model)
    model.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.analysis.memory import keep_freed_memory
    from dcn.bench.measure import measure, report
    from dcn.bench.table import table
    from dcn.bench.workload import plain_name

    for option in ("repetitions", "batch"):
        if getattr(arguments, option) < 1:
            raise ValueError(f"--{option}: expected 1 or more, got {getattr(arguments, option)}")
    plain = None if arguments.no_plain else arguments.plain or plain_name(arguments.name)
    keep_freed_memory()
    work = _workload(arguments)
    names = [arguments.name, *([plain] if plain is not None else [])]
    weights = {arguments.name: arguments.weights} if arguments.weights else {}
    measurements = measure(names, work, repetitions=arguments.repetitions, weights=weights)
    print(table(measurements, work))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report(measurements, work), indent=2) + "\n", encoding="utf-8")
    return 0


def _workload(arguments: argparse.Namespace) -> Workload:
    from dcn.bench.workload import Workload, parse_size, test_size_of
    from dcn.engine.distributed import choose_device

    size = test_size_of(arguments.name) if arguments.size is None else parse_size(arguments.size)
    if arguments.train and (arguments.compile or arguments.cuda_graph):
        option = "--compile" if arguments.compile else "--cuda-graph"
        raise ValueError(f"--train: expected no option for inference beside it, got {option}; leave it out")
    device = choose_device(arguments.device)
    if arguments.cuda_graph and device.type != "cuda":
        raise ValueError(f"--cuda-graph: expected a GPU, got the device {device}")
    return Workload(
        size,
        arguments.batch,
        arguments.precision,
        device,
        arguments.train,
        arguments.compile,
        arguments.cuda_graph,
    )
