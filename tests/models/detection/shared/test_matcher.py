from __future__ import annotations

import pytest
import torch

from dcn import boxes
from dcn.models.detection.shared import matcher
from dcn.models.detection.shared.matcher import IGNORED, NEGATIVE, LowQuality, match, overlaps


def _naive(iou: list[list[float]], high: float, low: float, low_quality: LowQuality, at_least: float) -> list[int]:
    result = []
    for values in zip(*iou, strict=True):
        column = list(values)
        best = max(column)
        index = column.index(best)
        result.append(index if best >= high else NEGATIVE if best < low else IGNORED)
    if low_quality == "none":
        return result
    for owner, row in enumerate(iou):
        for candidate, value in enumerate(row):
            if value == max(row) and value >= at_least:
                own = [r[candidate] for r in iou]
                result[candidate] = owner if low_quality == "reassign" else own.index(max(own))
    return result


@pytest.mark.parametrize("low_quality", ["none", "reassign", "keep"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at_least", [0.0, 0.3])
def test_equals_the_loop(low_quality: LowQuality, seed: int, at_least: float) -> None:
    # Coarse values make ties frequent.
    iou = torch.randint(0, 11, (5, 40), generator=torch.Generator().manual_seed(seed)).float() / 10
    got = match(iou, positive_iou=0.7, negative_iou=0.3, low_quality=low_quality, low_quality_iou=at_least)
    for rows in (1, 2, 4):
        blocks = iou.split(rows)
        again = match(blocks, positive_iou=0.7, negative_iou=0.3, low_quality=low_quality, low_quality_iou=at_least)
        assert torch.equal(again, got)
    values = [[float(v) for v in row] for row in iou]
    thresholds = (torch.tensor(0.7).item(), torch.tensor(0.3).item())
    assert got.tolist() == _naive(values, *thresholds, low_quality, torch.tensor(at_least).item())


def test_reassignment_prefers_the_last_object() -> None:
    iou = torch.tensor([[0.6, 0.1], [0.6, 0.0]])
    got = match(iou, positive_iou=0.7, negative_iou=0.3, low_quality="reassign", low_quality_iou=0.3)
    assert got.tolist() == [1, NEGATIVE]


def test_no_objects_are_all_negative() -> None:
    assert match(torch.zeros(0, 3), positive_iou=0.5, negative_iou=0.5).tolist() == [NEGATIVE] * 3


@pytest.mark.parametrize(("objects", "candidates"), [(0, 5), (7, 5), (7, 0)])
def test_overlaps_are_those_of_all_objects(objects: int, candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "_MOST_OVERLAPS", 10)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(n, 4, generator=generator).cumsum(1) for n in (objects, candidates))
    blocks = list(overlaps(first, second, 1))
    assert torch.equal(torch.cat(blocks), boxes.iou(first, second, 1))
    assert len(blocks) == (4 if objects and candidates else 1)


def test_no_candidates() -> None:
    assert match(torch.zeros(2, 0), positive_iou=0.5, negative_iou=0.5, low_quality="reassign").shape == (0,)
