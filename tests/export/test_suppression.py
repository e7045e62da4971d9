"""Suppression, soft suppression and sorting through ``torch.onnx.export`` and onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn import ops
from tests.export.onnx_runs import Function, check, export

FOREIGN = Path(__file__).parents[1] / "golden" / "foreign"
ONE = [{0: "n"}, {0: "n"}]


def _boxes(*size: int) -> Tensor:
    corners = torch.rand(*size, 2, 2) * 30
    return torch.cat((corners.amin(-2), corners.amax(-2)), -1)


def _scores(*size: int) -> Tensor:
    """Many equal ones, and negative ones."""
    return (torch.randn(*size) * 4).round() / 4


def _labels(*size: int) -> Tensor:
    return torch.randint(-2, 3, size) * 7


@pytest.mark.parametrize(
    "options",
    [{}, {"plus_one": True, "suppress_equal": True}, {"max_output": 3}],
    ids=["plain", "plus one, equal", "three"],
)
@pytest.mark.parametrize("labels", [False, True], ids=["one class", "classes"])
def test_nms_of_any_number_of_boxes(tmp_path: Path, labels: bool, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    draws = [(_boxes(n), _scores(n), *((_labels(n),) if labels else ())) for n in (20, 50, 1, 0)]
    model = Function(lambda b, s, *rest: ops.nms(b, s, 0.3, *rest, **options))
    check(model, tmp_path / "m.onnx", draws[0], [{0: "n"}] * len(draws[0]), draws[1:], tolerance=0)


def _sets(*size: int) -> tuple[Tensor, ...]:
    return _boxes(*size), _scores(*size), _labels(*size), torch.rand(size) > 0.3


def test_nms_keep_of_many_sets(tmp_path: Path) -> None:
    torch.manual_seed(0)
    axes = [{0: "b", 1: "n"}] * 4
    model = Function(lambda b, s, labels, valid: ops.nms_keep(b, s, 0.3, labels, valid))
    check(model, tmp_path / "m.onnx", _sets(2, 20), axes, [_sets(3, 41), _sets(3, 0)])


@pytest.mark.parametrize("size", [(20,), (2, 3, 20)], ids=["one set", "two leading axes"])
def test_nms_keep_of_other_axes(tmp_path: Path, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(Function(lambda b, s: ops.nms_keep(b, s, 0.3)), tmp_path / "m.onnx", (_boxes(*size), _scores(*size)))


@pytest.mark.parametrize("name", ["suppress_by_IOU", "iou_threshold_boundary", "identical_boxes", "single_box"])
def test_nms_cases_of_the_standard(tmp_path: Path, name: str) -> None:
    with np.load(FOREIGN / f"onnx_test_nonmaxsuppression_{name}.npz") as data:
        boxes, scores = torch.from_numpy(data["in_0"])[0], torch.from_numpy(data["in_1"])[0, 0]
        threshold, expected = float(data["in_3"][0]), torch.from_numpy(data["out"])[:, 2]
    model = Function(lambda b, s: ops.nms(b, s, threshold))
    check(model, tmp_path / "m.onnx", (boxes, scores), ONE, tolerance=0)
    assert torch.equal(model(boxes, scores), expected)


def test_a_threshold_below_zero_is_refused(tmp_path: Path) -> None:
    model = Function(lambda b, s: ops.nms(b, s, -0.5))
    with pytest.raises(Exception, match="iou_threshold: expected one that ONNX can hold"):
        export(model, (_boxes(5), _scores(5)), tmp_path / "m.onnx")


SOFT: dict[str, dict[str, Any]] = {
    "gaussian": {"method": "gaussian", "sigma": 0.6},
    "linear, plus one": {"method": "linear", "min_score": 0.1, "plus_one": True},
    "linear, three": {"method": "linear", "max_output": 3},
}


@pytest.mark.parametrize("name", SOFT)
def test_soft_nms(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    draws = [(_boxes(n), torch.rand(n)) for n in (20, 50, 1, 0)]
    model = Function(lambda b, s: ops.soft_nms(b, s, **SOFT[name]))
    proto = check(model, tmp_path / "m.onnx", draws[0], ONE, draws[1:])
    assert "Loop" in {node.op_type for node in proto.graph.node}


def test_soft_nms_of_classes_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def twice(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        chosen, values = ops.soft_nms(boxes, scores, labels=labels, min_score=0.05)
        again, _ = ops.soft_nms(boxes[chosen], values, min_score=0.2)
        return chosen[again], values

    draws = [(_boxes(n), torch.rand(n), _labels(n)) for n in (20, 50)]
    check(Function(twice), tmp_path / "m.onnx", draws[0], [{0: "n"}] * 3, draws[1:])


@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
def test_stable_sorting(tmp_path: Path, descending: bool) -> None:
    def call(x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        values, order = torch.sort(x, dim=0, descending=descending, stable=True)
        return values, order, torch.argsort(labels, descending=descending, stable=True)

    draws = [(_scores(n, 3), _labels(n)) for n in (9, 15)]
    check(Function(call), tmp_path / "m.onnx", draws[0], ONE, draws[1:], tolerance=0)
