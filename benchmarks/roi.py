"""Times the RoI poolings: `python -m benchmarks.roi --csv benchmarks/results/cpu.csv`.

300 RoIs of 16 to 416 by 16 to 316 image pixels, 7x7 bins, on a map of stride 16 of an image of 800x1216.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.record import Row, interleaved, machine, store, timing
from dcn import ops

_LIMIT = 1e-4  # beyond this share of the largest value a competitor is wrong and is not timed
_SCALE, _BINS = 1 / 16, 7


@dataclass(frozen=True)
class RoiCase:
    """One pooling; `ours` takes map, boxes, offset and backend, `theirs` is torchvision's function where it has one.

    The gradients are those of the map and, where there are any, of the offsets.
    """

    name: str
    channels: int
    ours: Callable[[Tensor, Tensor, Tensor, str], Tensor]
    theirs: str | None = None
    more: tuple[object, ...] = ()  # torchvision's arguments after boxes, bins and scale
    offsets: tuple[int, int] = (0, 0)  # channels and parts of the offsets; 0: none

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        random = torch.Generator().manual_seed(0)
        data = torch.randn(1, self.channels, 50, 76, generator=random)
        size = torch.rand(300, 2, generator=random) * torch.tensor([400.0, 300.0]) + 16
        start = torch.rand(300, 2, generator=random) * (torch.tensor([1216.0, 800.0]) - size).clamp(min=0)
        boxes = torch.cat([torch.zeros(300, 1), start, start + size], 1)
        count, parts = self.offsets
        return data, boxes, torch.randn(300, count, parts, parts, generator=random) * 0.1

    @property
    def label(self) -> str:
        return f"{self.name} 1x{self.channels}x50x76, 300 RoIs {_BINS}x{_BINS}"


CASES = (
    RoiCase(
        "roi_align 2x2", 256, lambda x, b, o, k: ops.roi_align(x, b, _BINS, _SCALE, 2, backend=k), "roi_align", (2,)
    ),
    RoiCase("roi_align adaptive", 256, lambda x, b, o, k: ops.roi_align(x, b, _BINS, _SCALE, backend=k), "roi_align"),
    RoiCase("roi_pool", 256, lambda x, b, o, k: ops.roi_pool(x, b, _BINS, _SCALE, backend=k), "roi_pool"),
    RoiCase(
        "ps_roi_align 2x2",
        490,
        lambda x, b, o, k: ops.ps_roi_align(x, b, _BINS, _SCALE, 2, backend=k),
        "ps_roi_align",
        (2,),
    ),
    RoiCase(
        "ps_roi_pool",
        490,
        lambda x, b, o, k: ops.ps_roi_pool(x, b, _BINS, _SCALE, rounding="after_scale", backend=k),
        "ps_roi_pool",
    ),
    RoiCase(
        "deform_roi_pool",
        256,
        lambda x, b, o, k: ops.deform_roi_pool(x, b, o, _BINS, _SCALE, backend=k),
        offsets=(2, 7),
    ),
    RoiCase(
        "deform_ps_roi_pool, Faster R-CNN",
        256,
        lambda x, b, o, k: ops.deform_ps_roi_pool(x, b, o, _BINS, _SCALE, backend=k),
        offsets=(2, 7),
    ),
    RoiCase(
        "deform_ps_roi_pool, R-FCN, 20 classes",
        980,
        lambda x, b, o, k: ops.deform_ps_roi_pool(x, b, o, _BINS, _SCALE, group_size=7, backend=k),
        offsets=(40, 7),
    ),
)


def _implementations(case: RoiCase) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    functions = {"dcn": lambda x, boxes, offset: case.ours(x, boxes, offset, "cpu")}
    if case.theirs and importlib.util.find_spec("torchvision"):
        import torchvision

        theirs = getattr(torchvision.ops, case.theirs)
        functions["torchvision"] = lambda x, boxes, offset: theirs(x, boxes, _BINS, _SCALE, *case.more)
    return functions


def _run(
    operator: Callable[[Tensor, Tensor, Tensor], Tensor], tensors: tuple[Tensor, Tensor, Tensor], train: bool
) -> list[Tensor]:
    """Forward, or forward and gradients of map and offsets."""
    data, boxes, offset = tensors
    if not train:
        with torch.no_grad():
            return [operator(data, boxes, offset)]
    leaves = [t.detach().requires_grad_() for t in ((data, offset) if offset.numel() else (data,))]
    output = operator(leaves[0], boxes, leaves[-1] if offset.numel() else offset)
    return [output, *torch.autograd.grad(output, leaves, torch.ones_like(output))]


def rows(case: RoiCase, train: bool, repetitions: int, pause: float) -> Iterator[Row]:
    """One row per implementation."""
    tensors, operators = case.tensors(), _implementations(case)
    # The slope jumps where a sample passes a pixel: with moving bins some of millions do so by rounding to float32.
    dtype = torch.float32 if case.offsets[0] else torch.float64
    wide = (tensors[0].to(dtype), tensors[1].to(dtype), tensors[2].to(dtype))
    expected = _run(lambda x, boxes, offset: case.ours(x, boxes, offset, "reference"), wide, train)
    errors = {
        name: _largest_error([t.detach() for t in _run(f, tensors, train)], expected) for name, f in operators.items()
    }
    calls = {n: (lambda f=f: _run(f, tensors, train)) for n, f in operators.items() if errors[n] < _LIMIT}
    times = interleaved(calls, repetitions, pause)
    for name, error in errors.items():
        row: Row = {"suite": "roi", "case": case.label, "direction": "train" if train else "forward"}
        row |= {**machine(), "load": "idle", "competitor": name, "largest_error": f"{error:.1e}"}
        yield row | (timing(times[name]) if name in times else {})


def _largest_error(actual: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(actual, [e.detach() for e in expected], strict=True)
    return max(float((a.double() - e).abs().max() / e.abs().max().clamp_min(1e-30)) for a, e in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directions", nargs="+", choices=("forward", "train"), default=["forward", "train"])
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="TEXT", help="only cases whose label has one of these"
    )
    parser.add_argument("--csv", type=Path, help="file to keep the rows in")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--pause", type=float, default=0.03, help="seconds before every call")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for case in (case for case in CASES if any(part in case.label for part in arguments.cases)):
        for direction in arguments.directions:
            for row in rows(case, direction == "train", arguments.repetitions, arguments.pause):
                print(*(f"{row.get(name, '')!s:>12}" for name in ("case", "direction", "competitor", "median_ms")))
                if arguments.csv:
                    store(arguments.csv, row)


if __name__ == "__main__":
    main()
