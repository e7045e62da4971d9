"""Between image and result no network may wait for the device, have shapes that depend on values, or break a graph.

There is no device of its own in these tests: operators that would wait for one are refused by a dispatch mode.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dcn.models.detection.original.class_aware_rpn import ClassAwareRPN, class_aware_rpn
from dcn.models.detection.original.faster_rcnn import original_faster_rcnn
from dcn.models.detection.original.fpn import original_fpn
from dcn.models.detection.original.rfcn import rfcn
from dcn.models.detection.original.targets import objects_of
from dcn.models.detection.pyramid.faster_rcnn import FasterRCNN
from dcn.models.detection.shared.fixed_shapes import fixed_shapes
from dcn.models.detection.shared.frames import Frames, make_frames
from dcn.models.inference import prepare
from dcn.models.options import make_model
from dcn.models.segmentation.deeplab import deeplab
from dcn.models.segmentation.deeplabv3 import deeplabv3
from dcn.structures import Target
from tests.models.detection.conftest import tiny

aten = torch.ops.aten

_SMALL: dict[str, Any] = {"depth": 18, "width": 0.125, "stem_channels": 8}
_ORIGINAL: dict[str, Any] = {"rpn_channels": 16, "anchor_scales": (2,), "proposals": (200, 30), **_SMALL}

DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "faster": partial(tiny, deform_stages=("c4", "c5")),
    "mask": partial(tiny, masks=True),
    "cascade-mask": partial(tiny, masks=True, cascade=True, modulated=True, deform_stages=("c5",)),
    "dpool": partial(tiny, roi_pooling="deform"),
    "mdpool": partial(tiny, roi_pooling="modulated"),
    "rfcn": partial(make_model, rfcn, 2, head_channels=16, **_ORIGINAL),
    "rfcn-dcn": partial(make_model, rfcn, 2, head_channels=16, deform_layers=1, deform_pool=True, **_ORIGINAL),
    "rcnn": partial(make_model, original_faster_rcnn, 2, head_channels=16, fc_channels=32, **_ORIGINAL),
    "fpn": partial(
        make_model, original_fpn, 2, fpn_channels=16, fc_channels=32, rpn_channels=16, proposals=(200, 30), **_SMALL
    ),
    "fpn-dcn": partial(
        make_model,
        original_fpn,
        2,
        fpn_channels=16,
        fc_channels=32,
        rpn_channels=16,
        proposals=(200, 30),
        deform_layers=1,
        deform_pool=True,
        **_SMALL,
    ),
    "rpn": partial(
        make_model, class_aware_rpn, 2, head_channels=16, rpn_channels=16, anchor_scales=(2,), candidates=50, **_SMALL
    ),
}
# As large as the pictures below need to have anchors that are objects, and a chance in every stage.
TRAINED = DETECTORS | {
    "cascade": partial(tiny, cascade=True),
    "faster-few": partial(tiny, rois_per_image=100, train_proposals=(20, 10)),
    "rcnn-sampled": partial(
        make_model, original_faster_rcnn, 2, head_channels=16, fc_channels=32, rois_per_image=16, **_ORIGINAL
    ),
    "rfcn-mined": partial(make_model, rfcn, 2, head_channels=16, hardest=24, **_ORIGINAL),
}
SEGMENTERS: dict[str, Callable[[], nn.Module]] = {
    "deeplab": partial(make_model, deeplab, 3, head_channels=16, deform_layers=1, **_SMALL),
    "deeplabv3": partial(make_model, deeplabv3, 3, head_channels=16, deform_head=True, **_SMALL),
}


WAITING = (
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.equal,
    aten.is_nonzero,
)


class Waits(Exception):
    """An operator that waits for the device was called."""


class NoWaiting(TorchDispatchMode):
    """Refuses what copies values to the host, or makes a shape of them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        indices = args[1] if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) else ()
        if func.overloadpacket in WAITING or any(i is not None and i.dtype == torch.bool for i in indices):
            raise Waits(str(func))
        if func.overloadpacket in (aten.lift_fresh, aten.lift_fresh_copy):
            raise Waits("a tensor made from numbers of the host: it would be copied to the device")
        return func(*args, **kwargs)


def _make(factory: Callable[[], nn.Module]) -> Any:
    """A network whose offsets, scores and boxes are not trivial."""
    torch.manual_seed(0)
    model = factory()
    for name, parameter in model.named_parameters():
        if "offset" in name:
            nn.init.normal_(parameter, std=0.05)
        if "fc_cls" in name or "fc_reg" in name or "rpn_reg" in name:
            parameter.data.mul_(10)
    return model.eval()


def _given(model: Any) -> tuple[Tensor, Frames]:
    """A batch of two images of different sizes."""
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((64, 90), (60, 96))]
    batch = model.preprocess(images)
    sizes = [(128, 180), (60, 96)]
    frames = model.frames(batch, sizes) if hasattr(model, "frames") else None
    return batch.pixels, frames or make_frames(batch.sizes, sizes, torch.device("cpu"))


@pytest.mark.parametrize("name", DETECTORS)
@torch.no_grad()
def test_a_detector_does_not_wait(name: str) -> None:
    model = _make(DETECTORS[name])
    pixels, frames = _given(model)
    reference, masks = model.detect(pixels, frames, 0.3).per_image()
    with fixed_shapes(), NoWaiting():
        padded = model.detect(pixels, frames, 0.3)
    got, fixed_masks = padded.per_image()
    assert [len(one) for one in got] == [len(one) for one in reference]
    assert sum(map(len, reference)) > 0
    for one, other in zip(got, reference, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(one.labels, other.labels)
    for mask, expected in zip(fixed_masks, masks, strict=True):
        assert (mask is None) == (expected is None)
        if mask is not None:
            torch.testing.assert_close(mask, expected, rtol=1e-4, atol=1e-4)


def _annotated(model: Any) -> tuple[Any, ...]:
    """What ``batch_losses`` takes: two images of different sizes, one with three objects, one with none."""
    sizes = [(64, 90), (60, 96)]
    batch = model.preprocess([torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes])
    boxes = torch.tensor([[8.0, 8, 48, 40], [50, 20, 88, 56], [20, 30, 44, 60]])
    masks = torch.zeros(3, *sizes[0], dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1 : (y1 + y2) // 2, x1:x2] = True
    full = Target(boxes, torch.tensor([0, 1, 1]), sizes[0], masks=masks)
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), sizes[1], masks=masks.new_zeros(0, *sizes[1]))
    if isinstance(model, FasterRCNN):
        return batch, make_frames(sizes, sizes, torch.device("cpu")), [full, empty]
    objects = [objects_of(target, torch.device("cpu")) for target in (full, empty)]
    return (batch, objects) if isinstance(model, ClassAwareRPN) else (batch, model.frames(batch, sizes), objects)


def _step(model: Any, given: tuple[Any, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses and the gradients of one step of training."""
    torch.manual_seed(7)
    model.zero_grad()
    losses = model.batch_losses(*given)
    sum(losses.values()).backward()
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", TRAINED)
def test_training_does_not_wait(name: str) -> None:
    """With fixed shapes the losses and gradients are those of the CPU's way, where empty slots are cut off."""
    model = _make(TRAINED[name]).train()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            parameter.data.add_(0.02)  # no output is exactly 0, whatever the maps are
    given = _annotated(model)
    reference, expected_gradients = _step(model, given)
    with fixed_shapes(), NoWaiting():
        got, gradients = _step(model, given)
    for loss, value in reference.items():
        assert got[loss].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), loss
    assert [loss for loss, value in reference.items() if value <= 0] == []
    assert set(gradients) == set(expected_gradients)
    for parameter, gradient in expected_gradients.items():
        scale = max(float(gradient.abs().max()), 1e-3)
        assert float((gradients[parameter] - gradient).abs().max()) < 1e-3 * scale, parameter


@pytest.mark.parametrize("name", SEGMENTERS)
@torch.no_grad()
def test_a_segmenter_does_not_wait(name: str) -> None:
    model = _make(SEGMENTERS[name])
    pixels = torch.randn(1, 3, 40, 56)
    reference = model.scores(pixels)
    with NoWaiting():
        got = model.scores(pixels)
    torch.testing.assert_close(got, reference)


@pytest.mark.parametrize("waits", [lambda x: x.item(), lambda x: x[x > 0], lambda x: (x > 0).nonzero()])
def test_what_waits_is_noticed(waits: Callable[[Tensor], object]) -> None:
    with pytest.raises(Waits), NoWaiting():
        waits(torch.ones(1))


@pytest.mark.parametrize("name", ["cascade-mask", "rfcn-dcn"])
@torch.no_grad()
def test_a_detector_is_one_graph(name: str) -> None:
    model = prepare(_make(DETECTORS[name]))
    pixels, frames = _given(model)
    with fixed_shapes():
        reference = model.detect(pixels, frames, 0.3)  # type: ignore[operator]  # nn.Module attributes are untyped
    torch.compiler.reset()
    got = torch.compile(model.detect, backend="eager", fullgraph=True, dynamic=False)(pixels, frames, 0.3)  # type: ignore[arg-type]  # likewise
    torch.testing.assert_close(got.boxes, reference.boxes)
    torch.testing.assert_close(got.scores, reference.scores)
    assert torch.equal(got.valid, reference.valid)
    assert got.valid.any()
