"""Golden files of transposed deformable convolution for check_family.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from dcn.ops import deform_conv_transpose2d
from dcn.ops.deform_conv import BACKENDS
from tests.golden.family_dcnv3 import LIMITS, Arrays, Finding, available, compare

NAMES = ("input", "offset", "weight", "bias", "mask")


def check_deform_conv_transpose2d(data: Arrays, meta: Any) -> Iterator[Finding]:
    """Output and all gradients on every backend."""
    geometry = {name: tuple(meta[name]) for name in ("stride", "padding", "output_padding", "dilation")}
    for backend in available(BACKENDS):
        for dtype in LIMITS:
            leaves = {name: torch.from_numpy(data[name]).to(dtype).requires_grad_() for name in NAMES if name in data}
            given: dict[str, Any] = {**leaves, **geometry, "groups": int(meta["groups"])}
            output = deform_conv_transpose2d(**given, backend=backend)
            yield Finding(backend, dtype, "output", compare(output.detach(), data["output"]))
            gain = torch.from_numpy(data["grad_output"]).to(dtype)
            gradients = torch.autograd.grad(output, list(leaves.values()), gain)
            for name, gradient in zip(leaves, gradients, strict=True):
                yield Finding(backend, dtype, f"grad_{name}", compare(gradient, data[f"grad_{name}"]))


KINDS = (("tdc2d_", check_deform_conv_transpose2d),)
