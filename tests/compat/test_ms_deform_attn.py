"""Stand-ins for the compiled extensions of multi-scale deformable attention, and mmcv's layer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcn.compat import convert as compat_convert
from dcn.compat import mmcv
from dcn.compat import ms_deform_attn as compat
from dcn.nn import MultiScaleDeformableAttention
from dcn.ops import ms_deform_attn
from tests.ops.attn_cases import CASES, make, output_gradient

SHAPES = torch.tensor([[4, 6], [2, 3]])


@pytest.fixture
def own_modules() -> Iterator[None]:
    """What a test imports or fills in is gone after it."""
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def _package(folder: Path, extension: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``groundingdino`` whose extension holds ``extension``, or is missing."""
    package = folder / "groundingdino"
    user = package / "models" / "GroundingDINO"
    user.mkdir(parents=True)
    for path in (package, package / "models", user):
        (path / "__init__.py").touch()
    (user / "ms_deform_attn.py").write_text(
        "try:\n    from groundingdino import _C\nexcept ImportError:\n    pass\ndef used():\n    return _C\n"
    )
    if extension is not None:
        (package / "_C.py").write_text(extension)
    monkeypatch.syspath_prepend(str(folder))


def test_the_two_functions_of_the_extension() -> None:
    args, grad = make(CASES["awkward"]), output_gradient(CASES["awkward"])
    leaves = args.leaves()
    expected = ms_deform_attn(leaves[0], args.shapes, args.starts, *leaves[1:])
    actual = compat.ms_deform_attn_forward(leaves[0], args.shapes, args.starts, leaves[1], leaves[2], 64)
    assert torch.equal(actual, expected)
    assert not actual.requires_grad
    gradients = compat.ms_deform_attn_backward(*args, grad, 3)  # 3 does not divide the batch: it has no effect
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, leaves, grad), strict=True):
        assert torch.equal(ours, theirs)


def test_the_function_with_gradients_and_the_formula() -> None:
    args = make(CASES["awkward"])
    expected = ms_deform_attn(*args)
    leaf = args.value.clone().requires_grad_()
    actual = compat.MSDeformAttnFunction.apply(leaf, *args[1:], 64)
    assert torch.equal(actual, expected)
    assert actual.requires_grad
    pairs = CASES["awkward"].levels
    assert torch.equal(compat.ms_deform_attn_core_pytorch(args.value, pairs, *args[3:]), expected)


def test_other_types_follow_the_values() -> None:
    args = make(CASES["awkward"], dtype=torch.float32)
    expected = ms_deform_attn(*args)
    actual = compat.ms_deform_attn_forward(*args[:3], args.locations.double(), args.weights.double(), 64)
    torch.testing.assert_close(actual, expected)
    half = compat.ms_deform_attn_forward(args.value.half(), *args[1:], 64)
    assert half.dtype == torch.float16


@pytest.mark.usefixtures("own_modules")
def test_install_makes_the_missing_module() -> None:
    assert compat.install() == ("MultiScaleDeformableAttention",)
    module = importlib.import_module("MultiScaleDeformableAttention")
    args = make(CASES["awkward"])
    assert torch.equal(module.ms_deform_attn_forward(*args, 64), ms_deform_attn(*args))
    assert importlib.util.find_spec("MultiScaleDeformableAttention") is not None
    assert compat.install() == ()


@pytest.mark.usefixtures("own_modules")
@pytest.mark.parametrize("imported", [True, False], ids=["after-their-import", "before-their-import"])
def test_install_makes_the_missing_extension_of_a_package(
    imported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _package(tmp_path, None, monkeypatch)
    if imported:
        importlib.import_module("groundingdino.models.GroundingDINO.ms_deform_attn")
    assert "groundingdino._C" in compat.install()
    user = importlib.import_module("groundingdino.models.GroundingDINO.ms_deform_attn")
    assert user.used().ms_deform_attn_forward is compat.ms_deform_attn_forward


@pytest.mark.usefixtures("own_modules")
def test_install_leaves_a_working_extension_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "ms_deform_attn_forward = ms_deform_attn_backward = 'theirs'", monkeypatch)
    assert "groundingdino._C" not in compat.install()
    assert importlib.import_module("groundingdino._C").ms_deform_attn_forward == "theirs"
    assert "groundingdino._C" in compat.install(replace=True)
    assert importlib.import_module("groundingdino._C").ms_deform_attn_forward is compat.ms_deform_attn_forward


@pytest.mark.usefixtures("own_modules")
def test_install_replaces_an_extension_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "raise ImportError('undefined symbol: _ZN2at4_ops5zeros4callE')", monkeypatch)
    assert "groundingdino._C" in compat.install()


def _mmcv(**changes: object) -> mmcv.MultiScaleDeformableAttention:
    torch.manual_seed(0)
    options = {"embed_dims": 16, "num_heads": 4, "num_levels": 2, "num_points": 3, "dropout": 0.0}
    layer = mmcv.MultiScaleDeformableAttention(**(options | changes))  # type: ignore[arg-type]
    torch.nn.init.normal_(layer.attention_weights.weight)
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.3)
    return layer


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return tuple(torch.randn(size, generator=random) for size in ((2, 5, 16), (2, 30, 16), (2, 5, 16)))  # type: ignore[return-value]


POINTS = torch.rand(2, 5, 2, 2, generator=torch.Generator().manual_seed(2))
LEVELS = {"reference_points": POINTS, "spatial_shapes": SHAPES, "level_start_index": torch.tensor([0, 24])}


def test_mmcvs_layer_is_the_originals_with_identity_and_position() -> None:
    layer, (query, maps, position) = _mmcv(batch_first=True), _inputs()
    plain = MultiScaleDeformableAttention(16, 2, 4, 3)
    plain.load_state_dict(layer.state_dict())
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[0, 7:] = True
    expected = plain(query + position, POINTS, maps, SHAPES, None, mask)
    call = {"value": maps, "query_pos": position, "key_padding_mask": mask, **LEVELS}
    torch.testing.assert_close(layer(query, **call), expected + query)
    torch.testing.assert_close(layer(query, identity=position, **call), expected + position)


def test_mmcvs_layer_is_sequence_first_by_default() -> None:
    query, maps, _ = _inputs()
    expected = _mmcv(batch_first=True)(query, value=maps, **LEVELS)
    actual = _mmcv()(query.transpose(0, 1), value=maps.transpose(0, 1), **LEVELS)
    torch.testing.assert_close(actual, expected.transpose(0, 1))


def test_mmcvs_layer_with_narrow_values_and_dropout() -> None:
    layer, (query, maps, _) = _mmcv(value_proj_ratio=0.5, dropout=0.5, batch_first=True), _inputs()
    assert layer.value_proj.weight.shape == (8, 16)
    assert layer.output_proj.weight.shape == (16, 8)
    torch.manual_seed(3)
    left_out = layer(query, value=maps, **LEVELS) == query
    assert 0.2 < left_out.float().mean() < 0.8
    assert not torch.equal(layer.eval()(query, value=maps, **LEVELS), query)


def test_mmcvs_layer_refuses() -> None:
    with pytest.raises(ValueError, match="embed_dims"):
        mmcv.MultiScaleDeformableAttention(embed_dims=10, num_heads=4)
    with pytest.raises(ValueError, match="reference_points"):
        _mmcv()(_inputs()[0])


class MSDeformAttn(torch.nn.Module):
    """As in a copy of Deformable DETR, in somebody's repository."""

    def __init__(self) -> None:
        super().__init__()
        self.im2col_step, self.d_model, self.n_levels, self.n_heads, self.n_points = 64, 16, 2, 4, 3
        self.sampling_offsets = torch.nn.Linear(16, 48)
        self.attention_weights = torch.nn.Linear(16, 24)
        self.value_proj = torch.nn.Linear(16, 16)
        self.output_proj = torch.nn.Linear(16, 16)


def _foreign(name: str, attributes: dict[str, object]) -> torch.nn.Module:
    kind = type(name, (torch.nn.Module,), {"__module__": "elsewhere"})
    layer: torch.nn.Module = kind()
    for key, value in attributes.items():
        setattr(layer, key, value)
    return layer


def test_convert_swaps_the_originals_layer() -> None:
    model = torch.nn.ModuleDict({"attn": MSDeformAttn().eval()})
    state = {key: value.clone() for key, value in model.state_dict().items()}
    weight = model.get_parameter("attn.value_proj.weight")
    assert [name for name, *_ in compat_convert(model).changed] == ["attn"]
    assert model.get_parameter("attn.value_proj.weight") is weight
    assert not model["attn"].training
    plain = MultiScaleDeformableAttention(16, 2, 4, 3)
    plain.load_state_dict({key.removeprefix("attn."): value for key, value in state.items()})
    query, maps, _ = _inputs()
    assert torch.equal(model["attn"](query, POINTS, maps, SHAPES), plain(query, POINTS, maps, SHAPES))


def test_convert_swaps_mmcvs_layer_and_tells_others_apart() -> None:
    theirs = _mmcv(value_proj_ratio=0.5, batch_first=True, dropout=0.3)
    names = ("embed_dims", "num_heads", "num_levels", "num_points", "batch_first")
    attributes = {name: getattr(theirs, name) for name in names} | dict(theirs.named_children())
    model = torch.nn.ModuleDict(
        {
            "mmcv": _foreign("MultiScaleDeformableAttention", attributes),
            "transformers": _foreign("MultiScaleDeformableAttention", {}),
            "detrex": _foreign("MultiScaleDeformableAttention", {"value_proj": torch.nn.Linear(2, 2), "embed_dim": 2}),
        }
    )
    result = compat_convert(model)
    assert [name for name, *_ in result.changed] == ["mmcv"]
    assert model.get_submodule("mmcv.dropout") is theirs.dropout
    reasons = {name: reason for name, _, reason in result.skipped}
    assert "dcn.compat.transformers.install()" in reasons["transformers"]
    assert "embed_dims" in reasons["detrex"]
    query, maps, _ = _inputs()
    assert torch.equal(model["mmcv"].eval()(query, value=maps, **LEVELS), theirs.eval()(query, value=maps, **LEVELS))
