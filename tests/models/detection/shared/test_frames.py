from __future__ import annotations

import torch

from dcn.models.detection.shared.frames import make_frames

CPU = torch.device("cpu")


def test_frames_by_hand() -> None:
    frames = make_frames([(50, 80), (64, 96)], [(100, 40), (64, 96)], CPU, clipped=[(64, 96), (64, 96)])
    assert frames.sizes.tolist() == [[64, 96], [64, 96]]
    assert frames.factors.tolist() == [[0.5, 2.0, 0.5, 2.0], [1, 1, 1, 1]]
    assert frames.output_sizes.tolist() == [[100, 40], [64, 96]]
    assert make_frames([], [], CPU).sizes.shape == (0, 2)
