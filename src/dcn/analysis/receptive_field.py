"""The effective receptive field: how strongly each pixel of the image moves one unit of a layer, by its gradient.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks" (NIPS 2016): the field
is the gradient of a unit with respect to the image; its size is the square root of the number of pixels whose gradient
is more than 1 - 95.45 % of the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dcn.analysis.effective_dilation import CATEGORIES, COCO_SIDES, Spread, categories_at, check_sides, run_on
from dcn.nn import DeformConv2d
from dcn.nn.grids import Grid, Mapped, watch_maps
from dcn.nn.wrapped import HasModel, module_of
from dcn.structures import Sample

SHARE = 1 - 0.9545
"""Pixels count whose gradient is more than this share of the largest."""

RADIUS = 160
"""Pixels around a unit that the mean fields keep."""


class _ReachedError(Exception):
    """The layer has run: the rest of the network need not."""


@dataclass(frozen=True)
class Response:
    """One image up to one layer, ready for gradients.

    Attributes:
        layer: name of the layer.
        image: ``[1, C, H, W]``, what the first layer was given, with a gradient.
        output: ``[1, C, h, w]`` of the layer.
        grid: where its units lie in the image.
    """

    layer: str
    image: Tensor
    output: Tensor
    grid: Grid

    def field(self, unit: tuple[int, int]) -> Tensor:
        """The receptive field of a unit (row, column): ``[H, W]``, absolute gradients summed over the channels.

        The unit's channels are mixed with normally distributed weights (a fixed seed), so that they do not cancel.
        """
        values = self.output[0, :, unit[0], unit[1]]
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(len(values), generator=generator).to(values)
        (gradient,) = torch.autograd.grad((values * weights).sum(), self.image, retain_graph=True)
        return gradient[0].abs().sum(0).cpu()


def respond(model: nn.Module | HasModel, image: Tensor, layer: str | None = None) -> Response:
    """Run a model on one image up to a layer.

    Args:
        model: a predictor of `dcn.load`, a model of this package, or any module. It runs in evaluation mode and is
            left in the mode it was in.
        image: ``[3, H, W]`` uint8, handed over as ``model([image])``; or ``[1, C, H, W]`` floating point, handed over
            as ``model(image)``.
        layer: name of a convolution or pooling layer; ``None``: see :func:`default_layer`.

    Raises:
        ValueError: no such layer, it did not run, or a model that takes no list of images got one.
    """
    module = module_of(model)
    chosen = default_layer(module) if layer is None else layer
    leaves: list[Tensor] = []
    responses: list[Response] = []

    def enter(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if leaves:
            return None
        leaves.append(inputs[0].detach().clone().requires_grad_())
        return (leaves[0], *inputs[1:])

    def see(one: Mapped) -> None:
        if one.name == chosen:
            responses.append(Response(chosen, leaves[0], one.output, one.output_grid))
            raise _ReachedError

    was_training = module.training
    module.eval()
    handles = [
        own.register_forward_pre_hook(enter)
        for own in module.modules()
        if isinstance(own, DeformConv2d | nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    ]
    # Models prepared for inference add to outputs in place, which gradients of a deformable layer do not survive.
    handles += [
        own.register_forward_hook(lambda _layer, _inputs, output: output.clone())
        for own in module.modules()
        if isinstance(own, DeformConv2d)
    ]
    device = next(module.parameters(), image).device
    try:
        with watch_maps(module, see), torch.enable_grad():
            if image.dtype == torch.uint8:
                run_on(module, [image.to(device)], None)
            else:
                module(image.to(device))
    except _ReachedError:
        pass
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    if not responses:
        raise ValueError(
            f"layer: expected a layer of the model that runs, such as {default_layer(module)}, got {chosen!r}"
        )
    return responses[0]


def default_layer(model: nn.Module) -> str:
    """The last deformable convolution; without one the last convolution of the backbone that has several taps.

    Raises:
        ValueError: a model without either.
    """
    deformable = [name for name, own in model.named_modules() if isinstance(own, DeformConv2d)]
    if deformable:
        return deformable[-1]
    wide = [name for name, own in model.named_modules() if isinstance(own, nn.Conv2d) and max(own.kernel_size) > 1]
    backbone = [name for name in wide if name.startswith("backbone.")]
    if not wide:
        raise ValueError("model: expected a convolution with several taps, got none; name a layer")
    return (backbone or wide)[-1]


def receptive_field(
    model: nn.Module | HasModel, image: Tensor, position: tuple[float, float], layer: str | None = None
) -> Tensor:
    """The effective receptive field of the unit of a layer that lies nearest to a pixel.

    Args:
        model: as in :func:`respond`.
        image: likewise.
        position: (x, y) in continuous pixels of the image.
        layer: as in :func:`respond`.

    Returns:
        ``[H, W]`` of the image, 0 or more: how strongly each pixel moves the unit.
    """
    response = respond(model, image, layer)
    return response.field(_unit(response.grid, position))[: image.shape[-2], : image.shape[-1]]


def field_size(field: Tensor, share: float = SHARE) -> float:
    """Side in pixels of a square with as many pixels as have more than a share of the largest gradient."""
    return float((field > share * field.max()).sum()) ** 0.5


@contextmanager
def without_offsets(model: nn.Module | HasModel) -> Iterator[None]:
    """Inside, the deformable layers of a model sample like ordinary convolutions; modulation is as at their start."""
    handles = [
        own.conv_offset.register_forward_hook(lambda _layer, _inputs, output: torch.zeros_like(output))
        for own in module_of(model).modules()
        if isinstance(own, DeformConv2d)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _empty() -> Tensor:
    return torch.zeros(2 * RADIUS + 1, 2 * RADIUS + 1)


@dataclass
class LayerFields:
    """The receptive fields of some units of one layer.

    Attributes:
        layer: its name.
        sizes: of the fields in pixels of the image as the model sees it, by what lies at the unit.
        plain: the same units without offsets.
        means: ``[2 * RADIUS + 1, 2 * RADIUS + 1]``: mean field by what lies at the unit, each of sum 1, centred at it.
        plain_mean: the same without offsets, of all units.
    """

    layer: str
    sizes: dict[str, Spread] = field(default_factory=lambda: {category: Spread() for category in CATEGORIES})
    plain: dict[str, Spread] = field(default_factory=lambda: {category: Spread() for category in CATEGORIES})
    means: dict[str, Tensor] = field(default_factory=lambda: {category: _empty() for category in CATEGORIES})
    plain_mean: Tensor = field(default_factory=_empty)


def field_statistics(
    model: nn.Module | HasModel,
    samples: Iterable[Sample],
    layer: str | None = None,
    sides: Sequence[float] = COCO_SIDES,
    *,
    units: int = 2,
    background: int | None = None,
    seed: int = 0,
    prepare: Callable[[list[Tensor]], Tensor] | None = None,
) -> LayerFields:
    """Receptive fields of units on small, medium and large objects and on background.

    Args:
        model: as in :func:`respond`.
        samples: images as the model sees them; targets may be in pixels of the file.
        layer: as in :func:`respond`.
        sides: see `dcn.analysis.effective_dilation.categories_of`.
        units: of each kind and image, chosen at random.
        background: see `dcn.analysis.effective_dilation.categories_in_map`.
        seed: of the choice.
        prepare: for a network of your own: what it takes, ``[1, C, H, W]``, from a list of one image, for example
            ``lambda images: torch.stack(images) / 255``.

    Raises:
        ValueError: no samples, or as :func:`respond`.
    """
    check_sides(sides)
    module = module_of(model)
    result = LayerFields(default_layer(module) if layer is None else layer)
    generator = torch.Generator().manual_seed(seed)
    seen = 0
    for sample in samples:
        seen += 1
        pixels = sample.image if prepare is None else prepare([sample.image])
        response = respond(module, pixels, result.layer)
        chosen = _chosen(sample, response.grid, sides, background, units, generator)
        with without_offsets(module):
            plain = respond(module, pixels, result.layer)
        for category, unit in chosen:
            center = response.grid.to_image(torch.tensor(unit).float()).round().long().tolist()
            own, still = response.field(unit), plain.field(unit)
            result.sizes[category].add(torch.tensor([field_size(own)]))
            result.plain[category].add(torch.tensor([field_size(still)]))
            _add_centred(result.means[category], own, center)
            _add_centred(result.plain_mean, still, center)
    if not seen:
        raise ValueError("samples: expected one image or more, got none")
    return result


def _chosen(
    sample: Sample, grid: Grid, sides: Sequence[float], background: int | None, units: int, generator: torch.Generator
) -> list[tuple[str, tuple[int, int]]]:
    """Kind and (row, column) of the units that are measured in one image."""
    categories = categories_at(sample, grid, sides, background)
    chosen = []
    for index, category in enumerate(CATEGORIES):
        locations = (categories == index).nonzero()[:, 0]
        picked = locations[torch.randperm(len(locations), generator=generator)[:units]]
        chosen += [(category, divmod(location, grid.size[1])) for location in picked.tolist()]
    return chosen


def _add_centred(total: Tensor, one: Tensor, center: Sequence[int]) -> None:
    """Add a field of sum 1 to a total in whose middle its unit lies; what lies further away is left out."""
    scale = one.sum()
    if scale == 0:
        return
    rows, columns = (
        _overlap(location, side, total.shape[axis])
        for axis, (location, side) in enumerate(zip(center, one.shape, strict=True))
    )
    total[rows[1], columns[1]] += one[rows[0], columns[0]] / scale


def _overlap(location: int, side: int, width: int) -> tuple[slice, slice]:
    """Of one axis: which pixels of the field, and where they go in the total."""
    start = location - width // 2
    low, high = max(0, start), min(side, start + width)
    return slice(low, max(low, high)), slice(low - start, max(low, high) - start)


def _unit(grid: Grid, position: tuple[float, float]) -> tuple[int, int]:
    """(row, column) of the unit nearest to (x, y) in continuous pixels."""
    location = grid.from_image(torch.tensor([position[1], position[0]]) - 0.5).round().long()
    row, column = torch.minimum(location.clamp(min=0), torch.tensor(grid.size) - 1).tolist()
    return row, column
