"""R-FCN without a proposal network: classes and offsets of regions that are given (the original's pooling demo)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from dcn.models.backbones import ORIGINAL_BACKBONE
from dcn.models.detection.original.rfcn import RFCNHead
from dcn.models.detection.shared.regions import to_rois
from dcn.models.preprocess import Preprocess


class RegionClassifier(nn.Module):
    """A backbone and an R-FCN head for given regions.

    Args:
        preprocess: images to a batch.
        backbone: batch to the maps C2 to C5; the last is read.
        roi_head: map and regions to logits and deltas.
        classes: names, in the order of the labels.
    """

    def __init__(
        self, preprocess: Preprocess, backbone: nn.Module, roi_head: RFCNHead, *, classes: Sequence[str]
    ) -> None:
        super().__init__()
        self.preprocess, self.backbone, self.roi_head = preprocess, backbone, roi_head
        self.classes = tuple(classes)

    def forward(self, images: Sequence[Tensor], regions: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Probabilities and offsets of regions.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB, of one size.
            regions: per image ``[R_i, 4]`` inclusive boxes.

        Returns:
            Probabilities ``[R, C + 1]``, background first, and the offsets of the bins for each class
            ``[R, 2 * (C + 1), bins, bins]``: x in channel ``2 * c``, y in ``2 * c + 1``, in tenths of the region's
            width and height. No offsets (``None``) for a head without them.
        """
        maps = [self.backbone(self.preprocess(images).pixels)[-1]]
        rois = to_rois(regions)
        logits, _ = self.roi_head(maps, rois)
        return logits.softmax(1), self.roi_head.cls.offsets(self.roi_head.reduced(maps), rois)


def deform_psroi_demo(num_classes: int = 20, *, depth: int = 101, width: float = 1.0) -> RegionClassifier:
    """The model of the original's ``deform_psroi_demo``: plain ResNet, 3 x 3 bins with offsets.

    Args:
        num_classes: without background.
        depth: of the ResNet.
        width: factor on the channels of its stages.
    """
    backbone = replace(ORIGINAL_BACKBONE, depth=depth, width=width).build()
    head = RFCNHead(backbone.out_channels[3], num_classes, bins=3, deformable=True)
    classes = [f"class_{index}" for index in range(num_classes)]
    return RegionClassifier(Preprocess("rgb_mean", divisor=1), backbone, head, classes=classes)
