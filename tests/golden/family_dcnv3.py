"""Golden files of DCNv3 and DCNv4 for check_family.py: operators and, through the original state-dict keys, modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dcn.nn import DCNv3, DCNv4
from dcn.ops import dcnv3, dcnv4
from dcn.ops._backends import Table
from dcn.ops._dcnv3 import BACKENDS

Arrays = dict[str, npt.NDArray[Any]]

# Errors as a share of the largest entry, at least 1. float64 leaves 1e-12 to the order of sums; float32 rounds
# positions of up to 10 pixels to 5e-7, which a gradient of values up to 30 shows as 1e-5.
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}


class Finding(NamedTuple):
    """One array of one file on one backend."""

    backend: str
    dtype: torch.dtype
    name: str
    error: float

    @property
    def bad(self) -> bool:
        """Whether it is beyond the limit; NaN is."""
        return not self.error <= LIMITS[self.dtype]


def available(table: Table) -> list[str]:
    """Names of the backends that can run on the CPU; Triton's interpreter would take minutes."""
    return [name for name, module in table if name == "reference" or (name == "cpu" and not module._library.reason())]


def compare(actual: Tensor, expected: npt.NDArray[Any]) -> float:
    """The largest difference as a share of the largest entry; a wrong shape is an infinite one."""
    reference = torch.from_numpy(expected).double()
    if actual.shape != reference.shape:
        return float("inf")
    if not reference.numel():
        return 0.0
    return (actual.double() - reference).abs().max().item() / max(1.0, reference.abs().max().item())


def _wanted(data: Arrays, name: str) -> npt.NDArray[Any] | None:
    """The gradient by ``name``; where the original's reference and its CUDA kernel differ, the kernel's."""
    return data.get(f"grad_{name}_cuda", data.get(f"grad_{name}"))


def _operator(names: tuple[str, ...], function: Callable[..., Tensor], data: Arrays, meta: Any) -> Iterator[Finding]:
    options = {
        "kernel_size": (meta["kernel_h"], meta["kernel_w"]),
        "stride": (meta["stride_h"], meta["stride_w"]),
        "padding": (meta["pad_h"], meta["pad_w"]),
        "dilation": (meta["dilation_h"], meta["dilation_w"]),
        "groups": meta["group"],
        "offset_scale": float(meta["offset_scale"]),
        "remove_center": bool(meta["remove_center"]),
        "softmax": bool(meta.get("softmax", False)),
    }
    for backend in available(BACKENDS):
        for dtype in LIMITS:
            leaves = [torch.from_numpy(data[name]).to(dtype).requires_grad_() for name in names]
            output = function(*leaves, **options, backend=backend)
            yield Finding(backend, dtype, "output", compare(output.detach(), data["output"]))
            gradients = torch.autograd.grad(output, leaves, torch.from_numpy(data["grad_output"]).to(dtype))
            for name, gradient in zip(names, gradients, strict=True):
                reference = _wanted(data, name)
                if reference is not None:
                    yield Finding(backend, dtype, f"grad_{name}", compare(gradient, reference))


def check_dcnv3(data: Arrays, meta: Any) -> Iterator[Finding]:
    return _operator(("input", "offset", "mask"), dcnv3, data, meta)


def check_dcnv4(data: Arrays, meta: Any) -> Iterator[Finding]:
    return _operator(("input", "offset_mask"), dcnv4, data, meta)


def _loaded(module: nn.Module, data: Arrays, case: str, dtype: torch.dtype) -> nn.Module:
    """The module with the file's parameters, every key of which must fit, in eval mode as the originals were run."""
    prefix = f"{case}/param/"
    state = {name.removeprefix(prefix): torch.from_numpy(data[name]) for name in data if name.startswith(prefix)}
    counters = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
    module.to(dtype).load_state_dict(counters | state)
    return module.eval()


def _module(kind: type[nn.Module], data: Arrays, meta: Any) -> Iterator[Finding]:
    for case, described in meta["cases"].items():
        for backend in available(BACKENDS):
            for dtype in LIMITS:
                module = _loaded(kind(**described["options"], backend=backend), data, case, dtype)
                input = torch.from_numpy(data[f"{case}/input"]).to(dtype).requires_grad_()
                shape = {"shape": tuple(described["shape"])} if "shape" in described else {}
                output = module(input, **shape)
                yield Finding(backend, dtype, f"{case}/output", compare(output.detach(), data[f"{case}/output"]))
                output.backward(torch.from_numpy(data[f"{case}/grad_output"]).to(dtype))
                leaves = {"grad_input": input, **{f"grad_param/{n}": p for n, p in module.named_parameters()}}
                for name, leaf in leaves.items():
                    if f"{case}/{name}" in data:
                        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                        yield Finding(backend, dtype, f"{case}/{name}", compare(gradient, data[f"{case}/{name}"]))


def check_dcnv3_module(data: Arrays, meta: Any) -> Iterator[Finding]:
    return _module(DCNv3, data, meta)


def check_dcnv4_module(data: Arrays, meta: Any) -> Iterator[Finding]:
    return _module(DCNv4, data, meta)


Check = Callable[[Arrays, Any], Iterator[Finding]]
# Prefix of the file's name, longest first where one begins with another.
KINDS: tuple[tuple[str, Check], ...] = (
    ("dcnv3_module", check_dcnv3_module),
    ("dcnv4_module", check_dcnv4_module),
    ("dcnv3_", check_dcnv3),
    ("dcnv4_", check_dcnv4),
)


def read(path: Any) -> Arrays:
    """The arrays of a file; ``meta`` is its description in JSON."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
