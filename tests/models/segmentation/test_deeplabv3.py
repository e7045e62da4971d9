from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcn.models.options import make_model
from dcn.models.segmentation.deeplabv3 import AsppHead, deeplabv3
from dcn.nn import DeformConv2d
from dcn.structures import SegmentationMap


def _tiny(**options: Any) -> Any:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"depth": 18, "width": 0.125, "stem_channels": 8, "head_channels": 8, "dropout": 0.0}
    return make_model(deeplabv3, 3, **(defaults | options))


def _norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps).relu()


@pytest.mark.parametrize("deform", [False, True], ids=["plain", "deformable"])
def test_head_by_definition(deform: bool) -> None:
    """A deformable head starts as the plain one: its offsets are zero."""
    torch.manual_seed(0)
    head: Any = AsppHead(6, 3, channels=4, rates=(1, 2, 3), deform=deform).eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    x = torch.randn(2, 6, 5, 7)
    looks = []
    for rate, branch in zip((0, 1, 2, 3), head.branches, strict=True):
        looks.append(_norm(F.conv2d(x, branch[0].weight, padding=rate, dilation=max(rate, 1)), branch[1]))
    mean = head.image[0](x.mean((2, 3), keepdim=True)).relu()
    joined = torch.cat((*looks, mean.repeat(1, 1, 5, 7)), 1)
    scores = head.score(_norm(F.conv2d(joined, head.project[0].weight), head.project[1]))
    reference = F.interpolate(scores, (80, 112), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(x, (80, 112)), reference)


def test_what_is_deformable() -> None:
    model = _tiny(deform_stages=("c5.1",), deform_head=True, modulated=True)
    result = {name: layer for name, layer in model.named_modules() if isinstance(layer, DeformConv2d)}
    assert list(result) == ["backbone.layer4.1.conv2", *(f"head.branches.{index}.0" for index in (1, 2, 3))]
    assert all(layer.modulated for layer in result.values())
    assert [layer.dilation for layer in result.values()] == [(2, 2), (6, 6), (12, 12), (18, 18)]


def test_one_image_is_enough_to_train() -> None:
    """Behind the mean over the image a batch norm would see one value per channel, which torch refuses."""
    model = _tiny(deform_head=True).train()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    loss = model([image], [SegmentationMap(torch.zeros(64, 96, dtype=torch.int64))])["loss_seg"]
    loss.backward()
    without = [name for name, p in model.head.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_prediction_has_the_size_of_the_image() -> None:
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    with torch.no_grad():
        result = _tiny().eval()([image])
    assert result[0].labels.shape == (50, 70)


def test_stride_32_is_refused() -> None:
    with pytest.raises(
        ValueError, match="backbone: expected the last map of stride 16, got 4, 8, 16, 32; c5_dilation=2"
    ):
        _tiny(c5_dilation=1)
