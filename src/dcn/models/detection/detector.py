"""The protocol of detectors: what every detector answers, and the one forward pass that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor, nn

from dcn import boxes
from dcn.models.detection.shared.frames import Frames, Size, make_frames
from dcn.models.detection.shared.masks import paste_masks
from dcn.models.detection.shared.padded_detections import PaddedDetections
from dcn.models.detection.shared.selection import SelectionRule, above_threshold, select_detections
from dcn.models.parts import ModelPart
from dcn.models.preprocess import ImageBatch, Preprocess, check_images
from dcn.models.targets import check_boxes, check_targets
from dcn.structures import Detections, Target


@dataclass(frozen=True)
class Limits:
    """How a detector selects detections by itself.

    Attributes:
        nms_iou: overlap above which a detection suppresses another of its class.
        max_detections: per image.
    """

    nms_iou: float
    max_detections: int


class Detector(nn.Module):
    """A model that detects objects. Every detector is a subclass, your own too, and nobody asks for its class.

    A subclass answers :meth:`losses`, :meth:`candidates` and :attr:`limits`. It may also answer the other questions:
    :attr:`has_masks`, :meth:`add_masks`, :meth:`detect`, :meth:`frames`, :meth:`parts`.

    Args:
        preprocess: images to a batch.
        classes: names, in the order of the labels.
        test_size: shorter side and largest longer side to which images are resized before they are given.
        score_threshold: detections have larger scores.
        lr_multipliers: factors on the learning rate by name of the parameter; 1 where not named.

    Attributes:
        task: what the model does; training, evaluation and prediction are chosen by it.
        inclusive_boxes: whether boxes of :meth:`candidates` end with their last pixel, as in the original MXNet code;
            the original's rule for the selection of detections goes with them.
    """

    task: Final[Literal["detection"]] = "detection"
    inclusive_boxes: bool = False

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        classes: Sequence[str],
        test_size: Size = (800, 1333),
        score_threshold: float = 0.05,
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.classes: tuple[str, ...] = tuple(classes)
        self.test_size, self.score_threshold = test_size, score_threshold
        self.lr_multipliers: dict[str, float] = dict(lr_multipliers or {})

    # What a subclass answers.

    def losses(self, batch: ImageBatch, frames: Frames, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalar losses by name, whose sum is minimised.

        Args:
            batch: the images.
            frames: their sizes.
            targets: one per image, in pixels of the images, on any device; the detector leaves out what it does not
                train on (crowd and difficult objects, boxes without area).
        """
        raise NotImplementedError

    def candidates(self, pixels: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """Boxes and scores before any selection.

        Args:
            pixels: ``[N, 3, H, W]``, normalised.
            frames: sizes of the images.

        Returns:
            Boxes ``[N, P, K, 4]`` in pixels of the output, with ``K`` either 1 or the number of classes, and scores
            ``[N, P, C]`` without background; -1 in slots that do not count.
        """
        raise NotImplementedError

    @property
    def limits(self) -> Limits:
        """How the detector selects detections where the caller does not say otherwise."""
        raise NotImplementedError

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return False

    def detect(self, pixels: Tensor, frames: Frames, min_score: float) -> PaddedDetections:
        """Normalised images to detections; the host does not wait for the device in here.

        Args:
            pixels: ``[N, 3, H, W]``.
            frames: sizes of the images.
            min_score: detections have larger scores.
        """
        limits = self.limits
        rule = SelectionRule(min_score, limits.nms_iou, limits.max_detections, original=self.inclusive_boxes)
        candidates, scores = self.candidates(pixels, frames)
        return select_detections(candidates, scores, frames.output_sizes, rule)

    def add_masks(
        self, images: Sequence[Tensor], detections: Sequence[Detections], output_sizes: Sequence[Size]
    ) -> list[Detections]:
        """Masks for detections that were selected elsewhere; a detector without masks returns them unchanged.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB.
            detections: per image, in pixels of ``output_sizes``.
            output_sizes: ``(height, width)`` per image.
        """
        return list(detections)

    def frames(self, batch: ImageBatch, output_sizes: Sequence[Size]) -> Frames:
        """The sizes of a batch whose detections are in pixels of ``output_sizes``."""
        return make_frames(batch.sizes, output_sizes, batch.pixels.device)

    def parts(self) -> list[ModelPart]:
        """The parts whose times are reported separately, in the present mode (training or evaluation)."""
        return [ModelPart("input" if name == "preprocess" else name, child) for name, child in self.named_children()]

    # What all detectors share.

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        output_sizes: Sequence[Size] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB; they are not resized.
            targets: one per image, in training only. Crowd and difficult objects and boxes without area are left out.
            output_sizes: ``(height, width)`` per image, in whose pixels boxes and masks are returned, for images that
                were resized before; by default the sizes of ``images``. In evaluation only.

        Returns:
            In training scalar losses by name, whose sum is minimised. In evaluation one ``Detections`` per image, best
            first; they do not depend on the other images of the call.

        Raises:
            ValueError: for other images, without ``targets`` in training, for targets of another size or with labels
                that the model does not have, or for lists of unequal length.
        """
        check_images(images)
        if self.training:
            annotations = check_targets(images, targets, Target)
            check_boxes(images, annotations, len(self.classes))
            batch = self.preprocess(images)
            return self.losses(batch, self.frames(batch, batch.sizes), annotations)
        sizes = sizes_of(images, output_sizes)

        def detect(members: list[int], batch: ImageBatch, frames: Frames) -> list[Detections]:
            """Detections of the images of one batch."""
            padded = self.detect(batch.pixels, frames, self.score_threshold)
            return with_pasted_masks(padded, [sizes[index] for index in members])

        return self.each_batch(images, sizes, detect)

    @torch.no_grad()
    def pre_nms(self, images: Sequence[Tensor], output_sizes: Sequence[Size], min_score: float) -> list[Detections]:
        """Every box of every class before suppression, without masks, in no order: test-time augmentation merges them.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB; they are not resized.
            output_sizes: ``(height, width)`` per image, in whose pixels boxes are returned.
            min_score: detections have larger scores.

        Returns:
            Boxes with continuous edges. Inclusive boxes of the original models may reach one pixel beyond the image:
            clip them after suppression, as the original does.
        """

        def collect(members: list[int], batch: ImageBatch, frames: Frames) -> list[Detections]:
            """Candidates of the images of one batch."""
            rows = zip(*self.candidates(batch.pixels, frames), strict=True)
            return [self._above(box, scores, min_score) for box, scores in rows]

        return self.each_batch(images, output_sizes, collect)

    def _above(self, candidates: Tensor, scores: Tensor, min_score: float) -> Detections:
        box, score, label = above_threshold(candidates, scores, min_score)
        return Detections(boxes.from_inclusive(box) if self.inclusive_boxes else box, score, label)

    def each_batch(
        self,
        images: Sequence[Tensor],
        output_sizes: Sequence[Size],
        run: Callable[[list[int], ImageBatch, Frames], Sequence[Detections]],
    ) -> list[Detections]:
        """The results of ``run(members, batch, frames)`` for every batch, in the order of ``images``.

        Images that need the same padding share a batch; more padding would change results at the borders.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB.
            output_sizes: ``(height, width)`` per image.
            run: called with the indices of the images of a batch, the batch and its sizes.
        """
        results: dict[int, Detections] = {}
        for members, batch in self.preprocess.batches(images):
            frames = self.frames(batch, [output_sizes[index] for index in members])
            results.update(zip(members, run(members, batch, frames), strict=True))
        return [results[index] for index in range(len(images))]


def sizes_of(images: Sequence[Tensor], output_sizes: Sequence[Size] | None) -> Sequence[Size]:
    """``output_sizes``, or without them the sizes of the images.

    Raises:
        ValueError: there are not as many as images.
    """
    if output_sizes is None:
        return [(image.shape[1], image.shape[2]) for image in images]
    if len(output_sizes) != len(images):
        raise ValueError(f"output_sizes: expected {len(images)} (one per image), got {len(output_sizes)}")
    return output_sizes


def with_pasted_masks(padded: PaddedDetections, sizes: Sequence[Size]) -> list[Detections]:
    """The detections of every image, with masks of ``(height, width)`` where there are probabilities of masks."""
    rows = zip(*padded.per_image(), sizes, strict=True)
    return [one if mask is None else replace(one, masks=paste_masks(mask, one.boxes, size)) for one, mask, size in rows]
