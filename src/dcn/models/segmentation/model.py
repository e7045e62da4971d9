"""The protocol of segmentation models: what every one answers, and the forward pass that all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.class_names import IGNORE
from dcn.colors import Color
from dcn.models.parts import ModelPart
from dcn.models.preprocess import Preprocess, check_images
from dcn.models.targets import check_targets
from dcn.structures import SegmentationMap


class SegmentationModel(nn.Module):
    """A model that gives every pixel a class. Every segmentation model is a subclass, your own too.

    A subclass answers :meth:`scores`.

    Args:
        preprocess: images to a batch.
        classes: names, in the order of the labels.
        test_size: shorter side and largest longer side to which images are resized before they are given.
        lr_multipliers: factors on the learning rate by name of the parameter; 1 where not named.

    Attributes:
        task: what the model does; training, evaluation and prediction are chosen by it.
        colors: RGB (0..255) of each class in masks and pictures; ``None``: the usual ones. A training sets those of its
            masks.
    """

    task: Final[Literal["segmentation"]] = "segmentation"

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        classes: Sequence[str],
        test_size: tuple[int, int] = (1024, 2048),
        lr_multipliers: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.classes: tuple[str, ...] = tuple(classes)
        self.colors: tuple[Color, ...] | None = None
        self.test_size = test_size
        self.lr_multipliers: dict[str, float] = dict(lr_multipliers or {})

    def scores(self, pixels: Tensor) -> Tensor:
        """Normalised images ``[N, 3, H, W]`` to logits ``[N, C, H, W]``."""
        raise NotImplementedError

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks: a segmentation model has no detections."""
        return False

    def parts(self) -> list[ModelPart]:
        """The parts whose times are reported separately."""
        return [
            ModelPart({"preprocess": "input", "head": "heads"}.get(name, name), child)
            for name, child in self.named_children()
        ]

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[SegmentationMap] | None = None
    ) -> dict[str, Tensor] | list[SegmentationMap]:
        """Losses in training mode, the class of every pixel in evaluation mode.

        Args:
            images: ``[3, h_i, w_i]`` uint8 RGB; they are not resized.
            targets: one per image and of its size, in training only; 255 marks pixels that do not count.

        Returns:
            In training ``loss_seg``: cross entropy, the mean over the pixels of an image and then over images. In
            evaluation one ``SegmentationMap`` ``[h_i, w_i]`` per image.

        Raises:
            ValueError: without ``targets`` in training, or with targets of other sizes than their images, or, on the
                CPU, with labels that no class has; on a GPU these end in CUDA's assertion.
        """
        check_images(images)
        if self.training:
            return {"loss_seg": self._loss(images, check_targets(images, targets, SegmentationMap))}
        results: dict[int, SegmentationMap] = {}
        for members, batch in self.preprocess.batches(images):
            labels = self.scores(batch.pixels).argmax(1)
            for index, label, (height, width) in zip(members, labels, batch.sizes, strict=True):
                results[index] = SegmentationMap(label[:height, :width])
        return [results[index] for index in range(len(images))]

    def _loss(self, images: Sequence[Tensor], targets: Sequence[SegmentationMap]) -> Tensor:
        for index, (image, target) in enumerate(zip(images, targets, strict=True)):
            if target.labels.shape != image.shape[1:]:
                raise ValueError(
                    f"targets[{index}]: expected labels of the image's size {list(image.shape[1:])}, "
                    f"got {list(target.labels.shape)}"
                )
        pixels = self.preprocess(images).pixels
        scores = self.scores(pixels)
        try:
            return segmentation_loss(scores, [target.labels.to(pixels.device) for target in targets])
        except IndexError:  # of torch, on the CPU; looking at every label before would cost a pass over them
            _refuse_labels(targets, scores.shape[1])
            raise


def _refuse_labels(targets: Sequence[SegmentationMap], classes: int) -> None:
    """Name the labels that no class has."""
    for index, target in enumerate(targets):
        wrong = target.labels[((target.labels < 0) | (target.labels >= classes)) & (target.labels != IGNORE)]
        if len(wrong):
            labels = ", ".join(map(str, wrong.unique().tolist()[:8]))
            raise ValueError(
                f"targets[{index}]: expected labels in 0..{classes - 1}, or {IGNORE} for pixels that do not count, "
                f"got {labels} in {len(wrong):,} pixels; write {IGNORE} there, or build the model with more classes"
            ) from None


def segmentation_loss(logits: Tensor, labels: Sequence[Tensor]) -> Tensor:
    """Cross entropy: the mean over the counted pixels of each image, then over images.

    Args:
        logits: ``[N, C, H, W]``.
        labels: per image ``[h_i, w_i]`` int64 with ``h_i <= H`` and ``w_i <= W``; 255 does not count.

    Returns:
        A scalar; an image without a counted pixel contributes 0.
    """
    losses = []
    for scores, label in zip(logits, labels, strict=True):
        own = scores[None, :, : label.shape[0], : label.shape[1]].float()
        total = F.cross_entropy(own, label[None], ignore_index=IGNORE, reduction="sum")
        losses.append(total / (label != IGNORE).sum().clamp(min=1))
    return torch.stack(losses).mean()
