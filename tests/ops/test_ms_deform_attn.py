"""Multi-scale deformable attention against loops, the original's numbers and itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.kernels.reference import ms_deform_attn as reference
from dcn.ops import ms_deform_attn
from dcn.ops._backends import choose
from dcn.ops.ms_deform_attn import BACKENDS as TABLE
from tests.ops.attn_cases import CASES, Arguments, Attn, loops, make, output_gradient
from tests.ops.cases import BACKENDS, TOLERANCE, close

GOLDEN = Path(__file__).parents[1] / "golden" / "family"
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
EACH = pytest.mark.parametrize("backend", BACKENDS)
# Locations carry the factor of the level's size into their gradient: one digit less than the table of all operators.
LOOSER = 10.0


def _gradients(args: Arguments, grad: Tensor, backend: str) -> list[Tensor]:
    """Output, then the gradients of value, locations and weights."""
    leaves = args.leaves()
    output = ms_deform_attn(leaves[0], args.shapes, args.starts, *leaves[1:], backend=backend)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


@EACH
@EVERY
def test_values_and_gradients_against_loops(case: Attn, backend: str) -> None:
    args, grad = make(case), output_gradient(case)
    for actual, expected in zip(_gradients(args, grad, backend), loops(args, grad), strict=True):
        close(actual, expected, torch.float64)


@EACH
@EVERY
@pytest.mark.parametrize(
    ("dtype", "pixels"),
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ],
    ids=str,
)
def test_every_type_against_the_reference_in_float64(
    dtype: torch.dtype, pixels: torch.dtype, case: Attn, backend: str
) -> None:
    args = make(case, dtype=torch.float32).to(dtype, pixels)
    grad = output_gradient(case, dtype)
    exact = args.to(torch.float64)
    needs = (True, True, True)
    expected = [reference.forward(*exact), *reference.backward(grad.double(), *exact, needs)]
    for actual, correct, of in zip(
        _gradients(args, grad, backend), expected, (args.value, args.value, args.locations, args.weights), strict=True
    ):
        assert actual.dtype == of.dtype
        assert correct is not None
        scale = max(1.0, correct.abs().max().item()) if correct.numel() else 1.0
        limit = TOLERANCE[actual.dtype] * LOOSER * scale
        torch.testing.assert_close(actual.double(), correct, rtol=0.0, atol=limit)


@EACH
@pytest.mark.parametrize("name", ["msda_small", "msda_one_level"])
def test_original_implementation(name: str, backend: str) -> None:
    with np.load(GOLDEN / f"{name}.npz") as file:
        data = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
    args = Arguments(
        *(data[k] for k in ("value", "spatial_shapes", "level_start_index")),
        *(data[k] for k in ("sampling_locations", "attention_weights")),
    )
    output, value, locations, weights = _gradients(args, data["grad_output"], backend)
    close(output, data["output"], torch.float64)
    close(value, data["grad_value"], torch.float64)
    # At exactly -1 grid_sample, which the original reference uses, answers the one-sided slope.
    close(locations, data.get("grad_sampling_locations_cuda", data["grad_sampling_locations"]), torch.float64)
    close(weights, data["grad_attention_weights"], torch.float64)


def test_finite_differences() -> None:
    """The slopes of the reference, away from pixel centres, from nothing but its values."""
    args, step = make(CASES["awkward"]), 1e-6
    locations = ((args.locations * 97).floor() + 0.37) / 97  # never within `step` of a centre
    exact = Arguments(*args[:3], locations, args.weights)
    leaves = exact.leaves()
    direction = torch.randn(locations.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output = ms_deform_attn(leaves[0], args.shapes, args.starts, *leaves[1:], backend="reference")
    grad = output_gradient(CASES["awkward"])
    (slope,) = torch.autograd.grad(output, leaves[1], grad)
    ends = [
        (ms_deform_attn(*args[:3], locations + sign * step * direction, args.weights) * grad).sum() for sign in (1, -1)
    ]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), (slope * direction).sum(), rtol=1e-6, atol=1e-6)


@EACH
@pytest.mark.parametrize(
    ("y", "x", "value", "slopes"),
    [
        pytest.param(0.0, 0.0, 1.0, [4.0, 30.0], id="corner-pixel"),
        pytest.param(1.0, 2.0, 13.0, [4.0, 30.0], id="last-row-fades-but-one"),
        pytest.param(-1.0, 0.0, 0.0, [0.0, 0.0], id="at-minus-one"),
        pytest.param(0.0, -1.0, 0.0, [0.0, 0.0], id="x-at-minus-one"),
        pytest.param(3.0, 1.0, 0.0, [0.0, 0.0], id="at-height"),
        pytest.param(-0.5, 1.0, 1.0, [2.0, 6.0], id="half-above"),
        pytest.param(float("nan"), 1.0, 0.0, [0.0, 0.0], id="nan"),
        pytest.param(1.0, float("inf"), 0.0, [0.0, 0.0], id="inf"),
        pytest.param(-1e30, 1e30, 0.0, [0.0, 0.0], id="far"),
    ],
)
def test_the_rule_at_borders(y: float, x: float, value: float, slopes: list[float], backend: str) -> None:
    """One sample of the 3 x 4 map ``10 * row + column + 1``, a pixel being 1/3 high and 1/4 wide."""
    image = (10 * torch.arange(3.0)[:, None] + torch.arange(4.0) + 1).reshape(1, 12, 1, 1).double()
    location = torch.tensor([(x + 0.5) / 4, (y + 0.5) / 3], dtype=torch.float64).reshape(1, 1, 1, 1, 1, 2)
    location.requires_grad_()
    output = ms_deform_attn(image, [(3, 4)], None, location, torch.ones_like(location[..., 0]), backend=backend)
    (actual,) = torch.autograd.grad(output.sum(), location)
    torch.testing.assert_close(output.item(), value, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual.flatten().tolist(), slopes, rtol=0, atol=1e-12)


@EACH
def test_wild_numbers_stay_where_they_are(backend: str) -> None:
    """NaN in pixels that a query does not touch, in its unused weights, and in gradients of other queries."""
    case = Attn(((4, 4),), batch=1, queries=2, heads=1, channels=3, points=2)
    args = make(case)
    locations = torch.full_like(args.locations, 0.3)
    locations[0, 1] = 0.8
    locations[0, :, :, :, 1] = 7.0  # the second point lies outside
    weights = args.weights.clone()
    weights[..., 1] = float("nan")
    value = args.value.clone()
    value[0, 15] = float("inf")  # only the second query reads it
    grad = torch.ones(1, 2, 3, dtype=torch.float64)
    grad[0, 1] = float("nan")
    output, by_value, by_location, by_weight = _gradients(
        Arguments(value, args.shapes, args.starts, locations, weights), grad, backend
    )
    assert output[0, 0].isfinite().all()
    assert by_location[0, 0].isfinite().all()
    assert by_weight[0, 0].isfinite().all()
    assert not by_location[0, :, :, :, 1].any()
    assert not by_weight[0, :, :, :, 1].any()
    assert by_value[0, :4].isfinite().all()


@EACH
@pytest.mark.parametrize(
    ("starts", "pixels"), [([0, 8], 25), ([5, 0], 17), ([3, 3], 15)], ids=["gap", "swapped", "overlap"]
)
def test_levels_lie_where_level_start_index_says(starts: list[int], pixels: int, backend: str) -> None:
    case = Attn(((2, 4), (3, 1)), channels=5)
    args = make(case)
    value = torch.randn(2, pixels, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    moved = Arguments(value, args.shapes, torch.tensor(starts), args.locations, args.weights)
    grad = output_gradient(case)
    for actual, expected in zip(_gradients(moved, grad, backend), loops(moved, grad), strict=True):
        close(actual, expected, torch.float64)


@EACH
def test_shapes_may_be_pairs_and_starts_left_out(backend: str) -> None:
    case = CASES["awkward"]
    args = make(case)
    expected = ms_deform_attn(*args, backend=backend)
    assert torch.equal(ms_deform_attn(args[0], case.levels, None, *args[3:], backend=backend), expected)
    as_int32 = (args.shapes.int(), args.starts.int())
    assert torch.equal(ms_deform_attn(args[0], *as_int32, *args[3:], backend=backend), expected)


@EACH
def test_any_memory(backend: str) -> None:
    args, grad = make(CASES["awkward"]), output_gradient(CASES["awkward"])
    expected = _gradients(args, grad, backend)
    turned = [t.movedim(0, -1).contiguous().movedim(-1, 0) for t in (args.value, args.locations, args.weights)]
    permuted = Arguments(turned[0], args.shapes.t().contiguous().t(), args.starts, *turned[1:])
    turned_grad = grad.transpose(0, 1).contiguous().transpose(0, 1)
    for actual, correct in zip(_gradients(permuted, turned_grad, backend), expected, strict=True):
        assert torch.equal(actual, correct)


@EACH
@pytest.mark.parametrize("case", [CASES["usual"], CASES["more-queries-than-a-task"]], ids=["usual", "many-queries"])
def test_threads_do_not_change_a_bit(case: Attn, backend: str) -> None:
    args, grad = make(case, dtype=torch.float32), output_gradient(case, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            results.append(_gradients(args, grad, backend))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@EACH
@pytest.mark.parametrize("needs", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)], ids=str)
def test_only_wanted_gradients(needs: tuple[int, ...], backend: str) -> None:
    args, grad = make(CASES["awkward"]), output_gradient(CASES["awkward"])
    expected = _gradients(args, grad, backend)[1:]
    leaves = [t.requires_grad_(bool(n)) for t, n in zip(args.leaves(), needs, strict=True)]
    ms_deform_attn(leaves[0], args.shapes, args.starts, *leaves[1:], backend=backend).backward(grad)
    for leaf, need, correct in zip(leaves, needs, expected, strict=True):
        assert (leaf.grad is not None) == bool(need)
        if leaf.grad is not None:
            assert torch.equal(leaf.grad, correct)


ARGUMENTS = ("value", "spatial_shapes", "level_start_index", "sampling_locations", "attention_weights")
WRONG: dict[str, tuple[str, object]] = {
    "value-3d": ("value", torch.zeros(2, 39, 18)),
    "value-int": ("value", torch.zeros(2, 39, 3, 6, dtype=torch.int64)),
    "value-list": ("value", [1.0]),
    "value-few-rows": ("spatial_shapes", torch.zeros(2, 38, 3, 6)),
    "shapes-float": ("spatial_shapes", torch.ones(3, 2)),
    "shapes-1d": ("spatial_shapes", torch.ones(3, dtype=torch.int64)),
    "shapes-triples": ("spatial_shapes", torch.ones(3, 3, dtype=torch.int64)),
    "shapes-levels": ("level_start_index", torch.ones(2, 2, dtype=torch.int64)),
    "shapes-negative": ("spatial_shapes", [(4, 7), (-3, -2), (1, 5)]),
    "shapes-words": ("spatial_shapes", [("4", "7")]),
    "shapes-large": ("spatial_shapes", torch.tensor([[2**31, 2**31], [3, 2], [1, 5]])),
    "starts-negative": ("level_start_index", torch.tensor([-1, 28, 34])),
    "starts-far": ("level_start_index", torch.tensor([0, 28, 35])),
    "starts-size": ("level_start_index", torch.tensor([0, 28])),
    "starts-meta": ("level_start_index", torch.zeros(3, dtype=torch.int64, device="meta")),
    "locations-triples": ("sampling_locations", torch.zeros(2, 5, 3, 3, 2, 3)),
    "locations-batch": ("sampling_locations", torch.zeros(1, 5, 3, 3, 2, 2)),
    "locations-double": ("sampling_locations", torch.zeros(2, 5, 3, 3, 2, 2, dtype=torch.float64)),
    "weights-heads": ("attention_weights", torch.zeros(2, 5, 4, 3, 2)),
    "weights-4d": ("attention_weights", torch.zeros(2, 5, 3, 6)),
    "weights-half": ("attention_weights", torch.zeros(2, 5, 3, 3, 2, dtype=torch.float16)),
    "backend": ("backend", "cuda"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str) -> None:
    name, bad = WRONG[case]
    replaced = name if case != "value-few-rows" else "value"
    replaced = "spatial_shapes" if case == "shapes-levels" else replaced
    call = dict(zip(ARGUMENTS, make(CASES["awkward"], dtype=torch.float32), strict=True)) | {replaced: bad}
    backend = call.pop("backend", None)
    with pytest.raises(ValueError, match=name):
        ms_deform_attn(**call, backend=backend)  # type: ignore[arg-type]


def test_a_backend_that_cannot_run_says_why() -> None:
    tensors = [t.to("meta") for t in make(CASES["awkward"])]
    with pytest.raises(ValueError, match=r"'cpu'.*meta"):
        choose(TABLE, "cpu", *tensors)
