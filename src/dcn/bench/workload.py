"""A model with something to do: random weights that behave like trained ones, images, targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcn.models import MODELS, Model, build_default, default_test_size
from dcn.models.inference.prepare import PRECISIONS, Precision
from dcn.models.parts import ModelPart
from dcn.nn import DeformConv2d
from dcn.runs.load import described, read_model, ready_model
from dcn.runs.sources import StrPath, find_source
from dcn.structures import SegmentationMap, Target
from dcn.tta import TTA

OFFSET_STD = 2.0
"""Pixels, of the offsets that random weights predict: that of benchmarks of the operator alone."""
PAIRS_PER_DETECTION = 10
"""Pairs of a region and a class that pass the score threshold, for every detection that is kept."""
OBJECTS = 7
"""Objects of a training image, the mean of COCO."""
BACKBONE = "backbone"
"""Label of the part whose batch norm gets the statistics of an image."""


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        size: ``(height, width)`` of the images as the model takes them.
        batch: images of one call.
        precision: of weights and maps; in training that of autocast.
        device: where the model computes.
        train: forward, backward and an optimiser step instead of inference.
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
    """The model of the same table without deformable layers; ``None`` if it has no name or ``name`` is plain."""
    plain = re.sub(r"_(m?dconv_c\d-c\d(_group\d)?|m?dpool|dconv_head|dcn)$", "", name)
    return plain if plain != name and plain in MODELS else None


def parse_size(text: str) -> tuple[int, int]:
    """``(height, width)`` of a text such as ``800x1333``.

    Raises:
        ValueError: another form.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise ValueError(f"--size: expected HEIGHTxWIDTH such as 800x1333, got {text!r}")
    return int(height), int(width)


def test_size_of(source: StrPath) -> tuple[int, int]:
    """The size at which a model is tested, of its name, its run or its file."""
    origin = find_source(source)
    if origin is None:
        return default_test_size(str(source))
    name, options = described(origin.weights)
    height, width = options.get("test_size") or default_test_size(name)
    return int(height), int(width)


def make_model(
    name: str, work: Workload, weights: Callable[[nn.Module], object] | None = None, *, num_classes: int | None = None
) -> Model:
    """A model on the workload's device, in evaluation mode.

    Without weights they are random, and made to behave like trained ones: batch norm has the statistics of a random
    image, so that maps neither fade nor overflow; offsets have a standard deviation of 2 pixels; and the score
    threshold lets through ten pairs of region and class for every detection that is kept. A random proposal network
    fills all its slots, as a trained one nearly always does.

    Args:
        name: of ``dcn models``, where the number of classes is the builder's default; or a run folder, a weights file
            or a file of ``dcn export``, whose model is left as it is.
        work: for the size of the images.
        weights: puts weights into the model, which is then left as it is.
        num_classes: its first argument; ``None``: the builder's default.
    """
    if name not in MODELS and find_source(name) is not None:
        return read_model(name).to(work.device).eval()
    torch.manual_seed(0)
    with work.device:  # random numbers come fastest on the device that uses them
        model = build_default(name, num_classes)
    if weights is not None:
        weights(model)
        return model.to(work.device).eval()
    model.to(work.device)
    _scatter_offsets(model)
    images = random_images(work)[:1]
    _settle_batch_norm(model, images)
    _set_threshold(model, images)
    return model.eval()


def random_images(work: Workload) -> list[Tensor]:
    """``work.batch`` images of noise on the device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (work.batch, 3, *work.size), dtype=torch.uint8, generator=generator)
    return list(images.to(work.device))


def _scatter_offsets(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, DeformConv2d):
            # Behind a normalisation and ReLU the mean square of a value is 1/2.
            fan = module.conv_offset.weight[0].numel() / 2
            nn.init.normal_(module.conv_offset.weight, std=OFFSET_STD / fan**0.5)


@torch.no_grad()
def _settle_batch_norm(model: Model, images: Sequence[Tensor]) -> None:
    """One image through the backbone, or through the whole model where no part is called that."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    backbone = next((part.module for part in model.parts() if part.label == BACKBONE), None)
    if backbone is None or model.task == "segmentation":
        model(images)
    else:
        backbone(model.preprocess(images).pixels)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def _set_threshold(model: Model, images: Sequence[Tensor]) -> None:
    if model.task == "segmentation":
        return
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    scores = torch.cat([one.scores for one in model.pre_nms(images, sizes, 0.0)])
    passing = min(PAIRS_PER_DETECTION * model.limits.max_detections, scores.numel())
    model.score_threshold = float(scores.topk(passing).values[-1]) if passing else 0.0


def make_call(model: Model, work: Workload) -> Callable[[], object]:
    """What is timed: a training step of ``model``, or inference with a copy of it that is prepared for that."""
    if work.train:
        if is_exported(model):
            raise ValueError("--train: an exported file holds final results; give the weights it was exported from")
        return _training_call(model, work)
    options = {"compile": work.compiled, "cuda_graph": work.cuda_graph}
    return inference_call(ready_model(model, TTA(), optimize=True, precision=work.precision, **options), work)


def is_exported(model: nn.Module) -> bool:
    """Whether the model is a file of ``dcn export``, which is run as it is."""
    return bool(getattr(model, "exported", False))


def inference_call(model: nn.Module, work: Workload) -> Callable[[], object]:
    """From images on the device to results on the host."""
    images = random_images(work)

    @torch.no_grad()
    def call() -> object:
        return [prediction.to("cpu") for prediction in model(images)]

    return call


def _training_call(model: Model, work: Workload) -> Callable[[], object]:
    """One step of SGD: forward, backward, update."""
    images, targets = random_images(work), random_targets(model, work)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # A rate that changes nothing measurable: the work must be the same at every repetition.
    optimizer = torch.optim.SGD(trained, lr=1e-12, momentum=0.9)
    half = PRECISIONS[work.precision]

    def call() -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(work.device.type, half, enabled=half != torch.float32):
            losses = model(images, targets)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()
        return losses

    return call


def random_targets(model: Model, work: Workload) -> list[Target | SegmentationMap]:
    """Per image either seven objects with masks, or a segmentation map."""
    generator = torch.Generator().manual_seed(0)
    make = _random_map if model.task == "segmentation" else _random_objects
    return [make(work.size, len(model.classes), generator).to(work.device) for _ in range(work.batch)]


def _random_map(size: tuple[int, int], classes: int, generator: torch.Generator) -> SegmentationMap:
    return SegmentationMap(torch.randint(0, classes, size, generator=generator))


def _random_objects(size: tuple[int, int], classes: int, generator: torch.Generator) -> Target:
    height, width = size
    low = torch.rand(OBJECTS, 2, generator=generator) * 0.7
    side = 0.05 + torch.rand(OBJECTS, 2, generator=generator) * 0.25
    boxes = torch.cat((low, low + side), 1) * torch.tensor([width, height, width, height])
    masks = torch.zeros(OBJECTS, *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return Target(boxes, torch.randint(0, classes, (OBJECTS,), generator=generator), size, masks=masks)


def deformable_parts(model: nn.Module) -> list[ModelPart]:
    """The deformable convolutions, with their offset branches."""
    return [ModelPart("deformable", module) for module in model.modules() if isinstance(module, DeformConv2d)]
