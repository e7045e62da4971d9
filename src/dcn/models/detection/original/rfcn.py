"""R-FCN, plain and deformable: position-sensitive score maps, pooled and averaged (Dai et al. 2016).

Follows the original MXNet code of Deformable ConvNets, which differs from the paper in one point: class scores have
offsets of their own for every class, background included.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dcn import ops
from dcn.models.backbones import ORIGINAL_BACKBONE, BackboneSpec, make_backbone
from dcn.models.detection.original.detector import OriginalDetector
from dcn.models.detection.original.specs import DETECTIONS, FeatureMaps, OriginalRPNSpec, RegionTraining
from dcn.models.detection.specs import DetectionSpec
from dcn.models.initialise import initialise
from dcn.models.preprocess import Preprocess, PreprocessName

SAMPLES_PER_PART = 4
TRANS_STD = 0.1


class PositionSensitiveBranch(nn.Module):
    """A 1x1 convolution to ``bins²`` maps per output, pooled in each region so that a bin reads its own map.

    Args:
        in_channels: channels of the input.
        outputs: values per region and bin.
        bins: rows and columns of the grid.
        stride: image pixels per cell of the maps.
        offset_classes: how many groups of outputs have offsets of their own; ``None``: pooling without offsets. The
            maps of the offsets begin with zeros.
    """

    def __init__(
        self, in_channels: int, outputs: int, *, bins: int = 7, stride: int = 16, offset_classes: int | None = None
    ) -> None:
        super().__init__()
        self.maps = nn.Conv2d(in_channels, bins * bins * outputs, 1)
        initialise(self.maps)
        self.offset_maps: nn.Conv2d | None = None
        if offset_classes is not None:
            self.offset_maps = nn.Conv2d(in_channels, 2 * bins * bins * offset_classes, 1)
            nn.init.zeros_(self.offset_maps.weight)
            assert self.offset_maps.bias is not None
            nn.init.zeros_(self.offset_maps.bias)
        self.bins, self.stride = bins, stride

    def offsets(self, features: Tensor, rois: Tensor) -> Tensor | None:
        """``[R, 2 * offset_classes, bins, bins]``: x, y per class as shares of the region's size, times 10."""
        if self.offset_maps is None:
            return None
        return ops.deform_ps_roi_pool(
            self.offset_maps(features),
            rois,
            None,
            self.bins,
            1 / self.stride,
            group_size=self.bins,
            sample_per_part=SAMPLES_PER_PART,
        )

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """Maps ``[N, in_channels, H, W]`` and inclusive regions ``[R, 5]`` to ``[R, outputs, bins, bins]``."""
        maps, scale = self.maps(features), 1 / self.stride
        offset = self.offsets(features, rois)
        if offset is None:
            return ops.ps_roi_pool(maps, rois, self.bins, scale)
        return ops.deform_ps_roi_pool(
            maps,
            rois,
            offset,
            self.bins,
            scale,
            group_size=self.bins,
            sample_per_part=SAMPLES_PER_PART,
            trans_std=TRANS_STD,
        )


class RFCNHead(nn.Module):
    """Class scores and box deltas of regions without any layer per region.

    Args:
        in_channels: of the last map of the backbone.
        num_classes: without background.
        channels: of the 1x1 convolution that reduces it.
        bins: rows and columns of the grid of a region.
        stride: image pixels per cell.
        deformable: whether bins have learned offsets.
        class_agnostic: one box per region (the published setting) instead of one per class.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 1024,
        bins: int = 7,
        stride: int = 16,
        deformable: bool = False,
        class_agnostic: bool = True,
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, channels, 1)
        initialise(self.reduce)
        scores = num_classes + 1
        boxes = 2 if class_agnostic else scores
        self.cls = PositionSensitiveBranch(
            channels, scores, bins=bins, stride=stride, offset_classes=scores if deformable else None
        )
        self.reg = PositionSensitiveBranch(
            channels, 4 * boxes, bins=bins, stride=stride, offset_classes=1 if deformable else None
        )
        self.num_classes, self.class_agnostic = num_classes, class_agnostic

    def reduced(self, features: Sequence[Tensor]) -> Tensor:
        """``[N, channels, H, W]``: what both branches read."""
        return F.relu(self.reduce(features[0]))

    def forward(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """One map and inclusive regions ``[R, 5]`` to logits ``[R, C + 1]`` and deltas ``[R, K, 4]``, both float32.

        Background comes first in both: ``K`` is 2 for a class-agnostic head, whose deltas stand at index 1, and
        ``C + 1`` otherwise.
        """
        shared = self.reduced(features)
        logits = self.cls(shared, rois).float().mean((2, 3))
        deltas = self.reg(shared, rois).float().mean((2, 3))
        return logits, deltas.unflatten(1, (-1, 4))


def rfcn(
    num_classes: int = 80,
    *,
    backbone: BackboneSpec | nn.Module = ORIGINAL_BACKBONE,
    preprocess: PreprocessName = "rgb_mean",
    deform_pool: bool = False,
    class_agnostic: bool = True,
    head_channels: int = 1024,
    bins: int = 7,
    rpn: OriginalRPNSpec = OriginalRPNSpec(),  # noqa: B008  # frozen
    hardest: int = 128,
    detections: DetectionSpec = DETECTIONS,
) -> OriginalDetector:
    """R-FCN on a dilated ResNet (stride 16), trained with hard-example mining over all regions.

    Args:
        num_classes: without background.
        backbone: a spec, or a module that returns at least two maps, the last two of stride 16, see
            :func:`dcn.models.backbones.make_backbone`.
        preprocess: how images are normalised, see :class:`Preprocess`; it belongs to the backbone's weights.
        deform_pool: deformable position-sensitive pooling.
        class_agnostic: one box per region instead of one per class.
        head_channels: of the reduced last map.
        bins: rows and columns of the position-sensitive grid.
        rpn: the proposal network.
        hardest: regions in the losses.
        detections: what it returns, and the size of test images.
    """
    module, channels = make_backbone(backbone, (16, 16))
    return OriginalDetector(
        Preprocess(preprocess, divisor=1),
        module,
        nn.Identity(),
        rpn.build(channels[-2]),
        RFCNHead(
            channels[-1],
            num_classes,
            channels=head_channels,
            bins=bins,
            deformable=deform_pool,
            class_agnostic=class_agnostic,
        ),
        maps=FeatureMaps(rpn=(-2,), roi=(-1,)),
        classes=[f"class_{index}" for index in range(num_classes)],
        regions=RegionTraining(
            hardest=hardest, lr_multipliers={"roi_head.reduce.weight": 3.0, "roi_head.reduce.bias": 3.0}
        ),
        detections=detections,
    )
