"""Non-maximum suppression, soft-NMS and box voting against loops, golden vectors and the ONNX vectors."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.ops import box_voting, nms, nms_keep, soft_nms
from tests.ops.cases import BACKENDS

GOLDEN = Path(__file__).parents[1] / "golden"
ONNX = sorted(path.stem for path in (GOLDEN / "foreign").glob("onnx_test_nonmaxsuppression_*.npz"))


def overlap(a: Tensor, b: Tensor, extra: float) -> float:
    width = min(float(a[2]), float(b[2])) - max(float(a[0]), float(b[0])) + extra
    height = min(float(a[3]), float(b[3])) - max(float(a[1]), float(b[1])) + extra
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(float(c[2] - c[0]) + extra) * (float(c[3] - c[1]) + extra) for c in (a, b)]
    return shared / (areas[0] + areas[1] - shared)


def greedy(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor, extra: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i)):
        if all(labels[i] != labels[j] or overlap(boxes[i], boxes[j], extra) <= threshold for j in kept):
            kept.append(i)
    return kept


def random_boxes(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 4, generator=generator, dtype=torch.float64) * 60
    corners[:, 2:] = corners[:, :2] + corners[:, 2:] / 2 + 1
    # Two decimals: many scores are equal and the order among them matters.
    scores = (torch.rand(count, generator=generator, dtype=torch.float64) * 100).round() / 100
    return corners, scores, torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_nms_against_a_loop(threshold: float, by_class: bool, plus_one: bool, backend: str) -> None:
    boxes, scores, labels = random_boxes(150)
    expected = greedy(boxes, scores, threshold, labels if by_class else labels * 0, float(plus_one))
    chosen = labels if by_class else None
    got = nms(boxes, scores, threshold, chosen, plus_one=plus_one, backend=backend)
    assert got.tolist() == expected
    assert (
        nms(boxes, scores, threshold, chosen, plus_one=plus_one, max_output=9, backend=backend).tolist() == expected[:9]
    )


def test_backends_agree_on_many_boxes() -> None:
    """More than one block of the reference, and more than one of the library."""
    boxes, scores, labels = random_boxes(3000, seed=1)
    boxes = boxes * torch.tensor([4, 4, 4, 4])
    a, b = (nms(boxes.float(), scores.float(), 0.4, labels, backend=backend) for backend in ("reference", None))
    assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_original_nms(threshold: float, backend: str) -> None:
    with np.load(GOLDEN / "utils.npz") as file:
        dets, expected = torch.from_numpy(file["dets"]), file[f"nms_{threshold}"]
    assert nms(dets[:, :4], dets[:, 4], threshold, plus_one=True, backend=backend).tolist() == expected.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_tie_at_the_threshold(dtype: torch.dtype, backend: str) -> None:
    """Overlap exactly 1/2: 2 x 2 in 2 x 4."""
    boxes = torch.tensor([[0, 0, 4, 2], [0, 0, 2, 2]], dtype=dtype)
    scores = torch.tensor([0.9, 0.8], dtype=dtype)
    assert nms(boxes, scores, 0.5, backend=backend).tolist() == [0, 1]
    assert nms(boxes, scores, 0.5, suppress_equal=True, backend=backend).tolist() == [0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_need_no_offset(backend: str) -> None:
    """Moving classes apart by the largest coordinate rounds boxes at 1e7 by a whole pixel in float32."""
    boxes = torch.tensor([[0.0, 0, 1.0, 1], [0.25, 0, 1.25, 1], [9_999_000.0, 0, 1e7, 9]])
    labels = torch.tensor([2**40, 2**40, -5])
    scores = torch.tensor([0.5, 0.4, 0.3])
    assert nms(boxes, scores, 0.59, labels, backend=backend).tolist() == [0, 2]
    assert nms(boxes, scores, 0.61, labels, backend=backend).tolist() == [0, 1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_awkward_numbers(backend: str) -> None:
    nan, inf = math.nan, math.inf
    boxes = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [nan, 0, 1, 1], [0, 0, 1, 1], [-inf, 0, inf, 9], [0, 0, 1, 1.0]])
    scores = torch.tensor([0.5, 0.5, 0.9, nan, inf, 0.1])
    assert nms(boxes, scores, 0.5, backend=backend).tolist() == [4, 2, 0, 1, 5]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_boxes(backend: str) -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5, torch.zeros(0).long(), backend=backend).shape == (0,)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ONNX)
def test_onnx_vectors(name: str, backend: str) -> None:
    with np.load(GOLDEN / "foreign" / f"{name}.npz") as file:
        boxes, scores = torch.from_numpy(file["in_0"]), torch.from_numpy(file["in_1"])
        most, threshold, least = (file[f"in_{i}"].item() for i in (2, 3, 4))
        expected, attributes = file["out"].tolist(), ast.literal_eval(str(file["attrs"]))
    if attributes.get("center_point_box"):
        boxes = torch.cat((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), -1)
    boxes = torch.cat(
        (torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])), -1
    )
    actual = []
    for image, label in np.ndindex(*scores.shape[:2]):
        usable = (scores[image, label] > least).nonzero()[:, 0]
        # The file's threshold is float32; as double it would be another number than the overlap equal to it.
        kept = nms(boxes[image][usable], scores[image, label][usable], threshold, max_output=most, backend=backend)
        actual += [[image, label, int(usable[k])] for k in kept]
    assert actual == expected


def test_nms_compiles_and_checks() -> None:
    boxes, scores, labels = random_boxes(20)
    compiled = torch.compile(lambda b, s, c: nms(b, s, 0.5, c) + 1, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):  # off by default in torch 2.9
        assert torch.equal(compiled(boxes, scores, labels), nms(boxes, scores, 0.5, labels) + 1)
    torch.library.opcheck(torch.ops.dcn.nms.default, (boxes, scores, labels, 0.5, False, False, -1, None))


@pytest.mark.parametrize("most", [20, 100])
def test_original_soft_nms(most: int) -> None:
    with np.load(GOLDEN / "utils.npz") as file:
        dets, expected = torch.from_numpy(file["dets"]), torch.from_numpy(file[f"softnms_0.6_max{most}"])
    keep, scores = soft_nms(dets[:, :4], dets[:, 4], sigma=0.6, max_output=most, plus_one=True)
    # Up to 60 factors are multiplied in float32.
    torch.testing.assert_close(torch.cat((dets[keep, :4], scores[:, None]), 1), expected, atol=1e-6, rtol=1e-5)


def kept_per_set(
    boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor, valid: Tensor, rule: dict[str, Any]
) -> Tensor:
    """What nms_keep must give, from nms on the valid boxes of each set."""
    keep = torch.zeros(scores.shape, dtype=torch.bool)
    for location in np.ndindex(*scores.shape[:-1]):
        usable = valid[location].nonzero()[:, 0]
        chosen = nms(boxes[location][usable], scores[location][usable], threshold, labels[location][usable], **rule)
        keep[location][usable[chosen]] = True
    return keep


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", [{}, {"plus_one": True}, {"suppress_equal": True}], ids=["plain", "plus-one", "equal"])
@pytest.mark.parametrize("sets", [(), (3,), (2, 3), (0,)], ids=str)
def test_nms_keep_is_nms_of_each_set(sets: tuple[int, ...], rule: dict[str, Any], backend: str) -> None:
    boxes, scores, labels = random_boxes(70 * math.prod(sets), seed=3)
    valid = torch.rand(scores.shape, generator=torch.Generator().manual_seed(4)) < 0.8
    boxes, scores, labels, valid = (t.view(*sets, 70, *t.shape[1:]) for t in (boxes, scores, labels, valid))
    keep = nms_keep(boxes, scores, 0.4, labels, valid, **rule, backend=backend)
    assert torch.equal(keep, kept_per_set(boxes, scores, 0.4, labels, valid, rule))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0,), (2, 0)], ids=str)
def test_nms_keep_of_no_boxes(shape: tuple[int, ...], backend: str) -> None:
    assert nms_keep(torch.zeros(*shape, 4), torch.zeros(shape), 0.5, backend=backend).shape == shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_nms_keep_opcheck(backend: str) -> None:
    boxes, scores, labels = random_boxes(24)
    sets = (boxes.view(2, 12, 4), scores.view(2, 12), labels.view(2, 12), scores.view(2, 12) > 0.2)
    torch.library.opcheck(torch.ops.dcn.nms_keep.default, (*sets, 0.5, False, True, backend))


class _Keep(torch.nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return nms_keep(boxes, scores, 0.5, labels, scores > 0.1)


def test_nms_keep_compiles_and_exports() -> None:
    arguments = random_boxes(20)
    expected = _Keep()(*arguments)
    assert torch.equal(torch.compile(_Keep(), fullgraph=True, backend="aot_eager")(*arguments), expected)
    assert torch.equal(torch.export.export(_Keep(), arguments).module()(*arguments), expected)


WRONG_KEEP: dict[str, tuple[str, dict[str, Any]]] = {
    "axes": ("boxes", {"boxes": torch.zeros(4)}),
    "columns": ("boxes", {"boxes": torch.zeros(3, 5)}),
    "scores": ("scores", {"scores": torch.zeros(2)}),
    "valid-type": ("valid", {"valid": torch.zeros(3)}),
    "valid-shape": ("valid", {"valid": torch.zeros(2, dtype=torch.bool)}),
    "labels": ("labels", {"labels": torch.zeros(3)}),
}


@pytest.mark.parametrize("case", WRONG_KEEP)
def test_wrong_nms_keep(case: str) -> None:
    name, change = WRONG_KEEP[case]
    arguments: dict[str, Any] = {"boxes": torch.zeros(3, 4), "scores": torch.zeros(3), **change}
    with pytest.raises(ValueError, match=name):
        nms_keep(iou_threshold=0.5, **arguments)


def soft_loop(boxes: Tensor, scores: Tensor, labels: Tensor, method: str) -> list[tuple[int, float]]:
    left = {i: float(s) for i, s in enumerate(scores)}
    chosen = []
    while left:
        best = min(left, key=lambda i: (-left[i], i))
        chosen.append((best, left.pop(best)))
        for i in left:
            shared = overlap(boxes[best], boxes[i], 0.0) if labels[i] == labels[best] else 0.0
            decay = math.exp(-(shared**2) / 0.5) if method == "gaussian" else 1 - shared * (shared > 0.3)
            left[i] *= decay
    return chosen


@pytest.mark.parametrize("method", ["gaussian", "linear"])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_soft_nms_against_a_loop(seed: int, by_class: bool, method: str) -> None:
    boxes, _, labels = random_boxes(60, seed)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    scores = torch.linspace(1, 0.1, 60, dtype=torch.float64)[order]  # no ties
    expected = soft_loop(boxes, scores, labels if by_class else labels * 0, method)
    keep, values = soft_nms(
        boxes, scores, "linear" if method == "linear" else "gaussian", labels=labels if by_class else None
    )
    assert keep.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(values, torch.tensor([v for _, v in expected], dtype=torch.float64))
    some, _ = soft_nms(boxes, scores, "linear" if method == "linear" else "gaussian", min_score=0.2, max_output=7)
    assert some.tolist() == [i for i, v in soft_loop(boxes, scores, labels * 0, method) if v >= 0.2][:7]


def test_box_voting_against_a_loop() -> None:
    boxes, scores, labels = random_boxes(80)
    keep = nms(boxes, scores, 0.3, labels)
    got = box_voting(boxes[keep], boxes, scores, 0.4, kept_labels=labels[keep], labels=labels)
    for location, i in enumerate(keep.tolist()):
        voters = [j for j in range(80) if labels[j] == labels[i] and overlap(boxes[i], boxes[j], 0.0) >= 0.4]
        expected = (boxes[voters] * scores[voters, None]).sum(0) / scores[voters].sum()
        torch.testing.assert_close(got[location], expected)


def test_box_voting_keeps_what_nobody_votes_for() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 6, 6]])
    assert torch.equal(box_voting(boxes, boxes, torch.tensor([0.0, -1.0])), boxes)


@pytest.mark.parametrize(
    ("name", "options"),
    [("sigma", {"sigma": 0.0}), ("max_output", {"max_output": -1}), ("method", {"method": "hard"})],
    ids=["sigma", "max", "method"],
)
def test_wrong_soft_nms(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=name):
        soft_nms(torch.zeros(1, 4), torch.zeros(1), **options)  # type: ignore[arg-type]


def test_voting_needs_both_labels() -> None:
    with pytest.raises(ValueError, match="labels"):
        box_voting(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1), labels=torch.zeros(1).long())


WRONG: dict[str, tuple[str, Any]] = {
    "boxes-sparse": ("boxes", lambda: nms(torch.zeros(2, 4).to_sparse(), torch.zeros(2), 0.5)),
    "scores-list": ("scores", lambda: nms(torch.zeros(2, 4), [0.0, 0.0], 0.5)),  # type: ignore[arg-type]
    "scores-device": ("scores", lambda: nms(torch.zeros(2, 4), torch.zeros(2, device="meta"), 0.5)),
    "threshold-nan": ("iou_threshold", lambda: nms(torch.zeros(2, 4), torch.zeros(2), float("nan"))),
    "threshold-none": ("iou_threshold", lambda: nms(torch.zeros(2, 4), torch.zeros(2), None)),  # type: ignore[arg-type]
    "most": ("max_output", lambda: nms(torch.zeros(2, 4), torch.zeros(2), 0.5, max_output=1.5)),  # type: ignore[arg-type]
    "flag": ("plus_one", lambda: nms(torch.zeros(2, 4), torch.zeros(2), 0.5, plus_one=1)),  # type: ignore[arg-type]
    "labels": ("labels", lambda: nms(torch.zeros(2, 4), torch.zeros(2), 0.5, torch.zeros(2))),
    "sigma": ("sigma", lambda: soft_nms(torch.zeros(2, 4), torch.zeros(2), sigma=0.0)),
    "kept": ("kept", lambda: box_voting(torch.zeros(4), torch.zeros(2, 4), torch.zeros(2))),
    "kept-type": ("kept", lambda: box_voting(torch.zeros(1, 4).long(), torch.zeros(2, 4), torch.zeros(2))),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str) -> None:
    name, call = WRONG[case]
    with pytest.raises(ValueError, match=f"^{name}: expected .* got "):
        call()
