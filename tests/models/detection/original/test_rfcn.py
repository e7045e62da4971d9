from __future__ import annotations

import numpy as np
import pytest
import torch

from dcn.models.detection.original.region_classifier import deform_psroi_demo
from dcn.models.detection.original.rfcn import PositionSensitiveBranch, RFCNHead

ROIS = torch.tensor([[0.0, 0, 0, 47, 47], [1, 16, 0, 63, 31]])


def _pooled_by_definition(maps: np.ndarray, rois: np.ndarray, outputs: int, bins: int) -> np.ndarray:
    """R-FCN, equation 1, for regions whose corners are whole cells of 16 pixels."""
    result = np.zeros((len(rois), outputs, bins, bins))
    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        left, top, right, bottom = x1 / 16, y1 / 16, (x2 + 1) / 16, (y2 + 1) / 16
        width, height = (right - left) / bins, (bottom - top) / bins
        for d in range(outputs):
            for i in range(bins):
                for j in range(bins):
                    rows = slice(int(np.floor(top + i * height)), int(np.ceil(top + (i + 1) * height)))
                    columns = slice(int(np.floor(left + j * width)), int(np.ceil(left + (j + 1) * width)))
                    result[r, d, i, j] = maps[int(image), (d * bins + i) * bins + j, rows, columns].mean()
    return result


def test_plain_branch_by_definition() -> None:
    torch.manual_seed(0)
    branch = PositionSensitiveBranch(3, 2, bins=2)
    features = torch.randn(2, 3, 4, 4)
    maps = torch.einsum("oc,nchw->nohw", branch.maps.weight[:, :, 0, 0], features).detach().numpy()
    assert branch.offsets(features, ROIS) is None
    expected = _pooled_by_definition(maps, ROIS.numpy(), 2, 2)
    np.testing.assert_allclose(branch(features, ROIS).detach().numpy(), expected, atol=1e-6)


def test_offsets_begin_at_zero_and_belong_to_one_class_each() -> None:
    """On a ramp along x, moving class 1 by a tenth of 48 pixels (3 cells) changes its bins alone, by 0.3."""
    branch = PositionSensitiveBranch(1, 3, bins=2, offset_classes=3)
    with torch.no_grad():
        branch.maps.weight.fill_(1.0)
    ramp = torch.arange(12.0).expand(1, 1, 12, 12).contiguous()
    roi = torch.tensor([[0.0, 64, 64, 111, 111]])
    still = branch(ramp, roi)
    offsets = branch.offsets(ramp, roi)
    assert offsets is not None
    assert offsets.shape == (1, 6, 2, 2)
    assert (offsets == 0).all()
    with torch.no_grad():
        assert branch.offset_maps is not None
        assert branch.offset_maps.bias is not None
        branch.offset_maps.bias[2 * 4 : 3 * 4] = 1.0  # class 1, x, all 4 bins
    moved = branch(ramp, roi) - still
    torch.testing.assert_close(moved[0, 1], torch.full((2, 2), 0.3))
    torch.testing.assert_close(moved[0, [0, 2]], torch.zeros(2, 2, 2))


@pytest.mark.parametrize(("agnostic", "boxes"), [(True, 2), (False, 4)], ids=["agnostic", "per-class"])
@pytest.mark.parametrize("deformable", [False, True], ids=["plain", "deformable"])
def test_scores_and_deltas_are_means_over_the_bins(agnostic: bool, boxes: int, deformable: bool) -> None:
    torch.manual_seed(0)
    head = RFCNHead(3, 3, channels=4, bins=3, deformable=deformable, class_agnostic=agnostic)
    features = torch.randn(2, 3, 4, 4)
    logits, deltas = head([features], ROIS)
    reduced = head.reduced([features])
    torch.testing.assert_close(reduced, head.reduce(features).clamp(min=0))
    torch.testing.assert_close(logits, head.cls(reduced, ROIS).flatten(2).mean(2))
    # Channel 4b + i of the pooled map is delta i of box b.
    torch.testing.assert_close(deltas[:, -1], head.reg(reduced, ROIS)[:, -4:].flatten(2).mean(2))
    assert deltas.shape == (2, boxes, 4)


def test_gradients_reach_both_offset_maps() -> None:
    torch.manual_seed(0)
    head = RFCNHead(3, 2, channels=4, deformable=True)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.3)
    logits, deltas = head([torch.randn(2, 3, 6, 6)], ROIS + torch.tensor([0.0, 3, 5, 3, 5]))
    (logits.square().sum() + deltas.square().sum()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_network_of_the_pooling_demo() -> None:
    torch.manual_seed(0)
    model = deform_psroi_demo(4, depth=50, width=0.125).eval()
    images = [torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)]
    with torch.no_grad():
        probabilities, offsets = model(images, [torch.tensor([[0.0, 0, 40, 50], [10, 10, 90, 60]])])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    assert probabilities.shape == (2, 5)
    assert offsets is not None
    assert offsets.shape == (2, 10, 3, 3)
