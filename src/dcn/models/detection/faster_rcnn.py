"""Two-stage detectors on a feature pyramid in mmdetection's form: Faster, Mask, Cascade and Cascade Mask R-CNN.

The class puts the parts together; :func:`rcnn_fpn` makes the parts with the published numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.backbones import ResNet, deformable_positions
from dcn.models.backbones.resnet import BLOCKS, NormRule, Style
from dcn.models.detection.box_head import BoxHead, above_threshold
from dcn.models.detection.cascade_rcnn import STAGE_STDS, CascadeRoIHead
from dcn.models.detection.mask_head import MaskHead, paste_masks
from dcn.models.detection.padded import Frames, PaddedDetections, Size, make_frames, pad_detections
from dcn.models.detection.roi_extractor import RoIAlign, RoIExtractor
from dcn.models.detection.roi_heads import StandardRoIHead, with_masks
from dcn.models.detection.rpn import RPNHead
from dcn.models.necks import FPN
from dcn.models.preprocess import ImageBatch, Preprocess, PreprocessName
from dcn.nn import DeformConv2d, DeformRoIPool, ModulatedDeformRoIPool
from dcn.structures import Detections, Target

RoIPooling = Literal["align", "deform", "modulated"]

_ROI_STRIDES = (4, 8, 16, 32)


class FasterRCNN(nn.Module):
    """A backbone with a neck, a region proposal network, and a second stage on its proposals.

    Args:
        preprocess: images to a batch.
        backbone: batch to maps, finest first.
        neck: maps to the pyramid, finest first.
        rpn_head: pyramid to proposals.
        roi_head: pyramid and proposals to detections.
        classes: names, in the order of the labels.
        test_size: shorter side and largest longer side to which images are resized before they are given.
        score_threshold: detections have larger scores.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        backbone: nn.Module,
        neck: nn.Module,
        rpn_head: RPNHead,
        roi_head: StandardRoIHead | CascadeRoIHead,
        *,
        classes: Sequence[str],
        test_size: tuple[int, int] = (800, 1333),
        score_threshold: float = 0.05,
    ) -> None:
        super().__init__()
        self.preprocess, self.backbone, self.neck = preprocess, backbone, neck
        self.rpn_head, self.roi_head = rpn_head, roi_head
        self.classes = tuple(classes)
        self.test_size = test_size
        self.score_threshold = score_threshold

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        output_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB; they are not resized.
            targets: one per image, in training only. Crowd and difficult objects and boxes without area are left out.
            output_sizes: ``(height, width)`` per image, in whose pixels boxes and masks are wanted, for images that
                were resized before; by default the sizes of ``images``. In evaluation only.

        Returns:
            In training scalar losses by name, whose sum is to be minimised. In evaluation one ``Detections`` per
            image, which does not depend on the other images of the call.

        Raises:
            ValueError: without ``targets`` in training, or for lists of unequal length.
        """
        if self.training:
            return self._losses(images, targets)
        output_sizes = output_sizes or [(image.shape[1], image.shape[2]) for image in images]
        if len(output_sizes) != len(images):
            raise ValueError(f"output_sizes: expected {len(images)} (one per image), got {len(output_sizes)}")
        return self._predict(images, output_sizes)

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Target] | None) -> dict[str, Tensor]:
        if targets is None or len(targets) != len(images) or not images:
            got = "None" if targets is None else len(targets)
            raise ValueError(
                f"targets: expected one per image in training mode ({len(images)} images), got {got}; "
                "call .eval() first to predict"
            )
        batch = self.preprocess(images)
        # Chosen where the annotations are: on a GPU the number of objects would have to be waited for.
        trained = [_trained_objects(target, batch.pixels.device) for target in targets]
        return self.batch_losses(batch, make_frames(batch.sizes, batch.sizes, batch.pixels.device), trained)

    def batch_losses(self, batch: ImageBatch, frames: Frames, targets: Sequence[Target]) -> dict[str, Tensor]:
        """From normalised images to losses; nothing in it waits for the device.

        Args:
            batch: the images.
            frames: their sizes.
            targets: one per image, on the device of the network; every object counts.
        """
        features = self.neck(self.backbone(batch.pixels))
        output = self.rpn_head(features)
        proposals = self.rpn_head.proposals(output, frames.sizes)
        second = self.roi_head.losses(features, proposals, batch.sizes, targets)
        return self.rpn_head.losses(output, batch, targets) | second

    def detect(self, pixels: Tensor, frames: Frames, score_threshold: float) -> PaddedDetections:
        """From normalised images to detections; nothing in it waits for the device.

        Args:
            pixels: ``[N, 3, H, W]``.
            frames: sizes of the images.
            score_threshold: detections have larger scores.
        """
        features = self.neck(self.backbone(pixels))
        proposals = self.rpn_head.proposals(self.rpn_head(features), frames.sizes)
        return self.roi_head.predict(features, proposals, frames, score_threshold)

    def _predict(self, images: Sequence[Tensor], output_sizes: Sequence[Size]) -> list[Detections]:
        found: dict[int, Detections] = {}
        for members, batch, frames in self._batches(images, output_sizes):
            detections, masks = self.detect(batch.pixels, frames, self.score_threshold).per_image()
            for index, one, mask in zip(members, detections, masks, strict=True):
                found[index] = _pasted(one, mask, output_sizes[index])
        return [found[index] for index in range(len(images))]

    def _batches(
        self, images: Sequence[Tensor], output_sizes: Sequence[Size]
    ) -> Iterator[tuple[list[int], ImageBatch, Frames]]:
        """Batches: places of their images, pixels, sizes.

        Images that need the same padding share a batch; more padding would change what the borders show.
        """
        for members in self.preprocess.groups(images):
            batch = self.preprocess([images[index] for index in members])
            wanted = [output_sizes[index] for index in members]
            yield members, batch, make_frames(batch.sizes, wanted, batch.pixels.device)

    def raw_detections(
        self, images: Sequence[Tensor], output_sizes: Sequence[Size], score_threshold: float
    ) -> list[Detections]:
        """Every box of every class before suppression, without masks, in no order: what test-time merging starts from.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB.
            output_sizes: ``(height, width)`` per image, in whose pixels boxes are wanted.
            score_threshold: scores must be larger.
        """
        found: dict[int, Detections] = {}
        for members, batch, frames in self._batches(images, output_sizes):
            features = self.neck(self.backbone(batch.pixels))
            proposals = self.rpn_head.proposals(self.rpn_head(features), frames.sizes)
            rows = zip(*self.roi_head.candidates(features, proposals, frames), strict=True)
            raw = [Detections(*above_threshold(box, scores, score_threshold)) for box, scores in rows]
            found.update(zip(members, raw, strict=True))
        return [found[index] for index in range(len(images))]

    def add_masks(
        self, images: Sequence[Tensor], found: Sequence[Detections], output_sizes: Sequence[Size]
    ) -> list[Detections]:
        """Masks for detections that were made elsewhere; unchanged for a network without a mask head.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB.
            found: per image, in pixels of ``output_sizes``.
            output_sizes: ``(height, width)`` per image.
        """
        head = self.roi_head
        if head.mask_head is None:
            return list(found)
        drawn: dict[int, Detections] = {}
        for members, batch, frames in self._batches(images, output_sizes):
            features = self.neck(self.backbone(batch.pixels))
            padded = pad_detections([found[index] for index in members])
            drawn_on = with_masks(padded, features, frames, head.mask_roi_extractor, head.mask_heads)
            detections, masks = drawn_on.per_image()
            for index, one, mask in zip(members, detections, masks, strict=True):
                drawn[index] = _pasted(one, mask, output_sizes[index])
        return [drawn[index] for index in range(len(images))]


def _pasted(found: Detections, masks: Tensor | None, size: Size) -> Detections:
    """The same detections with masks at ``(height, width)`` from probabilities ``[D, m, m]``, if there are any."""
    return found if masks is None else replace(found, masks=paste_masks(masks, found.boxes, size))


def _trained_objects(target: Target, device: torch.device) -> Target:
    """The objects that are trained on, copied to ``device``; from memory that a GPU reads by itself if it is one."""
    target = target.select(~target.ignored & (boxes.sizes(target.boxes) > 0).all(1))
    if device.type == "cuda" and target.boxes.device.type == "cpu":
        target = target.pin_memory()
    return target.to(device)


def rcnn_fpn(
    num_classes: int = 80,
    *,
    depth: int = 50,
    width: float = 1.0,
    stem_channels: int = 64,
    groups: int = 1,
    base_width: int = 64,
    style: Style = "pytorch",
    pool: Literal["floor", "ceil"] = "floor",
    preprocess: PreprocessName = "rgb_std",
    norm: NormRule = "eval",
    frozen_stages: int = 1,
    deform_stages: Sequence[str] = (),
    modulated: bool = False,
    offset_groups: int = 1,
    boundary: Literal["v1", "v2"] = "v2",
    fpn_channels: int = 256,
    fc_channels: int = 1024,
    anchor_scale: float = 8.0,
    train_proposals: tuple[int, int] = (2000, 1000),
    test_proposals: tuple[int, int] = (1000, 1000),
    rois_per_image: int = 512,
    roi_pooling: RoIPooling = "align",
    cascade: bool = False,
    masks: bool = False,
    max_detections: int = 100,
    score_threshold: float = 0.05,
    test_size: tuple[int, int] = (800, 1333),
) -> FasterRCNN:
    """Faster R-CNN with FPN, or with ``cascade`` and ``masks`` its three relatives, as mmdetection defines them.

    Args:
        num_classes: without background.
        depth: of the ResNet: 18, 34, 50, 101.
        width: factor on the channels of its stages.
        stem_channels: channels of its first convolution.
        groups: groups of its 3x3 convolutions (ResNeXt-32x4d: 32).
        base_width: their width per group (ResNeXt-32x4d: 4).
        style: stride in the first 1x1 (``"caffe"``) or in the 3x3 (``"pytorch"``).
        pool: pooling after its stem, see :class:`ResNet`.
        preprocess: how images are normalised, see :class:`Preprocess`.
        norm: what batch norm trains, see :class:`ResNet`.
        frozen_stages: 0 to 4, see :class:`ResNet`.
        deform_stages: deformable 3x3 convolutions: stages (``"c3"``) or blocks (``"c5.2"``).
        modulated: whether those have a mask (v2).
        offset_groups: of those.
        boundary: rule at the image border of those.
        fpn_channels: of the pyramid, the proposal network and the mask head.
        fc_channels: of the box head, and of the offset branches of deformable RoI pooling.
        anchor_scale: side of the anchors in cells.
        train_proposals: per level before, and per image after suppression, in training.
        test_proposals: likewise in evaluation.
        rois_per_image: regions sampled for the second stage.
        roi_pooling: ``"align"``, or deformable RoI pooling, plain (``"deform"``) or ``"modulated"``, for the box head.
        cascade: three box heads in a row; the proposal network then follows Cascade R-CNN.
        masks: a mask head (per stage of a cascade).
        max_detections: per image.
        score_threshold: detections have larger scores.
        test_size: shorter and largest longer side of test images.
    """
    deform_conv = partial(DeformConv2d, modulated=modulated, offset_groups=offset_groups, boundary=boundary)
    backbone = ResNet(
        depth,
        width=width,
        stem_channels=stem_channels,
        groups=groups,
        base_width=base_width,
        style=style,
        pool=pool,
        deform=deformable_positions(deform_stages, BLOCKS.get(depth, ())),
        deform_conv=deform_conv,
        norm=norm,
        frozen_stages=frozen_stages,
    )
    rpn_head = RPNHead(
        fpn_channels,
        scale=anchor_scale,
        train_proposals=train_proposals,
        test_proposals=test_proposals,
        inside_only=cascade,
        beta=1 / 9 if cascade else 0.0,
    )
    extractors = [
        _box_extractor(roi_pooling, fpn_channels, fc_channels) for _ in range(len(STAGE_STDS) if cascade else 1)
    ]
    make_head = _cascade_head if cascade else _standard_head
    return FasterRCNN(
        Preprocess(preprocess),
        backbone,
        FPN(backbone.out_channels, fpn_channels),
        rpn_head,
        make_head(extractors, num_classes, fpn_channels, fc_channels, masks, rois_per_image, max_detections),
        classes=[f"class_{index}" for index in range(num_classes)],
        test_size=test_size,
        score_threshold=score_threshold,
    )


def _box_extractor(roi_pooling: RoIPooling, channels: int, fc_channels: int) -> RoIExtractor:
    if roi_pooling == "align":
        return RoIExtractor([RoIAlign(7, stride) for stride in _ROI_STRIDES])
    pools = {"deform": DeformRoIPool, "modulated": ModulatedDeformRoIPool}
    if roi_pooling not in pools:
        raise ValueError(f"roi_pooling: expected 'align', 'deform' or 'modulated', got {roi_pooling!r}")
    return RoIExtractor([pools[roi_pooling](7, channels, fc_channels, 1 / stride) for stride in _ROI_STRIDES])


def _mask_extractor(masks: bool) -> RoIExtractor | None:
    return RoIExtractor([RoIAlign(14, stride) for stride in _ROI_STRIDES]) if masks else None


def _standard_head(
    extractors: list[RoIExtractor],
    num_classes: int,
    channels: int,
    fc_channels: int,
    masks: bool,
    rois: int,
    detections: int,
) -> StandardRoIHead:
    return StandardRoIHead(
        extractors[0],
        BoxHead(channels * 7 * 7, num_classes, fc_channels=fc_channels),
        _mask_extractor(masks),
        MaskHead(channels, num_classes, channels=channels) if masks else None,
        rois_per_image=rois,
        low_quality="reassign" if masks else "none",  # mmdetection's settings of Mask and of Faster R-CNN
        max_detections=detections,
    )


def _cascade_head(
    extractors: list[RoIExtractor],
    num_classes: int,
    channels: int,
    fc_channels: int,
    masks: bool,
    rois: int,
    detections: int,
) -> CascadeRoIHead:
    heads = [
        BoxHead(channels * 7 * 7, num_classes, fc_channels=fc_channels, class_agnostic=True, stds=stds, beta=1.0)
        for stds in STAGE_STDS
    ]
    mask_heads = [MaskHead(channels, num_classes, channels=channels) for _ in STAGE_STDS] if masks else None
    return CascadeRoIHead(
        extractors,
        heads,
        _mask_extractor(masks),
        mask_heads,
        rois_per_image=rois,
        max_detections=detections,
    )
