"""Every family of detectors with every kind of deformable layer learns eight photographs by heart.

    python -m tests.slow.overfit --data coco128 --backbone resnet50_1by2.pth --log overfit.jsonl [NAME ...]

``--data`` is a folder of COCO photographs in COCO's layout, ``--backbone`` a half-width ResNet-50. Networks keep their
heads, targets and rules; what is smaller is the backbone, the width of the heads and the pictures. A network is done
once AP at IoU 0.5 on these pictures is above 0.9; every trainable parameter must have had a gradient, and every frozen
one, statistics included, must be the same bit for bit. One line of JSON per network is added to the log.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcn.data import open_dataset
from dcn.data.transforms import Resize
from dcn.engine.config import ScheduleConfig, WarmupConfig
from dcn.engine.optim import lr_factor, make_optimizer, set_learning_rate
from dcn.metrics import CocoAP
from dcn.models import build
from dcn.models.checkpoints import load_backbone
from dcn.structures import Sample, Target

IMAGES = (34, 36, 42, 73, 81, 92, 394, 502)
"""Of train2017: ten objects of ten classes that fill much of the picture, so that small pictures show them."""

ENOUGH = 0.9
BATCH = 2
EVALUATED_EVERY = 30
MOST_STEPS = 1500

Sides = tuple[int, int]
SMALL: Sides = (128, 208)
LARGER: Sides = (256, 416)
"""Shorter and largest longer side. Networks that pool one map of stride 16 get the larger one: at 128 pixels regions
that overlap an object by half round to the same cells as the object itself."""
LARGE: Sides = (640, 1040)

_BACKBONE: dict[str, Any] = {"width": 0.5, "preprocess": "bgr_caffe", "frozen_stages": 1}
_ORIGINAL: dict[str, Any] = {**_BACKBONE, "rpn_channels": 128, "proposals": (500, 100)}
_LATER: dict[str, Any] = {
    **_BACKBONE,
    "style": "caffe",
    "pool": "ceil",
    "norm": "frozen",
    "fpn_channels": 64,
    "fc_channels": 256,
    "train_proposals": (200, 100),
    "test_proposals": (200, 100),
    "rois_per_image": 64,
}
_RFCN: dict[str, Any] = {**_ORIGINAL, "anchor_scales": (4, 8, 16), "head_channels": 256}
_RCNN: dict[str, Any] = {**_ORIGINAL, "anchor_scales": (4, 8, 16), "head_channels": 64, "fc_channels": 256}
_FPN: dict[str, Any] = {**_ORIGINAL, "fpn_channels": 64, "fc_channels": 256, "hardest": 128}
_RPN: dict[str, Any] = {
    **_BACKBONE,
    "anchor_scales": (2, 4, 8),
    "rpn_channels": 128,
    "head_channels": 256,
    "candidates": 1000,
}

_VARIANTS = ("", "_dconv_c3-c5", "_mdconv_c3-c5", "_mdconv_c3-c5_group4", "_dpool", "_mdpool")
_FAMILIES = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn")

NETWORKS: dict[str, dict[str, Any]] = {
    "rfcn_r50": _RFCN,
    "rfcn_r50_dcn": _RFCN,
    "rcnn_r50": _RCNN,
    "rcnn_r50_dcn": _RCNN,
    "fpn_r50": _FPN,
    "fpn_r50_dcn": _FPN,
    "rpn_r50": _RPN,
    "rpn_r50_dcn": _RPN,
    **{f"{family}_r50_fpn{variant}": _LATER for family in _FAMILIES for variant in _VARIANTS},
}
"""Name of the network and the options that make it small."""

_RATES = {"rfcn": 0.005, "rcnn": 0.01, "fpn": 0.01, "rpn": 0.01}
_LATER_RATE = 0.02
"""Learning rates; the originals are lower because hard-example mining makes larger gradients."""


@dataclass(frozen=True)
class Outcome:
    """What became of one network.

    Attributes:
        network: its name.
        steps: updates until it was good enough, or all that were allowed.
        ap50: on the eight pictures, with boxes.
        mask_ap50: with masks; ``None`` for a network without.
        without_gradient: trainable parameters that no gradient reached.
        changed: frozen parameters and statistics that are not what they were.
        minutes: of processor time.
    """

    network: str
    steps: int
    ap50: float
    mask_ap50: float | None
    without_gradient: list[str]
    changed: list[str]
    minutes: float

    @property
    def passed(self) -> bool:
        """Whether the network learned the pictures, all of it, and only what it should."""
        learned = min(self.ap50, 1.0 if self.mask_ap50 is None else self.mask_ap50) > ENOUGH
        return learned and not self.without_gradient and not self.changed


def sides_of(name: str) -> Sides:
    """The size of the pictures that a network learns."""
    return LARGER if name.startswith(("rfcn", "rcnn")) else SMALL


def read_pictures(root: Path, sides: Sides = SMALL) -> tuple[list[Sample], tuple[str, ...]]:
    """The eight pictures, shrunk to ``sides``, with labels among the classes that occur, and those classes."""
    dataset = open_dataset("coco", root, "train2017", annotations="annotations/instances_train2017_100.json")
    expected = [index for index, _ in enumerate(dataset.sizes) if int(str(_stem(dataset.image_path(index)))) in IMAGES]
    samples = [Resize((sides[0],), sides[1])(dataset[index], torch.Generator()) for index in expected]
    present = sorted({int(label) for sample in samples for label in _target(sample).labels})
    position = torch.full((len(dataset.classes),), -1).scatter(0, torch.tensor(present), torch.arange(len(present)))
    kept = [Sample(s.image, replace(_target(s), labels=position[_target(s).labels])) for s in samples]
    return kept, tuple(dataset.classes[label] for label in present)


def _stem(path: Path | None) -> str:
    assert path is not None
    return path.stem


def _target(sample: Sample) -> Target:
    assert isinstance(sample.target, Target)
    return sample.target


class Training:
    """One network on its way, with what must not change and what must move."""

    def __init__(self, name: str, classes: tuple[str, ...], backbone: Path) -> None:
        torch.manual_seed(0)
        self.model = build(name, classes, **NETWORKS[name])
        load_backbone(self.model, backbone)
        rate = _RATES.get(name.split("_", maxsplit=1)[0], _LATER_RATE)
        self.schedule = ScheduleConfig(steps=MOST_STEPS, lr=rate, warmup=WarmupConfig(30, 0.1, "linear"))
        self.optimizer = make_optimizer(self.model, self.schedule)
        trained = {key for key, parameter in self.model.named_parameters() if parameter.requires_grad}
        self.waiting = set(trained)
        self.frozen = {key: value.clone() for key, value in self.model.state_dict().items() if key not in trained}

    def step(self, number: int, samples: list[Sample]) -> None:
        """One update."""
        self.model.train()
        losses: dict[str, Tensor] = self.model([s.image for s in samples], [_target(s) for s in samples])
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.waiting -= {key for key in self.waiting if _reached(self.model.get_parameter(key))}
        nn.utils.clip_grad_norm_(list(self.model.parameters()), 10.0)
        set_learning_rate(self.optimizer, self.schedule.lr * lr_factor(number, self.schedule, MOST_STEPS))
        self.optimizer.step()

    def changed(self) -> list[str]:
        """Frozen entries that are not bit for bit what they were."""
        now = self.model.state_dict()
        return sorted(key for key, value in self.frozen.items() if not torch.equal(value, now[key]))


def _reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool((parameter.grad != 0).any())


@torch.no_grad()
def evaluate(model: nn.Module, samples: list[Sample], classes: tuple[str, ...]) -> dict[str, float]:
    """COCO's metrics on the images themselves."""
    model.eval()
    metric = CocoAP(classes, masks=any("mask_head" in key for key in model.state_dict()))
    metric.update(model([sample.image for sample in samples]), [_target(sample) for sample in samples])
    return dict(metric.compute())


def overfit(name: str, root: Path, backbone: Path) -> Outcome:
    """Train one network on the eight pictures until it knows them."""
    start = time.process_time()
    samples, classes = read_pictures(root, sides_of(name))
    training = Training(name, classes, backbone)
    scores: dict[str, float] = {"AP50": 0.0}
    steps = 0
    while steps < MOST_STEPS and min(scores["AP50"], scores.get("mask/AP50", 1.0)) <= ENOUGH:
        for _ in range(EVALUATED_EVERY):
            first = steps * BATCH % len(samples)
            training.step(steps, samples[first : first + BATCH])
            steps += 1
        scores = evaluate(training.model, samples, classes)
    _show_large(training, samples, steps)
    return Outcome(
        name,
        steps,
        scores["AP50"],
        scores.get("mask/AP50"),
        sorted(training.waiting),
        training.changed(),
        (time.process_time() - start) / 60,
    )


def _show_large(training: Training, samples: list[Sample], steps: int) -> None:
    """Some layers pool large objects only (their offsets from 448 pixels on): show those until all have a gradient."""
    for number in range(len(samples)):
        if training.waiting:
            large = Resize((LARGE[0],), LARGE[1])(samples[number], torch.Generator())
            training.step(steps + number, [large])


def main() -> int:
    parser = argparse.ArgumentParser(description="Let networks learn eight photographs by heart.")
    parser.add_argument("names", nargs="*", help="networks (default: all)")
    parser.add_argument("--data", type=Path, required=True, help="folder with COCO photographs in COCO's layout")
    parser.add_argument("--backbone", type=Path, required=True, help="weights of a half-width ResNet-50")
    parser.add_argument("--log", type=Path, required=True, help="file to which a line of JSON per network is added")
    arguments = parser.parse_args()
    good = True
    for name in arguments.names or NETWORKS:
        outcome = overfit(name, arguments.data, arguments.backbone)
        good &= outcome.passed
        line = json.dumps(asdict(outcome) | {"passed": outcome.passed})
        with arguments.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
