from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dcn.models.backbones import ResNet
from dcn.models.checkpoints import load_state, torchvision


def _plain() -> ResNet:
    torch.manual_seed(0)
    model = ResNet(50, width=1 / 16, stem_channels=4, style="caffe", pool="ceil")
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def _folded(model: ResNet) -> dict[str, Tensor]:
    """The network's convolutions with their batch norms folded in, under the names of such files."""
    state, result = model.state_dict(), {}
    for name, weight in state.items():
        if weight.ndim != 4:
            continue
        conv = name.removesuffix(".weight")
        norm = conv.removesuffix(".0") + ".1" if conv.endswith(".0") else conv.replace("conv", "bn")
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        conv = conv.removesuffix(".0") if "downsample" in conv else conv
        result[f"{conv}.weight"] = weight * scale.view(-1, 1, 1, 1)
        result[f"{conv}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return result | {"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}


def test_folded_weights_compute_the_same() -> None:
    model, other = _plain(), ResNet(50, width=1 / 16, stem_channels=4, style="caffe", pool="ceil").eval()
    folded = _folded(model)
    assert torchvision.is_folded(folded)
    assert not torchvision.is_torchvision(folded)
    load_state(other, torchvision.from_folded(folded), "folded")
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other(image), model(image), rtol=1e-4, atol=1e-4)


def test_folded_norms_are_exactly_an_addition() -> None:
    state = torchvision.from_folded(_folded(_plain()))
    x = torch.randn(1, 4, 5, 5)
    mean, variance, weight, bias = (state[f"bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    expected = x + bias.view(1, -1, 1, 1)
    torch.testing.assert_close(F.batch_norm(x, mean, variance, weight, bias, eps=1e-5), expected, rtol=0, atol=1e-6)


def test_classifier_is_dropped() -> None:
    state = {**_plain().state_dict(), "fc.weight": torch.zeros(2, 3)}
    assert torchvision.is_torchvision(state)
    assert set(torchvision.from_torchvision(state)) == set(_plain().state_dict())
