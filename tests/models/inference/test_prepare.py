from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from dcn.models.detection.original.rfcn import rfcn
from dcn.models.inference import prepare
from dcn.models.options import make_model
from dcn.models.segmentation.deeplab import deeplab
from tests.models.detection.conftest import tiny

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cascade-mask": partial(tiny, cascade=True, masks=True, score_threshold=0.2, deform_stages=("c5",)),
    "mdpool": partial(tiny, roi_pooling="modulated", score_threshold=0.2),
    "rfcn": partial(
        make_model,
        rfcn,
        2,
        depth=18,
        width=0.125,
        stem_channels=8,
        head_channels=16,
        rpn_channels=16,
        deform_layers=2,
        deform_pool=True,
        anchor_scales=(2,),
        proposals=(200, 30),
        score_threshold=0.2,
    ),
}


def _make(factory: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(0)
    model = factory()
    for name, parameter in model.named_parameters():
        if "offset" in name:
            nn.init.normal_(parameter, std=0.05)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_detector_finds_the_same(name: str) -> None:
    model = _make(NETWORKS[name])
    picture = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (reference,) = model([picture])
    ready = prepare(model)
    (result,) = ready([picture])
    assert len(result) == len(reference) > 0
    torch.testing.assert_close(result.scores, reference.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.boxes, reference.boxes, rtol=1e-3, atol=0.02)
    # The given network is as it was.
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    assert not any(parameter.requires_grad for parameter in ready.parameters())


@pytest.mark.parametrize(("precision", "limit"), [("bfloat16", 0.03), ("float32", 1e-5)])
@torch.no_grad()
def test_a_segmenter_in_either_precision(precision: Any, limit: float) -> None:
    model = _make(
        partial(make_model, deeplab, 3, depth=18, width=0.125, stem_channels=8, head_channels=16, deform_layers=1)
    )
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = model.scores(model.preprocess([image]).pixels)
    ready: Any = prepare(model, precision)
    pixels = ready.preprocess([image]).pixels
    assert pixels.dtype == getattr(torch, precision)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    result = ready.scores(pixels).float()
    # bfloat16 has 8 bits of mantissa: half a percent a layer, over some 20 layers in sequence.
    assert (result - reference).norm() < limit * reference.norm()


def test_unchanged_parameters_share_their_memory() -> None:
    model = _make(NETWORKS["cascade-mask"])
    ready: Any = prepare(model)
    ours, theirs = model.roi_head.bbox_head[0].fc_cls.weight, ready.roi_head.bbox_head[0].fc_cls.weight
    assert ours.data_ptr() == theirs.data_ptr()


def test_what_is_no_network_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a model of dcn\.models, with a Preprocess, got Linear"):
        prepare(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="precision: expected one of float32"):
        prepare(_make(NETWORKS["rfcn"]), "int8")  # type: ignore[arg-type]  # the point of the test
