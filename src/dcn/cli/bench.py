"""``dcn bench``: how fast a network is, and which of its parts take the time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dcn.analysis.clock import Part
    from dcn.cli.workload import Task

_EPILOG = """\
examples:
  dcn bench model faster_rcnn_r50_fpn_dconv_c3-c5
  dcn bench model rfcn_r101_dcn --size 600x1000 --batch 2 --train
  dcn bench model faster_rcnn_r50_fpn_dconv_c3-c5 --dtype bfloat16 --batch 8 --cuda-graph --json r50.json

Without --weights they are random and made to behave like trained ones: offsets spread by 2 pixels, all places of the
proposal network filled, ten pairs of region and class above the threshold for every detection kept. The plain network
is timed in turns with the deformable one. Times of parts come from passes of their own, in which every part is waited
for; in training those of deformable layers are of their forward alone.
"""


@dataclass(frozen=True)
class Row:
    """What was measured of one network.

    Attributes:
        name: of ``dcn models``.
        milliseconds: of one image: median over the repetitions.
        low: percentile 20 of the same.
        high: percentile 80.
        images_per_second: at the median.
        peak_mib: weights, the state of the optimizer, and the largest memory that a call needs beside them; ``None``
            where it is not known.
        parts: milliseconds of an image by part.
        deformable: milliseconds of an image in deformable convolutions and their offset branches.
    """

    name: str
    milliseconds: float
    low: float
    high: float
    images_per_second: float
    peak_mib: float | None
    parts: dict[str, float]
    deformable: float


def add_parser(subparsers: Any) -> None:
    """Add the verb ``bench``."""
    parser = subparsers.add_parser("bench", help="measure the speed of a network")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    model = kinds.add_parser(
        "model",
        help="a network, beside the plain one",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model.add_argument("name", help="a network of `dcn models`")
    model.add_argument("--plain", metavar="NAME", help="the network beside it (default: its plain form, if it has one)")
    model.add_argument("--no-plain", action="store_true", help="measure the network alone")
    model.add_argument("--weights", help="weights of the network (default: random, see below)")
    model.add_argument("--size", default=None, metavar="HxW", help="of the images (default: the network's test size)")
    model.add_argument("--batch", type=int, default=1, help="images of one call (default 1)")
    model.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    model.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    model.add_argument("--train", action="store_true", help="forward, backward and update instead of inference")
    model.add_argument("--compile", action="store_true", help="torch.compile, inference only")
    model.add_argument("--cuda-graph", action="store_true", help="CUDA graphs, inference only")
    model.add_argument("--repetitions", type=int, default=5, help="timed calls of each network (default 5)")
    model.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    model.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.analysis.memory import keep_freed_memory
    from dcn.cli.workload import plain_name

    if arguments.repetitions < 1 or arguments.batch < 1:
        raise ValueError(
            f"--repetitions, --batch: expected 1 or more, got {arguments.repetitions} and {arguments.batch}"
        )
    plain = None if arguments.no_plain else arguments.plain or plain_name(arguments.name)
    keep_freed_memory()
    task = _task(arguments)
    names = [arguments.name, *([plain] if plain is not None else [])]
    weights = {arguments.name: arguments.weights} if arguments.weights else {}
    rows = measure(names, task, repetitions=arguments.repetitions, weights=weights)
    print(table(rows, task))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_report(rows, task), indent=2) + "\n", encoding="utf-8")
    return 0


def _task(arguments: argparse.Namespace) -> Task:
    from dcn.cli.workload import Task
    from dcn.engine.distributed import choose_device
    from dcn.models import options_of

    size = options_of(arguments.name)["test_size"] if arguments.size is None else _parse_size(arguments.size)
    if arguments.train and (arguments.compile or arguments.cuda_graph):
        raise ValueError("--compile, --cuda-graph: are for inference; leave them out with --train")
    device = choose_device(arguments.device)
    if arguments.cuda_graph and device.type != "cuda":
        raise ValueError(f"--cuda-graph: needs a GPU, the device is {device}")
    return Task(
        (int(size[0]), int(size[1])),  # type: ignore[index]  # options are untyped
        arguments.batch,
        arguments.dtype,
        device,
        arguments.train,
        arguments.compile,
        arguments.cuda_graph,
    )


def _parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise ValueError(f"--size: expected HEIGHTxWIDTH such as 800x1333, got {text!r}")
    return int(height), int(width)


def measure(names: Sequence[str], task: Task, *, repetitions: int, weights: dict[str, str] | None = None) -> list[Row]:
    """Measure networks in turns.

    Args:
        names: of ``dcn models``.
        task: what they do.
        repetitions: timed calls of each.
        weights: files of weights by name; random where there is none.
    """
    from dcn.analysis.clock import interleaved
    from dcn.cli.workload import make_call, make_network

    calls, networks, peaks = [], [], []
    for name in names:
        model = make_network(name, task, _loader((weights or {}).get(name)))
        call = make_call(model, task)
        call()
        peaks.append(_peak_mib(call, model, task))
        calls.append(call)
        networks.append(model)
    times = interleaved(calls, task.device, repetitions=repetitions, warm_up=1)
    rows = []
    for name, network, timed, peak in zip(names, networks, times, peaks, strict=True):
        low, high = timed.spread
        scale = 1000 / task.batch
        parts, deformable = _parts(network, task, min(3, repetitions))
        speed = (timed.median * scale, low * scale, high * scale, task.batch / timed.median)
        rows.append(Row(name, *speed, peak, parts, deformable))
    return rows


def _loader(path: str | None) -> Callable[[nn.Module], object] | None:
    if path is None:
        return None
    from dcn.models.checkpoints import load_state, read_detector

    return lambda model: load_state(model, read_detector(path)[0], path)


def _peak_mib(call: Callable[[], object], model: nn.Module, task: Task) -> float | None:
    """What a call needs at most, measured at its second run: the first one also loads libraries."""
    import torch

    from dcn.analysis.memory import peak_bytes, reset_peak

    sizes = {p: p.numel() * p.element_size() for p in model.parameters()}
    # Momentum is as large as what is trained; weights of inference are in the precision of the task.
    momentum = sum(size for parameter, size in sizes.items() if parameter.requires_grad)
    half = task.precision != "float32"
    held = sum(sizes.values()) + momentum if task.train else sum(sizes.values()) // (2 if half else 1)
    if task.device.type == "cuda":
        before = torch.cuda.memory_allocated(task.device)
        torch.cuda.reset_peak_memory_stats(task.device)
        call()
        return (torch.cuda.max_memory_allocated(task.device) - before + held) / 2**20
    reset_peak()
    started = peak_bytes()
    call()
    peak = peak_bytes()
    return None if started is None or peak is None else (peak - started + held) / 2**20


def _parts(network: nn.Module, task: Task, passes: int) -> tuple[dict[str, float], float]:
    """Milliseconds of an image by part, and those in deformable layers: medians over passes of their own."""
    from statistics import median

    from dcn.cli.workload import deformable_parts, inference_call, make_call, parts_of
    from dcn.models.inference import prepare

    # Neither compiled nor recorded: there would be no parts.
    watched = network if task.train else prepare(network, task.precision)
    call = make_call(network, task) if task.train else inference_call(watched, task)
    call()
    rest = "backward, update" if task.train else "post-processing"
    outer = [_pass(call, parts_of(watched), task, rest) for _ in range(passes)]
    inner = [_pass(call, deformable_parts(watched), task, rest) for _ in range(passes)]
    parts = {label: median(found[label] for found in outer) for label in outer[0]}
    return parts, median(found.get("deformable", 0.0) for found in inner)


def _pass(call: Callable[[], object], parts: Sequence[Part], task: Task, rest: str) -> dict[str, float]:
    """Milliseconds of an image by part in one call, what is left under ``rest``."""
    from dcn.analysis.clock import PartTimer, now

    timer = PartTimer(task.device)
    with timer.watching(parts):
        start = now(task.device)
        call()
        total = now(task.device) - start
    left = max(total - sum(timer.seconds.values()), 0.0)
    return {label: seconds * 1000 / task.batch for label, seconds in {**timer.seconds, rest: left}.items()}


def table(rows: Sequence[Row], task: Task) -> str:
    """The figures for reading, a column for each network."""
    what = "training" if task.train else "inference"
    lines = [
        f"{what}, {task.size[0]}x{task.size[1]}, batch {task.batch}, {task.precision}, {task.device}",
        _line("", [row.name for row in rows]),
        _line("images/s", [f"{row.images_per_second:.2f}" for row in rows]),
        _line("ms per image", [f"{row.milliseconds:.1f}" for row in rows]),
        _line("  20% .. 80%", [f"{row.low:.1f} .. {row.high:.1f}" for row in rows]),
        _line("peak memory, MiB", ["?" if row.peak_mib is None else f"{row.peak_mib:.0f}" for row in rows]),
    ]
    labels = dict.fromkeys(label for row in rows for label in row.parts)
    lines += [_line(label, [_share(row.parts.get(label, 0.0), row) for row in rows]) for label in labels]
    lines.append(_line("deformable layers", [_share(row.deformable, row) for row in rows]))
    if len(rows) == 2:
        lines.append(f"{rows[0].name} takes {rows[0].milliseconds / rows[1].milliseconds:.3f} times as long")
    return "\n".join(lines)


def _share(milliseconds: float, row: Row) -> str:
    total = sum(row.parts.values())
    return f"{milliseconds:.1f} ms {milliseconds / total:6.1%}" if total else "0.0 ms"


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:<18}" + "".join(f"  {cell:>32}" for cell in cells)


def _report(rows: Sequence[Row], task: Task) -> dict[str, Any]:
    import platform

    import torch

    import dcn
    from dcn.analysis.memory import processor

    gpu = torch.cuda.get_device_name(task.device) if task.device.type == "cuda" else None
    return {
        "task": {**asdict(task), "device": str(task.device)},
        "networks": [asdict(row) for row in rows],
        "machine": {"processor": processor(), "gpu": gpu, "threads": torch.get_num_threads()},
        "versions": {"dcn": dcn.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
