"""Other implementations of deformable convolution, those that are installed, each as a `Contender`.

DCNv4 is not among them: its samples are only weighted and summed, no kernel weight mixes channels; another function.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import ConvCase
from benchmarks.gpu.measure import Contender, Results
from dcn.ops import deform_conv2d

Operator = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A case on the device: input, offset, weight and gradient of the output, and whether gradients are needed."""

    case: ConvCase
    tensors: tuple[Tensor, Tensor, Tensor, Tensor]
    train: bool


def _runner(operator: Operator, tensors: tuple[Tensor, ...], train: bool) -> Callable[[], Results]:
    *given, grad = (tensor.detach() for tensor in tensors)
    if not train:
        x, offset, weight = given
        return lambda: (operator(x, offset, weight),)
    leaves = [tensor.requires_grad_() for tensor in given]

    def run() -> Results:
        output = operator(leaves[0], leaves[1], leaves[2])
        return output.detach(), *torch.autograd.grad(output, leaves, grad, allow_unused=True, materialize_grads=True)

    return run


def _channels_last(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Input, weight and gradient in the format that matrix units like; offsets stay as a convolution gives them."""
    x, offset, weight, grad = (tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors)
    return x, offset, weight, grad


def _ours(problem: Problem, channels_last: bool) -> Contender:
    case = problem.case

    def operator(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return deform_conv2d(x, offset, weight, None, case.stride, case.kernel // 2, backend="triton")

    tensors = _channels_last(problem.tensors) if channels_last else problem.tensors
    name = "dcn" if channels_last else "dcn NCHW"
    return Contender(name, _runner(operator, tensors, problem.train))


def _cudnn(problem: Problem) -> Contender:
    case = problem.case

    def operator(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, case.stride, case.kernel // 2, 1, case.groups)

    return Contender("conv2d", _runner(operator, _channels_last(problem.tensors), problem.train), compared=False)


def _torchvision(problem: Problem) -> Contender:
    from torchvision.ops import deform_conv2d as theirs

    case = problem.case

    def operator(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return theirs(x, offset, weight, None, case.stride, case.kernel // 2)

    if case.dtype != torch.bfloat16:
        return Contender("torchvision", _runner(operator, problem.tensors, problem.train))
    x, offset, weight, grad = (tensor.half() for tensor in problem.tensors)  # it has no bfloat16
    run = _runner(operator, (x, offset, weight, grad), problem.train)
    # Its results differ from those of bfloat16 data by the rounding of these, which LIMIT allows.
    return Contender("torchvision", run, kind="float16")


def _deformops(problem: Problem) -> Contender:
    from deformops.registry.conv import conv

    case = problem.case
    x, offset, weight, grad = problem.tensors
    batch, _, height, width = offset.shape
    native = (
        x.permute(0, 2, 3, 1).contiguous(),
        offset.reshape(batch, 1, case.kernel**2, 2, height, width).permute(0, 4, 5, 1, 2, 3).contiguous(),
        weight,
        grad.permute(0, 2, 3, 1).contiguous(),
    )

    def operator(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return conv(x, offset, weight, stride=case.stride, padding=case.kernel // 2, groups=case.groups)

    def canonical(results: Results) -> Results:
        if len(results) == 1:
            return (results[0].permute(0, 3, 1, 2),)
        output, by_x, by_offset, by_weight = results
        by_offset = by_offset.permute(0, 3, 4, 5, 1, 2).reshape(offset.shape)
        return output.permute(0, 3, 1, 2), by_x.permute(0, 3, 1, 2), by_offset, by_weight

    return Contender("deformops", _runner(operator, native, problem.train), canonical)


def contenders(problem: Problem) -> list[Contender]:
    """Ours in both memory formats, the ordinary convolution, and whoever else is installed and runs on a GPU."""
    competitors = [_ours(problem, True), _ours(problem, False), _cudnn(problem)]
    for package, build in (("torchvision", _torchvision), ("deformops", _deformops)):
        if problem.tensors[0].is_cuda and importlib.util.find_spec(package) is not None:
            competitors.append(_built(package, build, problem))
    return competitors


def _built(package: str, build: Callable[[Problem], Contender], problem: Problem) -> Contender:
    try:
        return build(problem)
    except (ImportError, AttributeError, RuntimeError, OSError) as failure:
        why = f"{package} cannot be called: {failure}"  # another version of it, or one for another torch

    def run() -> Results:
        raise ImportError(why)

    return Contender(package, run)
