"""Small networks whose deformable layers have known offsets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcn.nn import DeformConv2d


class Fixed(nn.Module):
    """Stands in for an offset branch: gives the same map for every input."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, features: Tensor) -> Tensor:
        return self.values.to(features.dtype).expand(features.shape[0], *self.values.shape)


def deformable(offset: Tensor, *, mask: Tensor | None = None, dilation: int = 1, boundary: str = "v2") -> DeformConv2d:
    """A 3x3 layer of one channel with weights one and the offset map ``[18, H, W]`` (and mask ``[9, H, W]``).

    It runs on the reference, which is the specification: what is tested is the tracing.
    """
    layer = DeformConv2d(
        1,
        1,
        3,
        padding=dilation,
        dilation=dilation,
        bias=False,
        modulated=mask is not None,
        boundary=boundary,
        backend="reference",
    )
    nn.init.ones_(layer.weight)
    values = offset if mask is None else torch.cat((offset, torch.logit(mask)))
    setattr(layer, "conv_offset", Fixed(values))  # noqa: B010 (a stand-in of another type, for the test alone)
    return layer


def plain(layer: nn.Module) -> nn.Module:
    """The same convolution with all weights one and no bias."""
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    return layer


def whole_offsets(size: tuple[int, int], seed: int, reach: int = 2) -> Tensor:
    """Different whole-number offsets ``[18, H, W]`` at every unit: each tap reads exactly one unit."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-reach, reach + 1, (18, *size), generator=generator).float()


class Photo(nn.Module):
    """Takes a list of uint8 images like a detector, pads them by ``pad`` at the right and bottom, uses one channel."""

    def __init__(self, body: nn.Module, pad: int) -> None:
        super().__init__()
        self.body, self.pad = body, pad

    def forward(self, images: list[Tensor]) -> Tensor:
        batch = nn.functional.pad(images[0][None, :1].float(), (0, self.pad, 0, self.pad))
        result: Tensor = self.body(batch)
        return result
