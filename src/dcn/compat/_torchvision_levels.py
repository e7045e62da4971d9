"""torchvision's RoIAlign over the maps of a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dcn import ops
from dcn.compat import _layers

_EPSILON = 1e-6
"""Added to a level before it is rounded down, as torchvision does."""


class MultiScaleRoIAlign(nn.Module):
    """``torchvision.ops.MultiScaleRoIAlign``: each box is pooled from one map of a pyramid, by its size.

    The scale of a map is the power of 2 that is nearest to its height over that of the largest image. A box of area
    ``canonical_scale ** 2`` belongs to the map of scale ``2 ** -canonical_level``, one of half that side to the next
    finer one (Lin et al. 2017, "Feature Pyramid Networks", equation 1).

    Args:
        featmap_names: the maps that are used, finest first.
        output_size: bins, one number or ``(rows, columns)``.
        sampling_ratio: samples per bin and axis; 0 or less: ``ceil(bin size)``.
        canonical_scale: see above.
        canonical_level: see above.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        size = _layers.pair("output_size", output_size)
        self.featmap_names, self.output_size, self.sampling_ratio = featmap_names, size, sampling_ratio
        self.canonical_scale, self.canonical_level = canonical_scale, canonical_level

    def forward(
        self, x: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """``[K, C, rows, columns]`` for all boxes, image after image.

        Args:
            x: maps ``[N, C, H, W]`` by name; those that ``featmap_names`` does not name are not used.
            boxes: xyxy ``[L, 4]`` for each image, in its pixels.
            image_shapes: height and width of each image, without the padding of the batch.

        Raises:
            ValueError: no map of these names, or another number of boxes or shapes than images.
        """
        maps = [value for name, value in x.items() if name in self.featmap_names]
        if not maps:
            raise ValueError(f"x: expected some of the maps {list(self.featmap_names)}, got {list(x)}")
        for name, given in (("boxes", boxes), ("image_shapes", image_shapes)):
            if len(given) != maps[0].shape[0]:
                raise ValueError(f"{name}: expected one for each of {maps[0].shape[0]} images, got {len(given)}")
        image = [box.new_full((box.shape[0], 1), index) for index, box in enumerate(boxes)]
        rois = torch.cat([torch.cat(image), torch.cat(list(boxes))], 1)
        scales = [_scale(value, max(height for height, _ in image_shapes)) for value in maps]
        if len(maps) == 1:
            return self._pool(maps[0], rois, scales[0])
        levels = self._levels(rois[:, 1:], scales)
        pooled = maps[0].new_zeros((rois.shape[0], maps[0].shape[1], *self.output_size))
        for level, (value, scale) in enumerate(zip(maps, scales, strict=True)):
            own = (levels == level).nonzero()[:, 0]
            pooled = pooled.index_put((own,), self._pool(value, rois[own], scale))
        return pooled

    def _pool(self, value: Tensor, rois: Tensor, scale: float) -> Tensor:
        return ops.roi_align(value, rois, self.output_size, scale, self.sampling_ratio)

    def _levels(self, boxes: Tensor, scales: Sequence[float]) -> Tensor:
        """The map of every box, ``[K]`` int64 from 0."""
        low, high = (int(-math.log2(scale)) for scale in (scales[0], scales[-1]))
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        levels = (self.canonical_level + torch.log2(sides / self.canonical_scale) + _EPSILON).floor()
        return levels.clamp(low, high).long() - low

    def __repr__(self) -> str:
        fields = ("featmap_names", "output_size", "sampling_ratio")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in fields)})"


def _scale(value: Tensor, height: int) -> float:
    """Map pixels for each pixel of an image, a power of 2."""
    return float(2.0 ** round(math.log2(value.shape[-2] / height)))
