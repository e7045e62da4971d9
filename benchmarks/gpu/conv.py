"""The 3x3 layers of ResNet-50/101, C3 to C5, at 800x1333 in batches of 1, 2 and 8 and at 1024x2048."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import exp, log

import torch
from torch import Tensor

from benchmarks.cases import RESNET, ConvCase
from benchmarks.gpu import Row, Settings
from benchmarks.gpu.competitors import Problem, contenders
from benchmarks.gpu.measure import Work, surviving
from benchmarks.gpu.measure import rows as measured
from benchmarks.gpu.profiles import write_profile
from dcn.kernels.reference import deform_conv as reference

LAYERS = tuple(case for case in RESNET if not case.name.startswith("C2"))
_CITYSCAPES = tuple(
    replace(case, height=1024 // step, width=2048 // step)
    for case, step in zip(LAYERS, (4, 8, 8, 16, 16, 32), strict=True)
)
KINDS = ("bfloat16", "float16", "tf32", "float32")
_KINDS_DRY = ("float16",)  # the interpreter cuts bfloat16 off instead of rounding it
_TINY = ConvCase("tiny", 4, 3, 4, kernel=1)
# (goal, direction, type, contender, at least): the ratio of their time to ours, geometric mean over the cases.
GOALS = (
    ("forward, torchvision float16 / dcn bfloat16", "forward", "bfloat16", "torchvision", 5.0),
    ("forward, deformops / dcn bfloat16", "forward", "bfloat16", "deformops", 1.5),
    ("forward, conv2d / dcn bfloat16", "forward", "bfloat16", "conv2d", 1 / 2.5),
    ("forward and backward, torchvision float16 / dcn bfloat16", "train", "bfloat16", "torchvision", 4.0),
    ("forward and backward, deformops / dcn bfloat16", "train", "bfloat16", "deformops", 1.5),
    ("forward and backward, conv2d / dcn bfloat16", "train", "bfloat16", "conv2d", 1 / 3.0),
)


def cases(settings: Settings) -> list[ConvCase]:
    """What is measured."""
    if settings.dry:
        return [_TINY]
    if settings.quick:
        return [case.in_batch(2) for case in LAYERS if case.stride == 1]
    return [*(case.in_batch(batch) for batch in (1, 2, 8) for case in LAYERS), *_CITYSCAPES]


def rows(settings: Settings) -> Iterator[Row]:
    """Every case, type and direction."""
    kinds = _KINDS_DRY if settings.dry else KINDS[:1] if settings.quick else KINDS
    for case in cases(settings):
        for kind in kinds:
            for direction in ("forward", "train"):
                with products_in(kind):
                    yield from surviving(f"{case.label} {kind}", _rows(case, kind, direction, settings))


def _rows(case: ConvCase, kind: str, direction: str, settings: Settings) -> Iterator[Row]:
    problem = make_problem(case, kind, direction == "train", settings.device)
    competing = contenders(problem)
    yield from measured(make_work(problem, kind), competing, expected(problem), settings)
    if settings.profile:
        name = f"{problem.case.label} {kind} {direction}"
        write_profile(competing[0].run, settings.output, name, settings.device)


@contextmanager
def products_in(kind: str) -> Iterator[None]:
    """float32 products in TF32 or not, for us and for everybody else."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, cudnn.fp32_precision
    matmul.fp32_precision = cudnn.fp32_precision = "tf32" if kind == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, cudnn.fp32_precision = before


def make_problem(case: ConvCase, kind: str, train: bool, device: torch.device) -> Problem:
    """The case's tensors on the device."""
    case = replace(case, dtype=torch.float32 if kind == "tf32" else getattr(torch, kind))
    x, offset, weight, grad = (tensor.to(device) for tensor in case.tensors())
    return Problem(case, (x, offset, weight, grad), train)


def make_work(problem: Problem, kind: str) -> Work:
    """Operations and bytes: every tensor once, gradients too when training."""
    case, (x, offset, weight, grad) = problem.case, problem.tensors
    flops = 2 * grad.numel() * weight[0].numel()
    moved = sum(tensor.nbytes for tensor in (x, offset, weight, grad))
    locations = grad[0, 0].numel()
    # torchvision unfolds up to 32 images at once.
    columns = case.channels * case.kernel**2 * locations * min(case.batch, 32) * x.element_size()
    factor = 3 if problem.train else 1
    direction = "train" if problem.train else "forward"
    extra = moved if problem.train else 0
    return Work("conv", case.label, direction, kind, factor * flops, moved + extra, columns)


def expected(problem: Problem) -> tuple[Tensor, ...]:
    """The results in float64."""
    x, offset, weight, grad = (tensor.double() for tensor in problem.tensors)
    geometry = ((problem.case.stride,) * 2, (problem.case.kernel // 2,) * 2, (1, 1), "v2")
    output = reference.forward(x, offset, weight, None, None, *geometry)
    if not problem.train:
        return (output,)
    gradients = reference.backward(grad, x, offset, weight, None, *geometry, (True, True, True, False))
    return output, *(gradient for gradient in gradients if gradient is not None)


def summary(results: list[Row]) -> list[str]:
    """The geometric means beside what they should be."""
    lines = []
    for goal, direction, kind, contender, least in GOALS:
        ratios = list(_ratios(results, direction, kind, contender))
        if ratios:
            mean = exp(sum(map(log, ratios)) / len(ratios))
            verdict = "reached" if mean >= least else "missed"
            lines.append(f"{goal}: {mean:.2f} over {len(ratios)} cases, goal {least:.2f}: {verdict}")
    return lines


def _ratios(results: list[Row], direction: str, kind: str, contender: str) -> Iterator[float]:
    times = {
        (row["case"], row["contender"]): float(row["median_us"])
        for row in results
        if row["direction"] == direction and row["median_us"] != "" and _of_kind(row, kind)
    }
    for (case, name), time in times.items():
        if name == contender and (case, "dcn") in times:
            yield time / times[case, "dcn"]


def _of_kind(row: Row, kind: str) -> bool:
    """Whether a row belongs to a case of that type: torchvision computes those of bfloat16 in float16."""
    return f" {kind} " in f"{row['case']} " and row["kind"] in (kind, "float16")
