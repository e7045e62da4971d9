"""How evenly threads would share the work of the CPU kernels: `python -m benchmarks.shares --csv FILE`.

The library goes through a call as it would with that many threads, cuts its work with the same functions, and adds up
what the tasks cost instead of doing them: multiplications, or what takes as long. Every task goes to the thread that is
free first, and every loop ends with its last task. The share of the slowest thread over the mean is 1 at best.

With ``--timed`` every task is done, by one thread, and counts as long as it took; the work beside that of one thread
then shows what the finer cut costs. Tasks of microseconds are not timed well.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks.cases import ATTENTION, DEPTHWISE, MODULATED, RESNET, AttentionCase, ConvCase, ModulatedCase
from benchmarks.roi import CASES as ROI
from benchmarks.roi import RoiCase
from dcn import ops
from dcn.kernels.cpu import _library

FIELDS = ("case", "direction", "largest_share", "at_threads", "threads_used")
MOST_THREADS = 64


@dataclass(frozen=True)
class Shares:
    """How the threads of some calls shared their work.

    Attributes:
        over_mean: the time of the slowest thread over that of an even share.
        total: cost of all tasks, or their seconds.
        threads: how many the last loop used: fewer than it might for little work.
    """

    over_mean: float
    total: float
    threads: int


def shares(calls: Callable[[], object], threads: int, timed: bool = False) -> Shares:
    """The shares of the kernel calls that ``calls`` makes, of which nothing is computed unless ``timed``."""
    library = _library.library()
    library.dcn_shares_end.restype = None
    over_mean, total, used = ctypes.c_double(), ctypes.c_double(), ctypes.c_int()
    with mock.patch.object(_library, "threads", return_value=threads):
        library.dcn_shares_begin(int(timed))
        try:
            calls()
        finally:
            library.dcn_shares_end(ctypes.byref(over_mean), ctypes.byref(total), ctypes.byref(used))
    return Shares(over_mean.value, total.value, used.value)


@dataclass(frozen=True)
class SharesCase:
    """An operator on one size.

    Attributes:
        label: name and sizes.
        tensors: makes its inputs, all of which want gradients but for those in ``fixed``.
        function: the operator.
        fixed: places of inputs without gradients.
    """

    label: str
    tensors: Callable[[], tuple[Tensor, ...]]
    function: Callable[..., Tensor]
    fixed: tuple[int, ...] = ()

    def calls(self) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
        """The forward and the backward pass, which return what they compute."""
        tensors = [t.requires_grad_(i not in self.fixed) for i, t in enumerate(self.tensors())]
        leaves = [t for t in tensors if t.requires_grad]
        outputs: list[Tensor] = []
        shares(lambda: outputs.append(self.function(*tensors)), 1)  # the backward pass does not read the output
        grad = torch.linspace(-1, 1, outputs[0].numel()).view_as(outputs[0]).to(outputs[0])
        return {
            "forward": lambda: (self.function(*(t.detach() for t in tensors)),),
            "backward": lambda: torch.autograd.grad(outputs, leaves, [grad], retain_graph=True),
        }


def conv(case: ConvCase) -> SharesCase:
    """Deformable convolution."""

    def run(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return ops.deform_conv2d(x, offset, weight, None, case.stride, 1, backend="cpu")

    return SharesCase(f"deform_conv2d {case.label}", lambda: case.tensors()[:3], run)


def transposed(case: ConvCase) -> SharesCase:
    """Transposed, from the map that the convolution makes to the one that it reads."""

    def tensors() -> tuple[Tensor, ...]:
        _, offset, weight, grad = case.tensors()
        return grad, offset, weight

    def run(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        extra = [(size - 1) % case.stride for size in (case.height, case.width)]
        return ops.deform_conv_transpose2d(x, offset, weight, None, case.stride, 1, extra, backend="cpu")

    return SharesCase(f"deform_conv_transpose2d {case.label}", tensors, run)


def attention(case: AttentionCase) -> SharesCase:
    """Multi-scale deformable attention."""
    shapes = torch.tensor(case.levels)
    return SharesCase(
        f"ms_deform_attn {case.label}",
        case.tensors,
        lambda value, *rest: ops.ms_deform_attn(value, shapes, None, *rest, backend="cpu"),
    )


def modulated(case: ModulatedCase) -> SharesCase:
    """DCNv3; DCNv4 makes the same calls."""

    def run(x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return ops.dcnv3(x, offset, mask, 3, padding=1, groups=case.groups, backend="cpu")

    return SharesCase(f"dcnv3 {case.label}", case.tensors, run)


def roi(case: RoiCase) -> SharesCase:
    """A RoI pooling."""
    fixed = (1,) if case.offsets[0] else (1, 2)
    return SharesCase(case.label, case.tensors, lambda x, boxes, o: case.ours(x, boxes, o, "cpu"), fixed)


CASES = (
    *(conv(case.in_batch(batch)) for batch in (1, 4) for case in RESNET if batch == 1 or case.stride == 1),
    *(conv(case) for case in DEPTHWISE),
    *(transposed(case) for case in RESNET),
    *(attention(case) for case in ATTENTION),
    *(modulated(case) for case in MODULATED),
    *(roi(case) for case in ROI),
)
"""The layer shapes of the other benchmarks."""


def rows(case: SharesCase) -> Iterator[dict[str, str]]:
    """The least even share of each direction, among 2 to 64 threads."""
    for direction, calls in case.calls().items():
        of = {threads: shares(calls, threads) for threads in range(2, MOST_THREADS + 1)}
        worst = max(of, key=lambda threads: of[threads].over_mean)
        most = max(one.threads for one in of.values())
        values = (case.label, direction, f"{of[worst].over_mean:.3f}", str(worst), f"{most}")
        yield dict(zip(FIELDS, values, strict=True))


def _print_timed(case: SharesCase, threads: list[int]) -> None:
    for direction, calls in case.calls().items():
        shares(calls, 1, timed=True)
        alone = shares(calls, 1, timed=True)
        for count in threads:
            timed, told = shares(calls, count, timed=True), shares(calls, count)
            parts = (f"{told.over_mean:.2f} by cost", f"{timed.over_mean:.2f} by time")
            print(case.label, direction, count, *parts, f"work x{timed.total / alone.total:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[""], metavar="TEXT", help="only cases whose label has one")
    parser.add_argument("--csv", type=Path, help="file to write all rows to")
    parser.add_argument("--timed", nargs="+", type=int, metavar="THREADS", help="time the tasks instead")
    options = parser.parse_args()
    chosen = [case for case in CASES if any(part in case.label for part in options.cases)]
    if options.timed:
        for case in chosen:
            _print_timed(case, options.timed)
        return
    done = []
    for case in chosen:
        for row in rows(case):
            print(*row.values(), sep=", ", flush=True)
            done.append(row)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(done)


if __name__ == "__main__":
    main()
