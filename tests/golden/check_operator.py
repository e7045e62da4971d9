"""Compare every backend with golden operator files.

    python tests/golden/check_operator.py FILE.npz...

A file's kind follows from its name (KINDS). For each array of each file the largest absolute error of each backend is
printed; the exit code is 1 if one is beyond 1e-4.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dcn.ops import _roi_mean, deform_conv, deform_ps_roi_pool, ps_roi_pool
from dcn.ops._backends import Table
from dcn.ops.deform_conv import deform_conv2d
from dcn.ops.roi_pool import MAX_BACKENDS, roi_pool

LIMIT = 1e-4
Arrays = dict[str, npt.NDArray[Any]]


class Finding(NamedTuple):
    """One array of one file on one backend."""

    backend: str
    name: str
    error: float

    @property
    def bad(self) -> bool:
        """Whether it is beyond the limit; NaN is."""
        return not self.error <= LIMIT


def compare(backend: str, name: str, actual: Tensor, expected: npt.NDArray[Any]) -> Finding:
    """The largest absolute difference; a wrong shape is an infinite one."""
    reference = torch.from_numpy(expected).double()
    if actual.shape != reference.shape:
        return Finding(backend, name, float("inf"))
    if not reference.numel():
        return Finding(backend, name, 0.0)
    return Finding(backend, name, (actual.double() - reference).abs().max().item())


def available(table: Table, *call: Any) -> list[str]:
    """Names of the backends that can run on the CPU, where the data are; Triton's interpreter would take minutes."""
    return [name for name, module in table if name != "triton" and module.unsupported(*call) is None]


def _leaf(data: Arrays, name: str) -> Tensor | None:
    return torch.from_numpy(data[name].astype(np.float32)).requires_grad_() if name in data else None


def _deform_conv(data: Arrays, boundary: str) -> Iterator[Finding]:
    if "x" not in data:
        raise ValueError("holds no input 'x'; its partner without '_grads' must lie in the same folder")
    _, stride, padding, dilation = data["meta_k_s_p_d"].tolist()
    if "use_bias" in data and not bool(data["use_bias"]):
        data = {name: value for name, value in data.items() if name not in ("bias", "grad_bias")}
    x, offset, weight, bias, mask = (_leaf(data, name) for name in ("x", "offset", "weight", "bias", "mask"))
    assert x is not None
    assert offset is not None
    assert weight is not None
    for backend in available(deform_conv.BACKENDS, x, offset, weight, bias, mask, stride, padding, dilation, boundary):
        leaves = {"x": x, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
        out = deform_conv2d(
            x, offset, weight, bias, stride, padding, dilation, mask, boundary=boundary, backend=backend
        )
        if "out" in data:
            yield compare(backend, "out", out.detach(), data["out"])
        if "grad_out" in data:
            out.backward(torch.from_numpy(data["grad_out"].astype(np.float32)))
        for name, leaf in leaves.items():
            if leaf is not None and leaf.grad is not None:
                if f"grad_{name}" in data:
                    yield compare(backend, f"grad_{name}", leaf.grad, data[f"grad_{name}"])
                leaf.grad = None


def _v1(data: Arrays) -> Iterator[Finding]:
    return _deform_conv(data, "v1")


def _v2(data: Arrays) -> Iterator[Finding]:
    return _deform_conv(data, "v2")


def _lattice(data: Arrays, boundary: str) -> Iterator[Finding]:
    """One sample per lattice point: a 1x1 kernel on a map that is moved to the point by the offset."""
    y, x = np.meshgrid(data["ys"], data["xs"], indexing="ij")
    locations = torch.from_numpy(np.stack([y.ravel(), x.ravel()], 1)).float().reshape(-1, 2, 1, 1).requires_grad_()
    count, size = len(locations), data["img"].shape[2:]
    image = torch.from_numpy(data["img"]).float().expand(count, 1, *size).clone().requires_grad_()
    weight = torch.ones(1, 1, 1, 1)
    # A stride larger than the map gives one output cell at (0, 0).
    stride = list(size)
    for backend in available(
        deform_conv.BACKENDS, image, locations, weight, None, None, stride, [0, 0], [1, 1], boundary
    ):
        out = deform_conv2d(image, locations, weight, stride=stride, boundary=boundary, backend=backend)
        yield compare(backend, "value", out.detach().reshape(y.shape), data["value"])
        if "dvalue_dy" in data:
            slopes, by_image = torch.autograd.grad(out.sum(), (locations, image))
            yield compare(backend, "dvalue_dy", slopes[:, 0].reshape(y.shape), data["dvalue_dy"])
            yield compare(backend, "dvalue_dx", slopes[:, 1].reshape(y.shape), data["dvalue_dx"])
            yield compare(backend, "dvalue_dimg", by_image.reshape(*y.shape, *size), data["dvalue_dimg"])


def _lattice_v1(data: Arrays) -> Iterator[Finding]:
    return _lattice(data, "v1")


def _lattice_v2(data: Arrays) -> Iterator[Finding]:
    return _lattice(data, "v2")


def _pool(
    data: Arrays, table: Table, pool: Callable[[Tensor, Tensor, Tensor | None, str], Tensor]
) -> Iterator[Finding]:
    rois = torch.from_numpy(data["rois"].astype(np.float32))
    here = {name: module for name, module in table if name != "triton"}  # the data are on the CPU
    for backend in [name for name, module in here.items() if name != "cpu" or not module._library.reason()]:
        x, trans = _leaf(data, "x"), _leaf(data, "trans")
        assert x is not None
        out = pool(x, rois, trans, backend)
        yield compare(backend, "out", out.detach(), data["out"])
        if "grad_out" in data:
            out.backward(torch.from_numpy(data["grad_out"].astype(np.float32)))
        for name, leaf in (("grad_x", x), ("grad_trans", trans)):
            if name in data and leaf is not None and leaf.grad is not None:
                yield compare(backend, name, leaf.grad, data[name])


def _geometry(data: Arrays) -> tuple[tuple[int, int], int]:
    """Bins and channel groups per axis, from the shapes; all files were made at a scale of 1/16."""
    channels, rows, columns = data["out"].shape[1:]
    return (rows, columns), round((data["x"].shape[1] / channels) ** 0.5)


def _psroi(data: Arrays) -> Iterator[Finding]:
    size, group = _geometry(data)
    return _pool(
        data, _roi_mean.BACKENDS, lambda x, r, _, b: ps_roi_pool(x, r, size, 1 / 16, group_size=group, backend=b)
    )


def _roipool(data: Arrays) -> Iterator[Finding]:
    size, _ = _geometry(data)
    return _pool(data, MAX_BACKENDS, lambda x, r, _, b: roi_pool(x, r, size, 1 / 16, backend=b))


def _dpsroi(data: Arrays, samples: int) -> Iterator[Finding]:
    size, group = _geometry(data)

    def pool(x: Tensor, rois: Tensor, trans: Tensor | None, backend: str) -> Tensor:
        options = (size, 1 / 16)
        return deform_ps_roi_pool(
            x, rois, trans, *options, group_size=group, sample_per_part=samples, trans_std=0.1, backend=backend
        )

    return _pool(data, _roi_mean.BACKENDS, pool)


def _dpsroi_4(data: Arrays) -> Iterator[Finding]:
    return _dpsroi(data, 4)


def _dpsroi_1(data: Arrays) -> Iterator[Finding]:
    return _dpsroi(data, 1)


# Prefix of the file's name, longest first where one begins with another.
KINDS: tuple[tuple[str, Callable[[Arrays], Iterator[Finding]]], ...] = (
    ("boundary_v1", _lattice_v1),
    ("boundary_v2", _lattice_v2),
    ("dconv_v1", _v1),
    ("dconv_v2", _v2),
    ("mdconv_v2", _v2),
    ("psroi_", _psroi),
    ("dpsroi_s1_", _dpsroi_1),
    ("dpsroi_", _dpsroi_4),
    ("roipool_", _roipool),
)


def read(path: Path) -> Arrays:
    """The arrays of a file; those of ``X_grads.npz`` are joined with those of ``X.npz`` beside it."""
    arrays: Arrays = {}
    partner = path.with_name(path.name.replace("_grads.npz", ".npz"))
    for source in (partner, path):
        if source.is_file():
            with np.load(source, allow_pickle=False) as archive:
                arrays.update({name: archive[name] for name in archive.files})
    return arrays


def check(path: Path) -> list[Finding]:
    """All findings of one file.

    Raises:
        ValueError: the name is of no known kind.
    """
    for prefix, kind in KINDS:
        if path.name.startswith(prefix):
            return list(kind(read(path)))
    raise ValueError(f"{path}: expected a name that begins with one of {[prefix for prefix, _ in KINDS]}")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    failed = 0
    for path in parser.parse_args(arguments).files:
        for finding in check(path):
            failed += finding.bad
            verdict = "FAIL" if finding.bad else "ok"
            print(f"{path.name:44s} {finding.backend:10s} {finding.name:12s} {finding.error:9.2e}  {verdict}")
    print(f"{failed} beyond {LIMIT:g}" if failed else f"all within {LIMIT:g}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
