"""Golden files of multi-scale deformable attention for check_family.py: the operator and the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dcn.nn import MultiScaleDeformableAttention
from dcn.nn.ms_deform_attn import ring_bias
from dcn.ops import ms_deform_attn
from dcn.ops.ms_deform_attn import BACKENDS
from tests.golden.family_dcnv3 import LIMITS, Arrays, Finding, available, compare

_NEAR = 1e-4
"""Pixels. So near a pixel's centre float32 may take the slope of the other side: not compared in that type."""
_INPUTS = ("value", "sampling_locations", "attention_weights")


def _apart_from_kinks(data: Arrays, dtype: torch.dtype) -> Tensor:
    """``[N, Q, M, L, P, 2]``: 1 where gradients of locations are compared, 0 where float32 may decide otherwise."""
    locations = torch.from_numpy(data["sampling_locations"])
    if dtype == torch.float64:
        return torch.ones_like(locations)
    sizes = torch.from_numpy(data["spatial_shapes"]).flip(1)[:, None]  # [L, 1, 2]: width, height
    position = locations * sizes - 0.5
    near = (position - position.round()).abs() < _NEAR
    return (~near.any(-1, keepdim=True)).double().expand_as(locations)


def check_operator(data: Arrays, meta: Any) -> Iterator[Finding]:
    shapes, starts = (torch.from_numpy(data[name]) for name in ("spatial_shapes", "level_start_index"))
    for backend in available(BACKENDS):
        for dtype in LIMITS:
            leaves = [torch.from_numpy(data[name]).to(dtype).requires_grad_() for name in _INPUTS]
            output = ms_deform_attn(leaves[0], shapes, starts, *leaves[1:], backend=backend)
            yield Finding(backend, dtype, "output", compare(output.detach(), data["output"]))
            gradients = torch.autograd.grad(output, leaves, torch.from_numpy(data["grad_output"]).to(dtype))
            for name, gradient in zip(_INPUTS, gradients, strict=True):
                # The original's reference answers another slope than its CUDA kernel exactly at -1.
                expected = data.get(f"grad_{name}_cuda", data[f"grad_{name}"])
                if name == "sampling_locations":
                    kept = _apart_from_kinks(data, dtype)
                    gradient, expected = gradient * kept, expected * kept.numpy()  # noqa: PLW2901
                yield Finding(backend, dtype, f"grad_{name}", compare(gradient, expected))


def _layer(data: Arrays, meta: Any, backend: str, dtype: torch.dtype) -> MultiScaleDeformableAttention:
    sizes = {name: int(meta[name]) for name in ("d_model", "n_levels", "n_heads", "n_points")}
    layer = MultiScaleDeformableAttention(**sizes, backend=backend)
    state = {name.removeprefix("param/"): torch.from_numpy(data[name]) for name in data if name.startswith("param/")}
    layer.to(dtype).load_state_dict(state)
    return layer


def check_module(data: Arrays, meta: Any) -> Iterator[Finding]:
    if "initial_sampling_offsets_bias" in data:
        ring = ring_bias(int(meta["n_heads"]), int(meta["n_levels"]), int(meta["n_points"]))
        error = compare(ring, data["initial_sampling_offsets_bias"])
        yield Finding("", torch.float32, "initial_sampling_offsets_bias", error)
    for backend in available(BACKENDS):
        for dtype in LIMITS:
            for numbers in ("2", "4"):
                if f"output_{numbers}" in data:
                    for name, error in _one_kind(data, _layer(data, meta, backend, dtype), numbers):
                        yield Finding(backend, dtype, name, error)


def _one_kind(data: Arrays, layer: MultiScaleDeformableAttention, numbers: str) -> Iterator[tuple[str, float]]:
    """Errors with reference points of 2 or 4 numbers; those of 4 come with the padding mask."""
    dtype = layer.value_proj.weight.dtype
    names = {"query": "query", f"reference_points_{numbers}": "reference_points", "input_flatten": "input_flatten"}
    leaves = {short: torch.from_numpy(data[name]).to(dtype).requires_grad_() for name, short in names.items()}
    mask = torch.from_numpy(data["padding_mask"]) if numbers == "4" and "padding_mask" in data else None
    shapes, starts = (torch.from_numpy(data[name]) for name in ("spatial_shapes", "level_start_index"))
    output = layer(*leaves.values(), shapes, starts, mask)
    yield f"output_{numbers}", compare(output.detach(), data[f"output_{numbers}"])
    output.backward(torch.from_numpy(data["grad_output"]).to(dtype))
    expected = {f"grad_{name}_{numbers}": leaf for name, leaf in leaves.items()}
    expected |= {f"grad_param_{numbers}/{name}": leaf for name, leaf in layer.named_parameters()}
    for name, leaf in expected.items():
        if name in data:
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            yield name, compare(gradient, data[name])


# Prefix of the file's name, longest first where one begins with another.
KINDS: tuple[tuple[str, Callable[[Arrays, Any], Iterator[Finding]]], ...] = (
    ("msda_module", check_module),
    ("msda_", check_operator),
)
