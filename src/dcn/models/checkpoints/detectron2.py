"""Weights of detectron2 (``.pkl`` of its model zoo, ``.pth`` of a training) and of Caffe2's Detectron: names and facts.

A file holds numbers alone. How its model normalised images and where its strides were follows from the ``PIXEL_MEAN``,
``PIXEL_STD`` and ``STRIDE_IN_1X1`` of a configuration, which is elsewhere; files that do not say it are taken as the
published ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dcn.models.backbones.resnet import BLOCKS
from dcn.models.checkpoints.facts import BackboneFacts
from dcn.models.checkpoints.reading import StateFile
from dcn.models.detection.pyramid.cascade_rcnn import STAGE_STDS
from dcn.models.zoo import MODELS

_EPS = 1e-5
_NORM_PARTS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_CAFFE2 = re.compile(r"res(\d)_(\d+)_branch(?:1|2([abc]))(_bn)?_(w|b|s|rm|riv)$")
_BLOCK = re.compile(r"res(\d)\.(\d+)\.(?:conv(\d)|(shortcut))(\.norm|_offset)?\.(\w+)$")
_STEM = re.compile(r"stem\.conv1(\.norm)?\.(\w+)$")
_BODIES = ("backbone.bottom_up.", "backbone.", "")

_LAYERS = {
    "proposal_generator.rpn_head.conv": "rpn_head.rpn_conv",
    "proposal_generator.rpn_head.objectness_logits": "rpn_head.rpn_cls",
    "proposal_generator.rpn_head.anchor_deltas": "rpn_head.rpn_reg",
    **{f"backbone.fpn_lateral{level}": f"neck.lateral_convs.{level - 2}.conv" for level in (2, 3, 4, 5)},
    **{f"backbone.fpn_output{level}": f"neck.fpn_convs.{level - 2}.conv" for level in (2, 3, 4, 5)},
    "roi_heads.mask_head.deconv": "roi_head.mask_head.upsample",
    "roi_heads.mask_head.predictor": "roi_head.mask_head.conv_logits",
    **{f"roi_heads.mask_head.mask_fcn{index + 1}": f"roi_head.mask_head.convs.{index}.conv" for index in range(4)},
}
_BOX_LAYERS = {
    "box_head{}.fc1": "bbox_head{}.shared_fcs.0",
    "box_head{}.fc2": "bbox_head{}.shared_fcs.1",
    "box_predictor{}.cls_score": "bbox_head{}.fc_cls",
    "box_predictor{}.bbox_pred": "bbox_head{}.fc_reg",
}
for _stage in ("", ".0", ".1", ".2"):
    _LAYERS |= {f"roi_heads.{k}".format(_stage): f"roi_head.{v}".format(_stage) for k, v in _BOX_LAYERS.items()}

_STAGE_STDS = tuple(tuple(1 / weight for weight in box) for box in ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)))
_NO_WEIGHTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
_FRAMES = {
    # (PIXEL_MEAN, PIXEL_STD): what normalises in the same way, and whether the first layer sees BGR instead of RGB.
    ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)): ("bgr_mean", False),
    ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395)): ("rgb_std", True),
    ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)): ("rgb_std", False),
}


@dataclass(frozen=True)
class Detectron2Detector:
    """A detector of detectron2 as one of ours.

    Attributes:
        name: of the model.
        classes: their number.
        options: with which the model is built.
        tensors: under the names of our model.
    """

    name: str
    classes: int
    options: dict[str, object]
    tensors: dict[str, Tensor]


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a ResNet of detectron2 or Caffe2, alone or in a detector."""
    return "conv1_w" in state or any(f"{body}stem.conv1.weight" in state for body in _BODIES)


def is_detectron2_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a detector that this package has: an R-CNN on a feature pyramid, no more."""
    if "backbone.bottom_up.stem.conv1.weight" not in state or "backbone.fpn_output2.weight" not in state:
        return False
    first = ("roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.0.cls_score.weight")
    beside = (name for name in state if not name.startswith((_BODIES[0], *_NO_WEIGHTS)))
    return any(name in state for name in first) and all(name.rpartition(".")[0] in _LAYERS for name in beside)


def backbone_of(
    file: StateFile, preprocess: str | None = None, style: str | None = None
) -> tuple[dict[str, Tensor], BackboneFacts, list[str]]:
    """The ResNet of a file under the names of :class:`dcn.models.backbones.ResNet`.

    Args:
        file: for which :func:`is_detectron2` is true.
        preprocess: how its training normalised images; ``None``: as that of the published files.
        style: where the strides of its model are; ``None``: as in the published files.

    Returns:
        The tensors, what a model must be built with, and the names of what is beside the backbone.

    Raises:
        ValueError: a normalisation that this package does not have.
    """
    state, rest = _body(file.tensors)
    name, flipped = (preprocess, False) if preprocess is not None else _frame(file, state)
    if flipped:
        state["conv1.weight"] = state["conv1.weight"].flip(1)
    usual = "caffe" if name.startswith("bgr") else "pytorch"
    return state, BackboneFacts(name, usual if style is None else style, "floor"), rest


def detector_of(file: StateFile, preprocess: str | None = None, style: str | None = None) -> Detectron2Detector:
    """A whole detector as one of ours; its name and options follow from names and shapes.

    Args:
        file: for which :func:`is_detectron2_detector` is true.
        preprocess: as :func:`backbone_of`.
        style: as :func:`backbone_of`.

    Raises:
        ValueError: a backbone that this package does not have.
    """
    body, facts, rest = backbone_of(file, preprocess, style)
    tensors = {f"backbone.{name}": value for name, value in body.items()}
    tensors |= {_head_name(name): file.tensors[name] for name in rest if not name.startswith(_NO_WEIGHTS)}
    cascade = "roi_head.bbox_head.0.fc_cls.weight" in tensors
    masks = "roi_head.mask_head.upsample.weight" in tensors
    if cascade and masks:  # one mask head there, the mean of three here
        tensors = {
            name.replace(".mask_head.", f".mask_head.{stage}."): value
            for name, value in tensors.items()
            for stage in (range(3) if ".mask_head." in name else (0,))
        }
    name, options = _model(body, cascade=cascade, masks=masks)
    if cascade:
        options["cascade_average"] = "probabilities"
        for stage, (own, theirs) in enumerate(zip(STAGE_STDS, _STAGE_STDS, strict=True)):
            factors = torch.tensor(theirs, dtype=torch.float64) / torch.tensor(own, dtype=torch.float64)
            for part in ("weight", "bias"):
                fc_reg = f"roi_head.bbox_head.{stage}.fc_reg.{part}"
                tensors[fc_reg] = _scaled(tensors[fc_reg], factors)
    options |= _sizes(tensors, body, cascade=cascade) | vars(facts)
    scores = tensors[f"roi_head.bbox_head.{'0.' if cascade else ''}fc_cls.weight"]
    return Detectron2Detector(name, len(scores) - 1, options, tensors)


def _scaled(value: Tensor, factors: Tensor) -> Tensor:
    """The last layer of a box head with another factor for each of the four numbers of a box."""
    return (value.double() * factors.view(4, *[1] * (value.ndim - 1))).to(value.dtype) if len(value) == 4 else value


def _head_name(name: str) -> str:
    """Our name for a parameter beside the backbone."""
    layer, _, part = name.rpartition(".")
    return f"{_LAYERS[layer]}.{part}" if layer in _LAYERS else name


def _body(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the ResNet, and the names of the others."""
    if "conv1_w" in state:
        return _caffe2_body(state)
    body = next(prefix for prefix in _BODIES if f"{prefix}stem.conv1.weight" in state)
    found: dict[str, Tensor] = {}
    rest = []
    for name, value in state.items():
        inner = name.removeprefix(body).removeprefix("roi_heads.")  # the last stage of a C4 model is in its heads
        own = _own_name(inner) if name.startswith((body, "roi_heads.res5.")) else None
        if own is not None:
            found[own] = value
        elif not inner.startswith(("linear.", "stem.fc.")):  # the classifier of ImageNet
            rest.append(name)
    return _with_statistics(found), rest


def _own_name(name: str) -> str | None:
    if match := _STEM.match(name):
        return f"bn1.{match[2]}" if match[1] else f"conv1.{match[2]}"
    match = _BLOCK.match(name)
    if match is None:
        return None
    stage, block, number, shortcut, beside, part = match.groups()
    start = f"layer{int(stage) - 1}.{block}."
    if shortcut:
        return f"{start}downsample.{1 if beside else 0}.{part}"
    if beside == ".norm":
        return f"{start}bn{number}.{part}"
    return f"{start}conv{number}{'.conv_offset' if beside else ''}.{part}"


def _caffe2_body(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    stem = {"conv1_w": "conv1.weight"} | {f"res_conv1_bn_{s}": f"bn1.{part}" for s, part in _NORM_PARTS.items()}
    found: dict[str, Tensor] = {}
    rest = []
    for name, value in state.items():
        match = _CAFFE2.match(name)
        if name in stem:
            found[stem[name]] = value
        elif match is not None and (match[4] or match[5] == "w"):
            stage, block, branch, norm, part = match.groups()
            start = f"layer{int(stage) - 1}.{block}."
            kind = ("bn" if norm else "conv") + str("abc".index(branch) + 1) if branch else ""
            layer = kind or f"downsample.{1 if norm else 0}"
            found[f"{start}{layer}.{_NORM_PARTS[part] if norm else 'weight'}"] = value
        elif not name.startswith(("fc1000_", "pred_", "conv1_b")) and match is None:
            rest.append(name)
    return _with_statistics(found), rest


def _with_statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with statistics where a norm has scale and shift alone: mean 0, and a variance that divides by 1."""
    for name in [name for name in state if re.search(r"(bn\d|downsample\.1)\.weight$", name)]:
        norm = name.removesuffix("weight")
        if f"{norm}running_mean" not in state:
            state[f"{norm}running_mean"] = torch.zeros_like(state[name])
            state[f"{norm}running_var"] = torch.full_like(state[name], 1 - _EPS)
    return state


def _frame(file: StateFile, body: Mapping[str, Tensor]) -> tuple[str, bool]:
    """How images are normalised, and whether the first layer saw BGR where ours sees RGB.

    Files since 2020 do not say it. The published ones start from weights of MSRA (BGR minus means), those with groups
    from weights of FAIR (BGR, also divided), and ResNet-18 and 34 can only start from those of torchvision (RGB).
    """
    stated = _stated_frame(file.tensors)
    if stated is not None:
        return stated
    if file.meta.get("__author__") == "torchvision" or "layer1.0.conv3.weight" not in body:
        return "rgb_std", False
    return ("rgb_std", True) if _groups(body) > 1 else ("bgr_mean", False)


def _stated_frame(state: Mapping[str, Tensor]) -> tuple[str, bool] | None:
    """The normalisation that files of 2019 hold."""
    if "pixel_mean" not in state or "pixel_std" not in state:
        return None
    mean, std = (tuple(round(v, 3) for v in state[n].flatten().tolist()) for n in ("pixel_mean", "pixel_std"))
    if (mean, std) not in _FRAMES:
        raise ValueError(f"expected a normalisation that this package has, got the means {mean} and divisors {std}")
    return _FRAMES[mean, std]


def _groups(body: Mapping[str, Tensor]) -> int:
    """Groups of the 3x3 convolutions."""
    width = body["layer1.0.conv1.weight"].shape[0]
    return width // body["layer1.0.conv2.weight"].shape[1] if "layer1.0.conv3.weight" in body else 1


def _model(body: Mapping[str, Tensor], *, cascade: bool, masks: bool) -> tuple[str, dict[str, object]]:
    """The model of the table, and the options in which it differs from it."""
    blocks = tuple(len({name.split(".")[1] for name in body if name.startswith(f"layer{i}.")}) for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in body
    depth = next((d for d, counts in BLOCKS.items() if counts == blocks and (d >= 50) == bottleneck), None)
    if depth is None:
        raise ValueError(f"expected a ResNet-18, 34, 50 or 101, got one with {blocks} blocks in its stages")
    family = f"{'cascade_' if cascade else ''}{'mask_' if masks else '' if cascade else 'faster_'}rcnn"
    suffix, options = _deformable(body, blocks)
    for name, rest in ((f"_r{depth}_fpn{suffix}", {}), (f"_r{depth}_fpn", options)):
        if f"{family}{name}" in MODELS:
            return f"{family}{name}", rest
    return f"{family}_r50_fpn", {"depth": depth, **options}


def _deformable(body: Mapping[str, Tensor], blocks: tuple[int, ...]) -> tuple[str, dict[str, object]]:
    """How the name of a model with these deformable layers ends, and the options that say the same."""
    moved = [name.split(".")[:2] for name in body if name.endswith(".conv_offset.weight")]
    if not moved:
        return "", {}
    channels = next(value.shape[0] for name, value in body.items() if name.endswith(".conv_offset.weight"))
    modulated = channels % 27 == 0
    groups = channels // (27 if modulated else 18)
    layers: tuple[str, ...] = tuple(sorted(f"c{int(layer[5:]) + 1}.{block}" for layer, block in moved))
    suffix = f"_{'m' if modulated else ''}dconv_{layers}"
    if set(layers) == {f"c{stage}.{block}" for stage in (3, 4, 5) for block in range(blocks[stage - 2])}:
        layers, suffix = ("c3", "c4", "c5"), f"_{'m' if modulated else ''}dconv_c3-c5"
    suffix += f"_group{groups}" if groups > 1 else ""
    return suffix, {"deform_layers": layers, "modulated": modulated, "offset_groups": groups}


def _sizes(tensors: Mapping[str, Tensor], body: Mapping[str, Tensor], *, cascade: bool) -> dict[str, object]:
    """Sizes that differ from the usual ones."""
    last, full = ("conv3", 256) if "layer1.0.conv3.weight" in body else ("conv2", 64)
    groups, width = _groups(body), body[f"layer1.0.{last}.weight"].shape[0] / full
    head = f"roi_head.bbox_head.{'0.' if cascade else ''}shared_fcs.0.weight"
    sizes: dict[str, tuple[float, float]] = {
        "width": (width, 1.0),
        "stem_channels": (body["conv1.weight"].shape[0], 64),
        "groups": (groups, 1),
        "base_width": (round(body["layer1.0.conv1.weight"].shape[0] / groups / width) if groups > 1 else 64, 64),
        "fpn_channels": (tensors["neck.fpn_convs.0.conv.weight"].shape[0], 256),
        "fc_channels": (tensors[head].shape[0], 1024),
    }
    return {name: value for name, (value, usual) in sizes.items() if value != usual}
