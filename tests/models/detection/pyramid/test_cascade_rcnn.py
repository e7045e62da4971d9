from __future__ import annotations

import torch
from torch import Tensor

from dcn import boxes
from dcn.models.detection.pyramid.box_head import BoxHead
from dcn.models.detection.pyramid.cascade_rcnn import CascadeRoIHead, _refine_sampled
from dcn.models.detection.pyramid.roi_sampling import SampledRois
from dcn.models.detection.shared.frames import make_frames
from dcn.models.detection.shared.proposals import Proposals
from dcn.models.detection.shared.regions import to_rois
from dcn.structures import Target
from tests.models.detection.conftest import tiny


def _head() -> CascadeRoIHead:
    torch.manual_seed(0)
    head = tiny(cascade=True).roi_head
    assert isinstance(head, CascadeRoIHead)
    with torch.no_grad():
        for stage in head.bbox_head:
            stage.fc_cls.weight.mul_(100)  # type: ignore[union-attr, operator]
            stage.fc_reg.weight.mul_(100)  # type: ignore[union-attr, operator]
    return head.eval()


def _features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 16, 64 // s, 96 // s, generator=generator) for s in (4, 8, 16, 32)]


PROPOSALS = [torch.tensor([[8.0, 8, 50, 41], [60, 20, 90, 60]]), torch.tensor([[0.0, 0, 30, 30]])]
SIZES = [(64, 96), (60, 90)]


def test_prediction_is_mean_logits_on_refined_boxes() -> None:
    head, features = _head(), _features()
    with torch.no_grad():
        boxes_, slots = torch.nn.utils.rnn.pad_sequence(PROPOSALS, batch_first=True), torch.tensor([[1, 1], [1, 0]])
        frames = make_frames(SIZES, SIZES, torch.device("cpu"))
        result, _ = head.predict(features, Proposals(boxes_, slots.bool()), frames, -1.0).per_image()
        rois, total = to_rois(PROPOSALS), torch.zeros(3, 3)
        for stage in head.bbox_head:
            assert isinstance(stage, BoxHead)
            logits, deltas = stage(head.bbox_roi_extractor[0](features, rois))
            total = total + logits
            moved = boxes.decode(rois[:, 1:], deltas[:, 0], stds=stage.stds)
            limits = torch.tensor([[w, h, w, h] for h, w in (SIZES[0], SIZES[0], SIZES[1])])
            rois = torch.cat((rois[:, :1], torch.minimum(moved.clamp(min=0), limits)), 1)
    scores = (total / 3).softmax(1)
    assert len(result[1]) == 2
    torch.testing.assert_close(result[1].scores, scores[2, :2].sort(descending=True).values)
    torch.testing.assert_close(result[1].boxes, rois[2:, 1:].expand(2, 4))


def test_stages_sharpen_their_deltas() -> None:
    stds = [stage.stds for stage in _head().bbox_head]
    assert stds == [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]


def test_refinement_drops_annotated_boxes() -> None:
    head = BoxHead(4, 2, class_agnostic=True)
    rois = torch.tensor([[0, 10.0, 10, 20, 20], [0, 30.0, 30, 50, 50], [1, 5.0, 5, 15, 25]])
    flags = torch.tensor([True, False, False])
    sampled = SampledRois(rois, torch.zeros(3).long(), torch.zeros(3).long(), rois[:, 1:], flags)
    deltas = torch.tensor([[[0.0, 0, 0, 0]], [[1.0, 0, 0, 0]], [[0.0, 0, 0, 0]]])
    got, valid = _refine_sampled(head, sampled, deltas, [(100, 51), (100, 100)], 2)
    assert [part.tolist() for part in got] == [[[32, 30, 51, 50]], [[5, 5, 15, 25]]]
    assert [part.tolist() for part in valid] == [[True], [True]]


def test_losses_carry_the_weights_of_the_stages(target: Target) -> None:
    head, features = _head().train(), [f[:1] for f in _features()]
    # The same regions and the same head at every stage: only the weights differ in the class loss of stage 1.
    head.positive_ious = (0.5, 0.5, 0.5)
    proposals = Proposals(PROPOSALS[0][None], torch.ones(1, 2, dtype=torch.bool))
    torch.manual_seed(0)
    weighted = head.losses(features, proposals, SIZES[:1], [target])
    head.loss_weights = (1.0, 1.0, 1.0)
    torch.manual_seed(0)
    plain = head.losses(features, proposals, SIZES[:1], [target])
    for stage, weight in enumerate((1.0, 0.5, 0.25)):
        for name in ("loss_cls", "loss_bbox"):
            torch.testing.assert_close(weighted[f"s{stage}.{name}"], plain[f"s{stage}.{name}"] * weight)
