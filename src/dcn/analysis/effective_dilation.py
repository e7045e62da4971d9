"""Effective dilation: how far deformable filters spread on small, medium and large objects, and on background.

Dai et al., "Deformable Convolutional Networks" (ICCV 2017), section 3 and table 2: the effective dilation of a
deformable filter at one location is the mean distance between all adjacent pairs of its sampling locations, a rough
measure of its receptive field. A pair is adjacent when its taps are neighbours in a row or a column of the kernel; 3x3
taps have 12. Distances are in cells of the layer's input map, so a filter whose offsets are zero has its dilation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dcn.analysis.regions import region_areas
from dcn.class_names import IGNORE
from dcn.nn.grids import Call, Grid, pair, watch_deformable
from dcn.nn.wrapped import HasModel, module_of
from dcn.structures import Sample, SegmentationMap, Target
from dcn.suggest import first_line

Prepare = Callable[[list[Tensor]], Any]
"""What a network of one's own takes, from images ``[3, h_i, w_i]`` uint8."""

CATEGORIES = ("small", "medium", "large", "background")
"""What can lie at the centre of a filter."""

COCO_SIDES = (32.0, 96.0)
"""An object is small below 32 x 32 pixels of the original image, large from 96 x 96 on: COCO's classes."""

PAPER_SIDES = (96.0, 224.0)
"""The limits in the caption of table 2 of the paper."""

SKIPPED = -1
_BACKGROUND = CATEGORIES.index("background")


@dataclass
class Spread:
    """Mean and standard deviation of numbers that come in parts, in float64 (the update of Chan et al. 1979).

    Attributes:
        count: how many numbers.
        mean: of all; NaN without numbers.
    """

    count: int = 0
    mean: float = math.nan
    _squares: float = field(default=0.0, repr=False)  # of distances from the mean

    @property
    def std(self) -> float:
        """Standard deviation of all (divided by their number); NaN without numbers."""
        return math.sqrt(self._squares / self.count) if self.count else math.nan

    def add(self, values: Tensor) -> None:
        """Add numbers of any shape."""
        new = values.numel()
        if not new:
            return
        values = values.double()
        mean = float(values.mean())
        squares, total = float((values - mean).square().sum()), self.count + new
        step = mean - self.mean if self.count else 0.0
        self._squares += squares + step * step * self.count * new / total
        self.mean = self.mean + step * new / total if self.count else mean
        self.count = total


@dataclass(frozen=True)
class LayerDilation:
    """The filters of one deformable layer over a data set.

    Attributes:
        layer: name in the model; a call after the first in one pass has its number in brackets.
        group: offset group, from 0; ``None`` for all of them, or the only one.
        undeformed: effective dilation with offsets of zero: the layer's dilation, where it is the same on both axes.
        effective: effective dilation by what lies at the filter's centre, keys as `CATEGORIES`.
        modulation: mean factor of a filter's taps, ``0 .. mask_scale``, by the same; ``None`` without modulation.
    """

    layer: str
    group: int | None
    undeformed: float
    effective: dict[str, Spread]
    modulation: dict[str, Spread] | None


def effective_dilation(offset: Tensor, kernel_size: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Tensor:
    """Effective dilation of every filter.

    Args:
        offset: ``[N, 2*G*K, Ho, Wo]`` as `dcn.ops.deform_conv2d` takes it: per group and tap ``y, x``, in cells of the
            input, taps row by row.
        kernel_size: ``(vertical, horizontal)``, two taps or more.
        dilation: ``(vertical, horizontal)``.

    Returns:
        ``[N, G, Ho, Wo]`` float32, or float64 for such offsets, in cells of the input.

    Raises:
        ValueError: another number of channels, or a kernel of one tap.
    """
    rows, columns = kernel_size
    if rows * columns < 2:
        raise ValueError(f"kernel_size: expected two taps or more, for one has no neighbour, got {rows}x{columns}")
    if offset.ndim != 4 or offset.shape[1] % (2 * rows * columns):
        raise ValueError(
            f"offset: expected [N, 2*G*{rows * columns}, Ho, Wo] for a kernel of {rows}x{columns}, "
            f"got {list(offset.shape)}"
        )
    offset = offset if offset.dtype == torch.float64 else offset.float()
    taps = offset.unflatten(1, (-1, rows, columns, 2))
    down, across = taps.diff(dim=2), taps.diff(dim=3)
    down[:, :, :, :, 0] += dilation[0]
    across[:, :, :, :, 1] += dilation[1]
    return torch.cat([pairs.norm(dim=4).flatten(2, 3) for pairs in (down, across)], 2).mean(2)


def categories_of(centers: Tensor, target: Target, sides: Sequence[float] = COCO_SIDES) -> Tensor:
    """What lies at each filter's centre.

    A centre belongs to the objects whose box it is in (left and top edge included, right and bottom not), of several
    to the one of the smallest area. The annotated area of the object in pixels of the original image decides about its
    size, as in COCO. Difficult objects are objects; centres in crowd regions, which are neither objects nor
    background, are skipped.

    Args:
        centers: ``[..., 2]`` (x, y) in continuous pixels of ``target.size``.
        target: the annotation.
        sides: an object is medium from an area of the first side squared on, and large from that of the second.

    Returns:
        ``[...]`` int64, index into `CATEGORIES`, or -1 for centres that are skipped.
    """
    assert target.area is not None
    assert target.crowd is not None
    inside = ((centers[..., None, :] >= target.boxes[:, :2]) & (centers[..., None, :] < target.boxes[:, 2:])).all(-1)
    areas = torch.where(inside, target.area, math.inf)
    # A last column for "none of them", which is also there when there are no objects.
    areas, owner = torch.cat((areas, areas.new_full((*areas.shape[:-1], 1), math.inf)), -1).min(-1)
    result = torch.bucketize(areas, areas.new_tensor([side * side for side in sides]), right=True)
    result[areas.isinf()] = _BACKGROUND
    crowd = torch.cat((target.crowd, target.crowd.new_zeros(1)))[owner] & areas.isfinite()
    return torch.where(crowd, SKIPPED, result)


def categories_in_map(
    centers: Tensor, target: SegmentationMap, sides: Sequence[float] = COCO_SIDES, background: int | None = None
) -> Tensor:
    """What lies at each filter's centre, in a segmentation map.

    An object is a region of pixels of one label that are connected side by side; its size is their number. Pixels that
    are not annotated (255) are skipped.

    Args:
        centers: ``[..., 2]`` (x, y) in continuous pixels of the map; outside of it they are skipped.
        target: the annotation.
        sides: as in `categories_of`.
        background: the label that is background; ``None``: none is.

    Returns:
        As `categories_of`.
    """
    labels = target.labels
    areas = torch.from_numpy(region_areas(labels.numpy())).double()
    sizes = torch.bucketize(areas, areas.new_tensor([side * side for side in sides]), right=True)
    if background is not None:
        sizes[labels == background] = _BACKGROUND
    sizes[labels == IGNORE] = SKIPPED
    x, y = centers.floor().long().unbind(-1)
    height, width = labels.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, sizes[y.clamp(0, height - 1), x.clamp(0, width - 1)], SKIPPED)


def dilation_statistics(
    model: nn.Module | HasModel,
    batches: Iterable[Sequence[Sample]],
    sides: Sequence[float] = COCO_SIDES,
    *,
    by_group: bool = False,
    background: int | None = None,
    prepare: Prepare | None = None,
) -> list[LayerDilation]:
    """Effective dilation of every deformable layer of a model over a data set, a row of table 2 each.

    Every filter counts once: each cell of the layer's output whose centre lies in the image, not in the padding of
    its batch, and each offset group there. Where maps lie in the image: see `dcn.nn.grids.watch_deformable`. Layers
    that run on regions instead of whole images, and kernels of one tap, are skipped.

    Args:
        model: a model of this package, or with ``prepare`` any network with deformable layers. It runs in evaluation
            mode, without gradients, and is left in the mode it was in.
        batches: samples whose image is resized for the model; the target may be in pixels of another size of
            the same image, such as that of the file.
        sides: as in `categories_of`.
        by_group: a row for every offset group of a layer that has several, instead of one for all.
        background: of segmentation maps: see `categories_in_map`.
        prepare: what a network of your own takes, from a list of images ``[3, h_i, w_i]`` uint8, for example
            ``lambda images: torch.stack(images) / 255``. ``None``: the list itself, as models of this package take it.

    Raises:
        ValueError: no deformable layer, no images, sides that are not in order, or a network that takes no list of
            images and no ``prepare``.
    """
    check_sides(sides)
    module = module_of(model)
    device = next(module.parameters(), torch.empty(0)).device
    gatherer = _Gatherer(sides, by_group, background)
    was_training = module.training
    module.eval()
    try:
        for samples in batches:
            gatherer.begin(samples)
            with watch_deformable(module, gatherer.see), torch.no_grad():
                run_on(module, [sample.image.to(device) for sample in samples], prepare)
    finally:
        module.train(was_training)
    if not gatherer.rows:
        raise ValueError("batches: expected images that run through a deformable layer, got none")
    return list(gatherer.rows.values())


def run_on(module: nn.Module, images: list[Tensor], prepare: Prepare | None) -> None:
    """Run a model on images ``[3, h_i, w_i]`` uint8, or on what ``prepare`` makes of them.

    Raises:
        ValueError: there is no ``prepare``, and the model takes no list of images.
    """
    if prepare is not None or hasattr(module, "preprocess"):
        module(images if prepare is None else prepare(images))
        return
    try:
        module(images)
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"images: expected a model that takes a list of uint8 images, got {type(module).__name__}, which says: "
            f"{first_line(error)}; for a network of your own give the tensor that it takes, or what makes it: "
            "prepare=lambda images: torch.stack(images) / 255"
        ) from error


def check_sides(sides: Sequence[float]) -> None:
    """Refuse limits of sizes that are not two lengths in order."""
    if len(sides) != 2 or not 0 <= sides[0] <= sides[1]:
        raise ValueError(f"sides: expected two lengths in pixels, the smaller first, got {list(sides)}")


class _Gatherer:
    """The rows so far, and the batch that is running."""

    def __init__(self, sides: Sequence[float], by_group: bool, background: int | None) -> None:
        self.sides, self.by_group, self.background = sides, by_group, background
        self.rows: dict[tuple[str, int | None], LayerDilation] = {}

    def begin(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._categories: dict[Grid, list[Tensor]] = {}  # layers of one stage share theirs

    def see(self, call: Call) -> None:
        layer, grid = call.layer, call.output_grid
        kernel, dilation = pair(layer.kernel_size), pair(layer.dilation)
        if kernel == (1, 1) or len(call.features) != len(self._samples):
            return
        if grid not in self._categories:
            self._categories[grid] = [
                categories_at(sample, grid, self.sides, self.background) for sample in self._samples
            ]
        offset, mask = layer.split(call.predicted)
        effective = effective_dilation(offset, kernel, dilation)
        factors = None if mask is None else mask.float().unflatten(1, (layer.offset_groups, -1)).mean(2)
        still = float(effective_dilation(torch.zeros(1, 2 * kernel[0] * kernel[1], 1, 1), kernel, dilation))
        separate = self.by_group and layer.offset_groups > 1
        for group in range(layer.offset_groups) if separate else (None,):
            new = LayerDilation(call.name, group, still, _spreads(), None if factors is None else _spreads())
            row = self.rows.setdefault((call.name, group), new)
            own = slice(None) if group is None else slice(group, group + 1)
            self._add(row.effective, grid, effective[:, own])
            if row.modulation is not None and factors is not None:
                self._add(row.modulation, grid, factors[:, own])

    def _add(self, spreads: dict[str, Spread], grid: Grid, values: Tensor) -> None:
        """Values ``[N, groups, Ho, Wo]`` of one call."""
        for own, categories in zip(values.cpu().flatten(2), self._categories[grid], strict=True):
            for index, category in enumerate(CATEGORIES):
                spreads[category].add(own[:, categories == index])


def _spreads() -> dict[str, Spread]:
    return {category: Spread() for category in CATEGORIES}


def categories_at(
    sample: Sample, grid: Grid, sides: Sequence[float] = COCO_SIDES, background: int | None = None
) -> Tensor:
    """What lies at the centre of each unit of a map; centres in the padding of a batch are skipped.

    Args:
        sample: the image as the model sees it, with boxes or a segmentation map of any size.
        grid: of the map.
        sides: as in `categories_of`.
        background: as in `categories_in_map`.

    Returns:
        ``[Ho*Wo]``, as `categories_of`.
    """
    units = torch.cartesian_prod(*(torch.arange(side) for side in grid.size))
    centers = (grid.to_image(units) + 0.5).flip(1)
    (height, width), target = sample.image.shape[1:], sample.target
    tall, wide = target.size if isinstance(target, Target) else target.labels.shape
    placed = centers * torch.tensor([wide / width, tall / height])
    if isinstance(target, Target):
        categories = categories_of(placed, target, sides)
    else:
        categories = categories_in_map(placed, target, sides, background)
    shown = ((centers >= 0) & (centers < torch.tensor([width, height]))).all(1)
    return torch.where(shown, categories, SKIPPED)
