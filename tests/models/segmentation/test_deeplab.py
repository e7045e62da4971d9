from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models.options import make_model
from dcn.models.segmentation.deeplab import DeepLabHead, bilinear_kernel, deeplab
from dcn.models.segmentation.inference import segment
from dcn.models.segmentation.model import segmentation_loss
from dcn.structures import SegmentationMap
from dcn.tta import TTA


def _tiny(**options: Any) -> Any:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"depth": 18, "width": 0.125, "stem_channels": 8, "head_channels": 16}
    return make_model(deeplab, 3, **(defaults | options))


def test_kernel_by_formula() -> None:
    kernel = bilinear_kernel(16)
    expected = [[(1 - abs(i / 16 - 31 / 32)) * (1 - abs(j / 16 - 31 / 32)) for j in range(32)] for i in range(32)]
    np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-6)


def test_upsampling_interpolates_between_cell_centres() -> None:
    head = DeepLabHead(1, 2, channels=1)
    scores = torch.randn(1, 2, 5, 4)
    up = head.upsampling(scores)[:, :, 8:88, 8:72].detach()
    reference = F.interpolate(scores, scale_factor=16, mode="bilinear", align_corners=False)
    # Towards the border the fixed kernel fades out where interpolation repeats the last cell.
    torch.testing.assert_close(up[:, :, 8:-8, 8:-8], reference[:, :, 8:-8, 8:-8])
    assert head.upsampling(scores).shape == (1, 2, 96, 80)


def test_upsampling_is_not_trained() -> None:
    model = _tiny()
    assert not model.head.upsampling.weight.requires_grad
    assert torch.equal(model.head.upsampling.weight[2, 0], bilinear_kernel(16))


def test_loss_by_definition() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    labels = [torch.randint(0, 3, (4, 5)), torch.randint(0, 3, (3, 2))]
    labels[0][0, :3] = 255
    per_image = []
    for scores, label in zip(logits, labels, strict=True):
        slots = [(y, x) for y in range(label.shape[0]) for x in range(label.shape[1]) if label[y, x] != 255]
        per_image.append(np.mean([-float(scores[:, y, x].log_softmax(0)[label[y, x]]) for y, x in slots]))
    assert float(segmentation_loss(logits, labels)) == pytest.approx(np.mean(per_image), rel=1e-5)


def test_an_image_without_counted_pixels_costs_nothing() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = segmentation_loss(logits, [torch.full((2, 2), 255)])
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.fixture
def picture() -> tuple[Tensor, Tensor]:
    image = torch.randint(0, 40, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(64, 96, dtype=torch.int64)
    image[:, 16:48, 32:80], labels[16:48, 32:80] = 200, 1
    image[1, 48:, :], labels[48:, :] = 120, 2
    labels[:8] = 255
    return image, labels


@pytest.mark.parametrize("layers", [0, 2], ids=["plain", "deformable"])
def test_a_picture_is_learned(layers: int, picture: tuple[Tensor, Tensor]) -> None:
    image, labels = picture
    model = _tiny(deform_layers=layers, norm="train", frozen_stages=0).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(40):
        loss = model([image], [SegmentationMap(labels)])["loss_seg"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    with torch.no_grad():
        got = model.eval()([image])[0].labels
    counted = labels != 255
    assert (got == labels)[counted].float().mean() > 0.9


def test_an_image_does_not_see_the_others(picture: tuple[Tensor, Tensor]) -> None:
    model = _tiny(deform_layers=1).eval()
    images = [picture[0], picture[0][:, :50, :70], picture[0].flip(2)]
    with torch.no_grad():
        together = model(images)
        alone = [model([image])[0] for image in images]
    assert [tuple(m.labels.shape) for m in together] == [(64, 96), (50, 70), (64, 96)]
    for first, second in zip(alone, together, strict=True):
        assert (first.labels == second.labels).float().mean() > 0.999


@pytest.mark.parametrize("size", [(1, 1), (2, 60), (70, 1)], ids=["pixel", "wide", "tall"])
def test_images_of_a_pixel_or_two_are_segmented(size: tuple[int, int]) -> None:
    """A long image keeps that much of its shorter side; the stem would leave nothing of it."""
    model = _tiny().eval()
    image = torch.full((3, *size), 99, dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model([image])
        assert result.labels.shape == size
        assert segment(model, image, TTA(scales=(0.5, 1.0), flip=True)).shape == size


def test_images_of_several_sizes_are_trained_together(picture: tuple[Tensor, Tensor]) -> None:
    image, labels = picture
    targets = [SegmentationMap(labels), SegmentationMap(labels[:40, :50])]
    losses = _tiny().train()([image, image[:, :40, :50]], targets)
    assert torch.isfinite(losses["loss_seg"])


def test_learning_rates_of_the_original() -> None:
    model = _tiny(deform_layers=1)
    names = ["head.fc6.bias", "head.score.bias", "backbone.layer4.1.conv2.conv_offset.bias"]
    assert model.lr_multipliers == dict.fromkeys(names, 2.0)
    assert set(names) <= {name for name, _ in model.named_parameters()}


def test_wrong_calls(picture: tuple[Tensor, Tensor]) -> None:
    image, labels = picture
    with pytest.raises(ValueError, match="targets: expected one per image in training mode"):
        _tiny().train()([image])
    with pytest.raises(
        ValueError, match=r"targets\[0\]: expected labels of the image's size \[64, 96\], got \[10, 96\]"
    ):
        _tiny().train()([image], [SegmentationMap(labels[:10])])


@pytest.mark.parametrize("label", [3, 200, -1])
def test_a_label_that_no_class_has(label: int, picture: tuple[Tensor, Tensor]) -> None:
    image, labels = picture
    wrong = torch.full_like(labels, 255)
    wrong[0, :4] = label
    with pytest.raises(
        ValueError,
        match=rf"targets\[1\]: expected labels in 0..2, or 255 for .* count, got {label} in 4 pixels; write 255 there",
    ) as info:
        _tiny().train()([image, image], [SegmentationMap(labels), SegmentationMap(wrong)])
    assert info.value.__cause__ is None


@pytest.mark.parametrize(("layers", "count"), [(0, 44_637_267), (3, 44_886_153)], ids=["plain", "deformable"])
def test_parameter_count_of_the_original(layers: int, count: int) -> None:
    with torch.device("meta"):
        model = make_model(deeplab, 19, deform_layers=layers)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
