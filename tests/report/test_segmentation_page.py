"""The report of a segmentation model says the mean IoU that the metric gives."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from dcn.metrics.segmentation import MeanIoU
from dcn.report.run_page import RunFacts
from dcn.report.segmentation_page import segmentation_page

CLASSES = ("sky", "road", "cat", "dog")


@pytest.mark.parametrize(
    ("absent", "said"),
    [("skip", "mean IoU of the classes that are annotated"), ("zero", "0 for the 1 of them that is neither annotated")],
    ids=["skip", "zero"],
)
def test_the_mean_iou_is_that_of_the_evaluation(absent: Literal["skip", "zero"], said: str) -> None:
    """No pixel is a dog, and none is taken for one."""
    random = np.random.default_rng(0)
    truth, predicted = (torch.from_numpy(random.integers(0, 3, (2, 8, 9))) for _ in range(2))
    metric = MeanIoU(4, absent=absent, classes=CLASSES)
    metric.update(list(predicted), list(truth))
    counts = []
    for one, other in zip(predicted, truth, strict=True):
        single = MeanIoU(4, classes=CLASSES)
        single.update([one], [other])
        counts.append(single.confusion.numpy())
    page = segmentation_page(RunFacts("Run", "2 images"), CLASSES, np.stack(counts), ["a", "b"], absent).html()
    assert f"<dt>mIoU</dt><dd>{metric.compute().mean_iou:.3f}</dd>" in page
    assert said in page
