"""The class-aware region proposal network of the paper (section 4.1): a detector with a single stage.

The paper's only description is "a simplified SSD": a region proposal network on the reduced last map whose anchors
are classified into all classes instead of object or not. There is no public code. Our choices: the anchors, the 3x3
convolution of 512 channels, targets and sampling are those of the original Faster R-CNN, except that every anchor has a
label, also those that stick out of the image and those that overlap an object by half (there is no second stage to sort
out what an untrained one says, and SSD does so too); boxes are class-agnostic; detections of a class suppress one
another at 0.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dcn import boxes
from dcn.models.backbones import ORIGINAL_BACKBONE, BackboneSpec, make_backbone
from dcn.models.detection.detector import Detector, Limits
from dcn.models.detection.original.rpn import OriginalRPNHead, decode
from dcn.models.detection.original.specs import DETECTIONS, NMS_IOU
from dcn.models.detection.original.targets import Objects, assign_anchors, objects_of
from dcn.models.detection.shared.anchors import AnchorShapes
from dcn.models.detection.shared.frames import Frames
from dcn.models.detection.specs import DetectionSpec
from dcn.models.initialise import initialise
from dcn.models.parts import ModelPart
from dcn.models.preprocess import ImageBatch, Preprocess, PreprocessName
from dcn.structures import Target

POSITIVE_IOU = 0.5
"""Overlap with an object from which an anchor is positive; below it is background."""


class ReducedMap(nn.Module):
    """A 1x1 convolution with ReLU on the last map of the backbone."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, channels, 1)
        initialise(self.reduce)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps, coarsest last, to ``[N, channels, H, W]``."""
        return F.relu(self.reduce(features[-1]))


class ClassAwareRPN(Detector):
    """Backbone, reduced map, and a proposal network that tells classes apart.

    Args:
        preprocess: images to a batch.
        backbone: batch to the maps C2 to C5.
        neck: these maps to the one that is read.
        rpn_head: scores with as many foreground classes as ``classes``, and deltas, of all anchors.
        classes: names, in the order of the labels.
        detections: what is returned; ties with the weakest detection are kept.
        lr_multipliers: factors on the learning rate by name of the parameter; 1 where not named.
    """

    inclusive_boxes = True

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        neck: nn.Module,
        rpn_head: OriginalRPNHead,
        *,
        classes: Sequence[str],
        detections: DetectionSpec = DETECTIONS,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            preprocess,
            classes=classes,
            test_size=detections.test_size,
            score_threshold=detections.score_threshold,
            lr_multipliers=lr_multipliers,
        )
        self.backbone, self.neck, self.rpn_head = backbone, neck, rpn_head
        self.max_detections = detections.max_detections

    @property
    def limits(self) -> Limits:
        """Suppression at 0.3, as in the original's detectors."""
        return Limits(NMS_IOU, self.max_detections)

    def parts(self) -> list[ModelPart]:
        """See :meth:`Detector.parts`."""
        parts = [ModelPart("input", self.preprocess), ModelPart("backbone", self.backbone)]
        parts += [ModelPart("neck", self.neck), ModelPart("proposals", self.rpn_head)]
        return [*parts, ModelPart("proposals", self.rpn_head, "losses")] if self.training else parts

    def losses(self, batch: ImageBatch, frames: Frames, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_bbox``, see :meth:`Detector.losses`."""
        # Selected where the annotations are: on a GPU the host would wait for the number of objects.
        return self.batch_losses(batch, [objects_of(target, batch.pixels.device) for target in targets])

    def batch_losses(self, batch: ImageBatch, objects: Sequence[Objects]) -> dict[str, Tensor]:
        """From normalised images to losses; nothing in it waits for the device.

        Args:
            batch: the images.
            objects: of each image, on the device of the model.
        """
        output = self.rpn_head([self.neck(self.backbone(batch.pixels))])
        anchors = [
            assign_anchors(
                output.anchors,
                own,
                size,
                inside_only=False,
                samples=self.rpn_head.samples,
                class_aware=True,
                positive_iou=POSITIVE_IOU,
                negative_iou=POSITIVE_IOU,
            )
            for own, size in zip(objects, batch.sizes, strict=True)
        ]
        return self.rpn_head.losses(output, anchors)

    def candidates(self, pixels: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """The best anchors by their best class: inclusive boxes ``[N, P, 1, 4]`` in pixels of the output, decoded.

        The second result are their scores ``[N, P, C]``.
        """
        output = self.rpn_head([self.neck(self.backbone(pixels))])
        scores = output.logits.softmax(2)[..., 1:]
        best = scores.amax(2).topk(min(self.rpn_head.before_nms, scores.shape[1]), 1).indices
        deltas = output.deltas.gather(1, best[..., None].expand(-1, -1, 4))
        decoded = decode(output.anchors[best], deltas, frames.sizes)
        output_boxes = decoded * boxes.per_image(frames.factors, decoded)
        return output_boxes[:, :, None], scores.gather(1, best[..., None].expand(-1, -1, scores.shape[2]))


def class_aware_rpn(
    num_classes: int = 80,
    *,
    backbone: BackboneSpec | nn.Module = ORIGINAL_BACKBONE,
    preprocess: PreprocessName = "rgb_mean",
    head_channels: int = 1024,
    rpn_channels: int = 512,
    anchor_scales: Sequence[float] = (4, 8, 16, 32),
    candidates: int = 6000,
    detections: DetectionSpec = DETECTIONS,
) -> ClassAwareRPN:
    """The class-aware proposal network on a dilated ResNet (stride 16).

    Args:
        num_classes: without background.
        backbone: a spec, or a module that returns maps, the last of stride 16, see
            :func:`dcn.models.backbones.make_backbone`.
        preprocess: how images are normalised, see :class:`Preprocess`; it belongs to the backbone's weights.
        head_channels: of the reduced last map.
        rpn_channels: of the 3x3 convolution.
        anchor_scales: sides of the anchors in cells of 16 pixels (VOC: 8, 16, 32).
        candidates: anchors that enter the suppression.
        detections: what it returns, and the size of test images.
    """
    module, channels = make_backbone(backbone, (16,))
    head = OriginalRPNHead(
        head_channels,
        rpn_channels,
        anchors=AnchorShapes((16,), tuple(anchor_scales)),
        num_classes=num_classes,
        before_nms=candidates,
    )
    return ClassAwareRPN(
        Preprocess(preprocess, divisor=1),
        module,
        ReducedMap(channels[-1], head_channels),
        head,
        classes=[f"class_{index}" for index in range(num_classes)],
        detections=detections,
        lr_multipliers={"neck.reduce.weight": 3.0, "neck.reduce.bias": 3.0},
    )
