"""Options of detectors as values: what their builders share, documented once and handed on.

In recipes and weights files the fields stand among the options of the model, see :mod:`dcn.models.options`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DetectionSpec:
    """What a detector returns, and at which size it sees an image.

    Attributes:
        max_detections: per image.
        score_threshold: detections have larger scores.
        test_size: shorter side and largest longer side to which images are resized before they are given.
    """

    max_detections: int = 100
    score_threshold: float = 0.05
    test_size: tuple[int, int] = (800, 1333)
