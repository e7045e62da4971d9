"""The hook into Hugging Face transformers: with modules that look like its models, and with the real ones."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn.compat import transformers as hook
from dcn.ops import ms_deform_attn
from tests.ops.attn_cases import CASES, Attn, make

REAL = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(
    not REAL, reason="transformers is not installed; pip install transformers==5.24.0"
)
needs_kernels = pytest.mark.skipif(
    importlib.util.find_spec("kernels") is None, reason="kernels is not installed; pip install kernels"
)
CLASS = """
from torch import nn
class MultiScaleDeformableAttention(nn.Module):
    def forward(self, value, value_spatial_shapes, value_spatial_shapes_list, level_start_index, sampling_locations,
                attention_weights, im2col_step):
        return "theirs"
"""
FUNCTION = """
def multi_scale_deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights):
    return "theirs"
def attend(*args):
    return multi_scale_deformable_attention(*args)
"""
STRANGE = CLASS.replace(", im2col_step", "")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package ``transformers`` with three models."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "transformers"}
    for name in kept:
        del sys.modules[name]
    for model, text in (("rt_detr", CLASS), ("mask2former", FUNCTION), ("lw_detr", STRANGE)):
        folder = tmp_path / "transformers" / "models" / model
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / f"modeling_{model}.py").write_text(text)
    for folder in (tmp_path / "transformers", tmp_path / "transformers" / "models"):
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    hook.uninstall()
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        del sys.modules[name]
    sys.modules.update(kept)


def _model(name: str) -> Any:
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def _call(args: Any) -> tuple[Any, ...]:
    return (args.value, args.shapes, args.shapes.tolist(), args.starts, args.locations, args.weights, 64)


@pytest.mark.usefixtures("models")
def test_models_that_are_there_and_models_that_come() -> None:
    args = make(CASES["awkward"])
    layer = _model("rt_detr").MultiScaleDeformableAttention()
    assert layer(*_call(args)) == "theirs"
    assert hook.install() == ("rt_detr",)
    assert torch.equal(layer(*_call(args)), ms_deform_attn(*args))
    assert torch.equal(
        _model("mask2former").attend(args.value, CASES["awkward"].levels, *args[3:]), ms_deform_attn(*args)
    )
    assert hook.install() == ("mask2former", "rt_detr") or hook.install() == ("rt_detr", "mask2former")
    hook.uninstall()
    assert layer(*_call(args)) == "theirs"
    assert _model("mask2former").attend(args.value, CASES["awkward"].levels, *args[3:]) == "theirs"


@pytest.mark.usefixtures("models")
def test_models_that_come_after_uninstall_are_left_alone() -> None:
    hook.install()
    hook.uninstall()
    assert _model("rt_detr").MultiScaleDeformableAttention()(*_call(make(CASES["awkward"]))) == "theirs"


@pytest.mark.usefixtures("models")
def test_a_layer_with_other_arguments_is_left_alone_with_a_warning() -> None:
    hook.install()
    with pytest.warns(UserWarning, match="lw_detr"):
        layer = _model("lw_detr").MultiScaleDeformableAttention()
    assert layer(*_call(make(CASES["awkward"]))[:6]) == "theirs"


def _ragged_formula(
    value: Tensor, shapes: Any, locations: Tensor, weights: Tensor, counts: list[int], discrete: bool
) -> Tensor:
    """The same, level by level, from ``grid_sample`` or by picking pixels."""
    batch, _, heads, channels = value.shape
    total, start = torch.zeros(batch, locations.shape[1], heads, channels, dtype=value.dtype), 0
    planes = value.split([h * w for h, w in shapes], 1)
    for (height, width), plane, location, weight in zip(
        shapes, planes, locations.split(counts, 3), weights.split(counts, 3), strict=True
    ):
        image = plane.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = location.transpose(1, 2).flatten(0, 1)
        if discrete:
            x = (grid[..., 0] * width + 0.5).long().clamp(0, width - 1)
            y = (grid[..., 1] * height + 0.5).long().clamp(0, height - 1)
            samples = torch.stack([image[i][:, y[i], x[i]] for i in range(len(image))])
        else:
            samples = nn.functional.grid_sample(image, 2 * grid - 1, align_corners=False)
        samples = samples.unflatten(0, (batch, heads)).permute(0, 3, 1, 4, 2)  # [N, Q, M, P, D]
        total += (samples * weight[..., None]).sum(3)
        start += height * width
    return total.flatten(2)


@pytest.mark.parametrize("method", ["default", "discrete"])
@pytest.mark.parametrize("counts", [[3, 1, 2], [2, 2, 2]], ids=["ragged", "even"])
def test_levels_with_points_of_their_own(counts: list[int], method: str) -> None:
    case = Attn(points=2)
    args = make(case)
    locations, weights = args.locations.flatten(3, 4), args.weights.flatten(3, 4)
    actual = hook.multi_scale_deformable_attention_v2(args.value, case.levels, locations, weights, counts, method)
    expected = _ragged_formula(args.value, case.levels, locations, weights, counts, method == "discrete")
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_unknown_method() -> None:
    args = make(CASES["awkward"])
    with pytest.raises(ValueError, match="method"):
        hook.multi_scale_deformable_attention_v2(*args[:2], *args[3:], [1], "nearest")


def test_the_layer_has_what_the_hub_asks_for() -> None:
    own = set(dir(hook.MultiScaleDeformableAttention)) - set(dir(nn.Module))
    assert own == {"has_backward", "can_torch_compile"}
    assert "__init__" not in vars(hook.MultiScaleDeformableAttention)


@needs_transformers
@needs_kernels
def test_the_layer_by_transformers_own_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = importlib.import_module("kernels")
    model = _tiny_rt_detr()
    _make_attention_matter(model)
    # transformers marks its layers only where it likes the version of kernels.
    kind = type(_sampling_layers(model)[0])
    monkeypatch.setattr(kind, "kernel_layer_name", "MultiScaleDeformableAttention", raising=False)
    monkeypatch.setattr(kind, "kernel_condition", staticmethod(lambda module: True), raising=False)
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(pixel_values=pixels).logits
        with kernels.use_kernel_mapping(hook.kernel_mapping()):
            kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device="cpu")
        assert {m.forward.__func__ for m in _sampling_layers(model)} == {hook.MultiScaleDeformableAttention.forward}
        torch.testing.assert_close(model(pixel_values=pixels).logits, before, rtol=0, atol=1e-4)


def _tiny_rt_detr() -> Any:
    transformers = importlib.import_module("transformers")
    backbone = transformers.RTDetrResNetConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128], embedding_size=16, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[32, 64, 128], d_model=64, encoder_hidden_dim=64,
        encoder_ffn_dim=64, decoder_ffn_dim=64, decoder_in_channels=[64, 64, 64], decoder_layers=2, num_queries=20,
    )  # fmt: skip
    return transformers.RTDetrForObjectDetection(config).eval()


def _tiny_deformable_detr() -> Any:
    transformers = importlib.import_module("transformers")
    backbone = transformers.ResNetConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128], embedding_size=16, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=64,
        encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=20,
    )  # fmt: skip
    return transformers.DeformableDetrForObjectDetection(config).eval()


def _sampling_layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if type(m).__name__ == "MultiScaleDeformableAttention"]


def _make_attention_matter(model: nn.Module) -> None:
    """Random weights of a usual size everywhere: at their start the layers' outputs are all but 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


@needs_transformers
@pytest.mark.parametrize("build", [_tiny_rt_detr, _tiny_deformable_detr], ids=["rt-detr", "deformable-detr"])
def test_logits_and_gradients_of_whole_models_stay(build: Any) -> None:
    model = build()
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    layers = _sampling_layers(model)
    _make_attention_matter(model)

    def run() -> tuple[Tensor, list[Tensor]]:
        logits = model(pixel_values=pixels).logits
        parameters = [p for p in model.parameters() if p.requires_grad]
        actual = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)
        return logits.detach(), [g for g in actual if g is not None]

    logits, gradients = run()
    hook.install()
    try:
        assert {type(layer).forward for layer in layers} == {hook.MultiScaleDeformableAttention.forward}
        actual, found_gradients = run()
    finally:
        hook.uninstall()
    torch.testing.assert_close(actual, logits, rtol=0, atol=1e-4)
    scale = max(g.abs().max().item() for g in gradients)
    for ours, theirs in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3 * scale)


@needs_transformers
def test_every_named_module_exists_and_takes_the_hook() -> None:
    names = [*hook.CLASSES, *hook.FUNCTIONS]
    for name in names:
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    try:
        assert sorted(hook.install()) == sorted(names)
    finally:
        hook.uninstall()
