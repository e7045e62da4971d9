"""Parameters and multiply-adds of models, counted from the operators that really run.

The unit is the one of the field (torchvision, mmdetection, fvcore): what tables call "GFLOPs" are 10^9 multiply-adds,
one multiplication and one addition together. Counted are convolutions, matrix products, and the sampling of deformable
layers and of RoI pooling: an interpolated value is 4 multiply-adds (its four neighbours), also where the offset is
zero. Not counted are offsets' coordinates, normalisation, activations, max pooling, sorting and suppression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dcn.models import Model, build_default
from dcn.models.detection.shared.frames import make_frames
from dcn.nn.wrapped import HasModel, module_of

NEIGHBOURS = 4
"""Multiply-adds of one bilinear interpolation."""

ADAPTIVE_SAMPLES = 2
"""Samples per bin and axis that are counted where a pooling chooses their number by the size of the region."""


@dataclass
class Count:
    """Multiply-adds.

    Attributes:
        by_part: for each direct child of the model, in the order in which they first ran.
        by_operator: for each operator.
    """

    by_part: dict[str, float] = field(default_factory=dict)
    by_operator: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Of everything."""
        return sum(self.by_operator.values())


def model_costs(name: str, size: tuple[int, int] | None = None) -> tuple[int, Count]:
    """Parameters and multiply-adds of a model with its default options; nothing is allocated or computed.

    Args:
        name: a key of :data:`dcn.models.MODELS`.
        size: see :func:`count_model`.
    """
    with torch.device("meta"):
        model = build_default(name)
    return count_parameters(model), count_model(model, size)


def count_model(model: Model, size: tuple[int, int] | None = None) -> Count:
    """Multiply-adds of a model for one image, your own models included; its weights move to the device ``meta``.

    Detectors are counted with as many regions as they keep in evaluation and, where they have masks, with as many masks
    as they keep detections: the most that an image can cost.

    Args:
        model: a detector or a segmentation model.
        size: ``(height, width)`` of the image; ``None``: the model's test size, width the longer side.
    """
    model = model.eval().to("meta")  # what was made by NumPy is on the CPU
    size = size or model.test_size
    divisor = model.preprocess.divisor
    pixels = torch.empty(1, 3, *(-(-side // divisor) * divisor for side in size), device="meta")
    return count_multiply_adds(model, _prediction(model, pixels, size))


def _prediction(model: Model, pixels: Tensor, size: tuple[int, int]) -> Callable[[], object]:
    """The call from normalised pixels ``[1, 3, H, W]`` to scores, or to detections that nobody waits for."""
    if model.task == "segmentation":
        return lambda: model.scores(pixels)
    padded = pixels.shape[2], pixels.shape[3]
    frames = make_frames([size], [size], torch.device("cpu"), clipped=[padded])
    frames = replace(frames, **{name: value.to("meta") for name, value in vars(frames).items()})
    return lambda: model.detect(pixels, frames, model.score_threshold)


def count_parameters(model: nn.Module | HasModel) -> int:
    """How many numbers its parameters have, trained or not; statistics of batch norm are not parameters."""
    return sum(parameter.numel() for parameter in module_of(model).parameters())


def count_multiply_adds(module: nn.Module, run: Callable[[], object]) -> Count:
    """Counts what happens inside of ``module`` while ``run()`` runs.

    On tensors of the device ``meta`` nothing is computed and the count takes milliseconds.

    A module with an attribute ``repeated_work`` (an integer) says that its inner work runs that many times too often:
    with fixed shapes the pooling of a pyramid with ``n`` levels runs for all regions on each level, though a region
    belongs to one of them. Its work is counted once.

    Args:
        module: the model that ``run`` calls, wholly or in part.
        run: calls it.
    """
    counter = _Counter()
    handles = [handle for name, child in module.named_modules() for handle in counter.watch(name, child)]
    try:
        with torch.no_grad(), counter:
            run()
    finally:
        for handle in handles:
            handle.remove()
    return counter.count


class _Counter(TorchDispatchMode):
    """Sees every operator; hooks on the modules tell which of them runs."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Count()
        self.running: list[tuple[str, float]] = [("", 1.0)]

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Hooks that note when ``module`` begins and ends."""
        factor = 1.0 / getattr(module, "repeated_work", 1)

        def enter(module: nn.Module, inputs: object) -> None:
            self.running.append((name.partition(".")[0], self.running[-1][1] * factor))

        def leave(module: nn.Module, inputs: object, output: object) -> None:
            self.running.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in _RULES:
            part, factor = self.running[-1]
            amount = _RULES[name](args, output) * factor
            self.count.by_part[part] = self.count.by_part.get(part, 0.0) + amount
            self.count.by_operator[name] = self.count.by_operator.get(name, 0.0) + amount
        return output


def _convolution(args: tuple[Any, ...], output: Tensor) -> int:
    """A weight is used once per cell of the output, or of the input of a transposed convolution."""
    image, weight, transposed = args[0], args[1], args[6]
    cells = prod((image if transposed else output).shape[2:]) * image.shape[0]
    return cells * weight.numel()


def _matrix_product(args: tuple[Any, ...], output: Tensor) -> int:
    return output.numel() * args[0].shape[-1]


def _matrix_product_and_bias(args: tuple[Any, ...], output: Tensor) -> int:
    return output.numel() * args[1].shape[-1]


def _deform_conv(args: tuple[Any, ...], output: Tensor) -> int:
    image, weight = args[0], args[2]
    cells = output.shape[0] * prod(output.shape[2:])
    samples = image.shape[1] * prod(weight.shape[2:])
    return cells * (weight.numel() + NEIGHBOURS * samples)


def _deform_conv_transpose(args: tuple[Any, ...], output: Tensor) -> int:
    """Every input location spreads the products of its channels over the neighbours of each tap."""
    image, weight = args[0], args[2]  # weight: [groups, C/groups, O/groups, *kernel]
    cells = image.shape[0] * prod(image.shape[2:])
    return cells * (weight.numel() + NEIGHBOURS * output.shape[1] * prod(weight.shape[3:]))


def _roi_mean(args: tuple[Any, ...], output: Tensor) -> int:
    form, samples = args[4], args[8]
    if form.startswith("cells"):
        return 0  # sums of whole cells: nothing is interpolated
    return output.numel() * NEIGHBOURS * (samples if samples > 0 else ADAPTIVE_SAMPLES) ** 2


_RULES: dict[str, Callable[[tuple[Any, ...], Tensor], int]] = {
    "aten::convolution": _convolution,
    "aten::mm": _matrix_product,
    "aten::bmm": _matrix_product,
    "aten::addmm": _matrix_product_and_bias,
    "aten::baddbmm": _matrix_product_and_bias,
    "dcn::deform_conv": _deform_conv,
    "dcn::deform_conv_transpose": _deform_conv_transpose,
    "dcn::roi_mean": _roi_mean,
}
