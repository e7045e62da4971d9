"""Both deformable RoI poolings against loops and the original implementations' vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcn.ops import deform_ps_roi_pool, deform_roi_pool, roi_align
from tests.ops import roi_oracle as oracle
from tests.ops.cases import BACKENDS
from tests.ops.roi_cases import SCALE, SIZE, make
from tests.ops.test_roi_pool import close

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_align_form_against_loops(ratio: int, backend: str) -> None:
    x, rois, offset, mask = make(channels=3)
    expected = oracle.align(x.numpy(), rois.numpy(), SIZE, SCALE, ratio, True, offset=offset.numpy(), gamma=0.3)
    got = deform_roi_pool(x, rois, offset, SIZE, SCALE, mask, sampling_ratio=ratio, gamma=0.3, backend=backend)
    close(got, torch.from_numpy(expected) * mask, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("classes", [0, 1, 3])
@pytest.mark.parametrize("parts", [SIZE, (1, 2)], ids=["part-per-bin", "shared-parts"])
def test_original_form_against_loops(parts: tuple[int, int], classes: int, group: int, backend: str) -> None:
    x, rois, _, mask = make()
    offset = torch.linspace(-2, 2, len(rois) * 2 * classes * parts[0] * parts[1], dtype=torch.float64)
    moves = offset.view(len(rois), 2 * classes, *parts) if classes else None
    numbers = None if moves is None else moves.numpy()
    expected = oracle.parts(x.numpy(), rois.numpy(), SIZE, SCALE, group, 3, 0.2, numbers)
    got = deform_ps_roi_pool(
        x, rois, moves, SIZE, SCALE, mask, group_size=group, sample_per_part=3, trans_std=0.2, backend=backend
    )
    close(got, torch.from_numpy(expected) * mask, torch.float64)


ORIGINAL = {
    "dpsroi_classaware_p7g7_od3_s4": 4,
    "dpsroi_g1_p7_od4_s4_fasterrcnn": 4,
    "dpsroi_notrans_p7g7_od3_s4": 4,
    "dpsroi_p3g3_part3_demo": 4,
    "dpsroi_s1_notrans_g1": 1,
    "dpsroi_trans1_p7g7_od3_s4": 4,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ORIGINAL)
def test_original_implementation(name: str, backend: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as file:
        data = {key: torch.from_numpy(file[key]) for key in file.files}
    x, offset = data["x"].requires_grad_(), data.get("trans")
    if offset is not None:
        offset.requires_grad_()
    channels, size = data["out"].shape[1:3]
    group = round((x.shape[1] / channels) ** 0.5)
    out = deform_ps_roi_pool(
        x, data["rois"], offset, size, 1 / 16, group_size=group, sample_per_part=ORIGINAL[name], backend=backend
    )
    out.backward(data["grad_out"])
    assert x.grad is not None
    close(out.detach(), data["out"])
    close(x.grad, data["grad_x"])
    if offset is not None:
        assert offset.grad is not None
        close(offset.grad, data["grad_trans"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_offsets_it_is_roi_align(backend: str) -> None:
    x, rois, offset, _ = make()
    expected = roi_align(x, rois, SIZE, SCALE, 0, True, backend=backend)
    close(deform_roi_pool(x, rois, None, SIZE, SCALE, backend=backend), expected, torch.float64)
    close(deform_roi_pool(x, rois, offset * 0, SIZE, SCALE, backend=backend), expected, torch.float64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_slope_at_whole_coordinates(backend: str) -> None:
    """Samples on whole pixels: the original form has slope 0 there, the align form the slope to the right."""
    x = torch.arange(64.0).view(1, 1, 8, 8)
    offset = torch.zeros(1, 2, 1, 1, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 1, 5, 5]])  # one sample, at (2.5, 2.5) with the half pixel taken off
    whole = torch.tensor([[0, 1.5, 1.5, 5.5, 5.5]])  # at (3, 3)
    for boxes, slope in ((rois, 4 * 1.0), (whole, 4 * 1.0)):
        out = deform_roi_pool(x, boxes, offset, 1, sampling_ratio=1, gamma=1.0, backend=backend)
        (grad,) = torch.autograd.grad(out.sum(), offset)
        assert grad.flatten().tolist() == [slope, slope * 8]
    # Scale 1/2, corners 3..: starts at 3/2 - 1/2 = 1, a whole coordinate.
    out = deform_ps_roi_pool(x, torch.tensor([[0, 3.0, 3, 6, 6]]), offset, 1, 0.5, sample_per_part=1, backend=backend)
    (grad,) = torch.autograd.grad(out.sum(), offset)
    assert out.item() == 9.0
    assert grad.flatten().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wild_offset_empties_its_bin_only(backend: str) -> None:
    x, rois, offset, _ = make()
    plain = deform_roi_pool(x, rois, offset, SIZE, SCALE, backend=backend)
    for value in (float("nan"), float("inf"), -1e30):
        wild = offset.clone()
        wild[0, 0, 1, 1] = value
        out = deform_roi_pool(x, rois, wild, SIZE, SCALE, backend=backend)
        assert not out[0, :, 1, 1].any()
        out[0, :, 1, 1] = plain[0, :, 1, 1]
        assert torch.equal(out, plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_offsets_exact(backend: str) -> None:
    x, rois, offset, mask = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = deform_roi_pool(x, rois, offset.bfloat16(), SIZE, SCALE, mask.bfloat16(), backend=backend)
    expected = deform_roi_pool(
        x, rois, offset.bfloat16().float(), SIZE, SCALE, mask.bfloat16().float(), backend=backend
    )
    assert torch.equal(got, expected)


X, BOXES = torch.zeros(2, 4, 5, 5), torch.zeros(1, 5)
WRONG: dict[str, tuple[str, Any]] = {
    "axes": ("offset", lambda: deform_roi_pool(X, BOXES, torch.zeros(1, 2), 2)),
    "bins": ("offset", lambda: deform_roi_pool(X, BOXES, torch.zeros(1, 2, 3, 3), 2)),
    "rois": ("offset", lambda: deform_ps_roi_pool(X, BOXES, torch.zeros(2, 2, 3, 3), 2)),
    "odd": ("offset", lambda: deform_ps_roi_pool(X, BOXES, torch.zeros(1, 3, 2, 2), 2)),
    "classes": ("offset", lambda: deform_ps_roi_pool(X, BOXES, torch.zeros(1, 6, 2, 2), 2)),
    "type": ("offset", lambda: deform_roi_pool(X, BOXES, torch.zeros(1, 2, 2, 2).double(), 2)),
    "mask": ("mask", lambda: deform_roi_pool(X, BOXES, None, 2, 1.0, torch.zeros(1, 4, 2, 2))),
    "samples": ("sample_per_part", lambda: deform_ps_roi_pool(X, BOXES, None, 2, sample_per_part=0)),
    "gamma": ("gamma", lambda: deform_roi_pool(X, BOXES, None, 2, gamma=float("nan"))),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str) -> None:
    name, call = WRONG[case]
    with pytest.raises(ValueError, match=name):
        call()
