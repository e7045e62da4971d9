"""A network with something to do, for benchmarks: random weights that behave like trained ones, images, targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcn.analysis.clock import Part
from dcn.models import MODELS, build
from dcn.models.detection.original.class_aware_rpn import ClassAwareRPN
from dcn.models.detection.original.detector import OriginalDetector
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.shared.frames import make_frames
from dcn.models.inference import prepare
from dcn.models.inference.cuda_graphs import accelerate
from dcn.models.inference.prepare import PRECISIONS, Precision
from dcn.models.segmentation import DeepLab
from dcn.nn import DeformConv2d
from dcn.structures import SegmentationMap, Target

OFFSET_STD = 2.0
"""Pixels, of the offsets that random weights predict: that of benchmarks of the operator alone."""
PAIRS_PER_DETECTION = 10
"""Pairs of a region and a class that pass the score threshold, for every detection that is kept."""
OBJECTS = 7
"""Objects of a training image, the mean of COCO."""


@dataclass(frozen=True)
class Task:
    """What is measured.

    Attributes:
        size: ``(height, width)`` of the images as the network sees them.
        batch: images of one call.
        precision: of weights and maps; in training that of autocast.
        device: where it computes.
        train: forward, backward and an update instead of inference.
        compiled: inference by ``torch.compile``.
        cuda_graph: inference by CUDA graphs.
    """

    size: tuple[int, int]
    batch: int
    precision: Precision
    device: torch.device
    train: bool = False
    compiled: bool = False
    cuda_graph: bool = False


def plain_name(name: str) -> str | None:
    """The network of the same table without deformable layers; ``None`` if it has no name or ``name`` is plain."""
    plain = re.sub(r"_(m?dconv_c\d-c\d(_group\d)?|m?dpool|dconv_head|dcn)$", "", name)
    return plain if plain != name and plain in MODELS else None


def make_network(name: str, task: Task, weights: Callable[[nn.Module], object] | None = None) -> nn.Module:
    """A network on the task's device, in evaluation mode.

    Without weights they are random, and made to behave like trained ones: batch norm has the statistics of a random
    image, so that maps neither fade nor overflow; offsets have a standard deviation of 2 pixels; and the score
    threshold lets through ten pairs of region and class for every detection that is kept. A random proposal network
    fills all its places, as a trained one nearly always does.

    Args:
        name: of ``dcn models``.
        task: for the size of the images.
        weights: puts weights into the network, which is then left as it is.
    """
    torch.manual_seed(0)
    classes = 19 if name.startswith("deeplab_") else 21 if name.startswith("deeplab") else 80
    with task.device:  # random numbers come fastest where they are wanted
        model = build(name, [f"class_{index}" for index in range(classes)])
    if weights is not None:
        weights(model)
        return model.to(task.device).eval()
    model.to(task.device)
    _scatter_offsets(model)
    images = random_images(task)[:1]
    _settle_batch_norm(model, images)
    _set_threshold(model, images)
    return model.eval()


def random_images(task: Task) -> list[Tensor]:
    """``task.batch`` images of noise on the device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (task.batch, 3, *task.size), dtype=torch.uint8, generator=generator)
    return list(images.to(task.device))


def _scatter_offsets(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            # Behind a normalisation and ReLU the mean square of a value is 1/2.
            fan = module.conv_offset.weight[0].numel() / 2
            nn.init.normal_(module.conv_offset.weight, std=OFFSET_STD / fan**0.5)


@torch.no_grad()
def _settle_batch_norm(model: nn.Module, images: Sequence[Tensor]) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    pixels = model.preprocess(images).pixels  # type: ignore[operator]  # nn.Module attributes are untyped
    model.scores(pixels) if isinstance(model, DeepLab) else model.backbone(pixels)  # type: ignore[operator]  # as above
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


@torch.no_grad()
def _set_threshold(model: nn.Module, images: Sequence[Tensor]) -> None:
    if isinstance(model, DeepLab):
        return
    assert isinstance(model, FasterRCNN | OriginalDetector | ClassAwareRPN)
    batch = model.preprocess(images)
    frames = make_frames(batch.sizes, batch.sizes, batch.pixels.device)
    if isinstance(model, FasterRCNN):
        features = model.neck(model.backbone(batch.pixels))
        proposals = model.rpn_head.proposals(model.rpn_head(features), frames.sizes)
        scores, most = model.roi_head.candidates(features, proposals, frames)[1], model.roi_head.max_detections
    else:
        scores, most = model.candidates(batch.pixels, frames)[1], model.max_detections
    passing = min(PAIRS_PER_DETECTION * most, scores.numel())
    model.score_threshold = max(float(scores.flatten().topk(passing).values[-1]), 0.0)


def make_call(model: nn.Module, task: Task) -> Callable[[], object]:
    """What is timed: an update of ``model``, or inference with a copy of it that is made ready for that."""
    if task.train:
        return _training_call(model, task)
    ready = accelerate(prepare(model, task.precision), compiled=task.compiled, cuda_graph=task.cuda_graph)
    return inference_call(ready, task)


def inference_call(model: nn.Module, task: Task) -> Callable[[], object]:
    """From images on the device to results on the host."""
    images = random_images(task)

    @torch.no_grad()
    def call() -> object:
        return [found.to("cpu") for found in model(images)]

    return call


def _training_call(model: nn.Module, task: Task) -> Callable[[], object]:
    """One update by SGD: forward, backward, step."""
    images, targets = random_images(task), random_targets(model, task)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # A rate that changes nothing measurable: the work must be the same at every repetition.
    optimizer = torch.optim.SGD(trained, lr=1e-12, momentum=0.9)
    half = PRECISIONS[task.precision]

    def call() -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(task.device.type, half, enabled=half != torch.float32):
            losses = model(images, targets)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()
        return losses

    return call


def random_targets(model: nn.Module, task: Task) -> list[Any]:
    """Per image either seven objects with masks, or a label map."""
    generator = torch.Generator().manual_seed(0)
    classes: tuple[str, ...] = model.classes  # type: ignore[assignment]  # nn.Module attributes are untyped
    made = [_target(model, task.size, len(classes), generator) for _ in range(task.batch)]
    return [target.to(task.device) for target in made]


def _target(
    model: nn.Module, size: tuple[int, int], classes: int, generator: torch.Generator
) -> Target | SegmentationMap:
    if isinstance(model, DeepLab):
        return SegmentationMap(torch.randint(0, classes, size, generator=generator))
    height, width = size
    low = torch.rand(OBJECTS, 2, generator=generator) * 0.7
    side = 0.05 + torch.rand(OBJECTS, 2, generator=generator) * 0.25
    boxes = torch.cat((low, low + side), 1) * torch.tensor([width, height, width, height])
    masks = torch.zeros(OBJECTS, *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return Target(boxes, torch.randint(0, classes, (OBJECTS,), generator=generator), size, masks=masks)


def parts_of(model: nn.Module) -> list[Part]:
    """The parts of a network whose times are told apart; what is left is post-processing."""
    parts: list[Part] = [
        ("input", model.get_submodule("preprocess"), "forward"),
        ("backbone", model.get_submodule("backbone"), "forward"),
    ]
    if isinstance(model, DeepLab):
        return [*parts, ("heads", model.head, "forward")]
    if model.training:
        return [*parts, *_training_parts(model)]
    rpn = model.get_submodule("rpn_head")
    parts += [("neck", model.get_submodule("neck"), "forward"), ("proposals", rpn, "forward")]
    if isinstance(model, ClassAwareRPN):
        return parts
    parts.append(("proposals", rpn, "proposals"))
    if isinstance(model, OriginalDetector):
        return [*parts, ("heads", model.roi_head, "forward")]
    assert isinstance(model, FasterRCNN)
    parts.append(("heads", model.roi_head, "candidates"))
    masks = [model.roi_head.mask_roi_extractor, *model.roi_head.mask_heads]
    return [*parts, *(("heads", module, "forward") for module in masks if module is not None)]


def _training_parts(model: nn.Module) -> list[Part]:
    rpn, head = model.get_submodule("rpn_head"), model.get_submodule("roi_head") if hasattr(model, "roi_head") else None
    parts: list[Part] = [("neck", model.get_submodule("neck"), "forward"), ("proposals", rpn, "forward")]
    parts.append(("proposals", rpn, "losses"))
    if head is not None:
        original = isinstance(model, OriginalDetector)
        parts.append(("proposals", rpn, "filled_proposals" if original else "proposals"))
        parts.append(("heads", head, "forward" if original else "losses"))
    return parts


def deformable_parts(model: nn.Module) -> list[Part]:
    """The deformable convolutions, with their offset branches."""
    return [("deformable", module, "forward") for module in model.modules() if isinstance(module, DeformConv2d)]
