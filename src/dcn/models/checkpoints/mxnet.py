"""Checkpoints of the original MXNet code: its names for our parameters, both ways.

An original file calls parameters ``arg:<name>`` and batch-norm statistics ``aux:<name>``. Its training checkpoints
hold the last regression layer twice: as it is trained, on targets divided by (0.1, 0.1, 0.2, 0.2), and, with ``_test``
at the end of the name, multiplied by these numbers. Our models multiply when they decode, so they load the former.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from dcn.models.checkpoints.loading import load_state
from dcn.models.checkpoints.mxnet_format import read_params, write_params
from dcn.models.detection.original.rfcn import RFCNHead
from dcn.models.detection.original.targets import STDS

__all__ = [
    "backbone_of",
    "export_mxnet",
    "is_model",
    "load_mxnet",
    "model_of",
    "mxnet_names",
    "read_params",
    "write_params",
]

_LAYERS: Final = {
    "rpn_head.rpn_conv": "rpn_conv_3x3",
    "rpn_head.rpn_cls": "rpn_cls_score",
    "rpn_head.rpn_reg": "rpn_bbox_pred",
    "roi_head.reduce": "conv_new_1",
    # R-FCN
    "roi_head.cls.maps": "rfcn_cls",
    "roi_head.reg.maps": "rfcn_bbox",
    "roi_head.cls.offset_maps": "rfcn_cls_offset_t",
    "roi_head.reg.offset_maps": "rfcn_bbox_offset_t",
    # Faster R-CNN and FPN
    "roi_head.pool.offset_fc": "offset",
    "roi_head.bbox_head.shared_fcs.0": "fc_new_1",
    "roi_head.bbox_head.shared_fcs.1": "fc_new_2",
    "roi_head.bbox_head.fc_cls": "cls_score",
    "roi_head.bbox_head.fc_reg": "bbox_pred",
    # FPN
    "neck.extra_conv": "fpn_p6",
    **{f"neck.lateral_convs.{i}.conv": f"fpn_p{i + 2}_1x1" for i in range(4)},
    **{f"neck.fpn_convs.{i}.conv": f"fpn_p{i + 2}" for i in range(4)},
    **{f"roi_head.pool.levels.{i}.offset_fc": f"offset_p{i + 2}" for i in range(4)},
    # DeepLab
    "head.fc6": "fc6",
    "head.score": "score",
    "head.upsampling": "upsampling",
}
_PYRAMID_LAYERS: Final = _LAYERS | {"rpn_head.rpn_conv": "rpn_conv"}

_NORM_PARTS: Final = {
    "weight": "arg:{}_gamma",
    "bias": "arg:{}_beta",
    "running_mean": "aux:{}_moving_mean",
    "running_var": "aux:{}_moving_var",
}
_BLOCK: Final = re.compile(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)(\.conv_offset)?|downsample\.([01]))$")

_TEST_COPIES: Final = {
    f"arg:{layer}_{part}_test": f"arg:{layer}_{part}"
    for layer in ("rfcn_bbox", "bbox_pred")
    for part in ("weight", "bias")
}

_ORIGINAL_NAME: Final = re.compile(
    r"(?:arg|aux):(?:(?P<stem>conv1|bn_conv1)"
    r"|(?P<kind>res|bn)(?P<stage>[2-5])(?P<block>a|b\d+|[b-z])_branch(?:1|2(?P<branch>[abc]))(?P<offset>_offset)?)"
    r"_(?P<part>weight|bias|gamma|beta|moving_mean|moving_var)$"
)
_PART_NAMES: Final = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}


def mxnet_names(model: nn.Module) -> dict[str, str]:
    """The original's name for every entry of ``model.state_dict()``, batch norm's counters excepted.

    Args:
        model: a model of the original code (``rfcn_...``, ``rcnn_...``, ``fpn_...``, ``deeplab_...``), or its
            backbone alone.

    Raises:
        ValueError: if an entry has no counterpart in the original.
    """
    keys = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    layers = _PYRAMID_LAYERS if any(key.startswith("neck.") for key in keys) else _LAYERS
    # The original names blocks a, b, c, or a, b1, b2, ... in the two long stages of its ResNet-101.
    numbered = any(".22." in key for key in keys if "layer3" in key)
    return {key: _name(key, layers, numbered) for key in keys}


def _name(key: str, layers: Mapping[str, str], numbered: bool) -> str:
    layer, _, part = key.rpartition(".")
    if layer in layers:
        return f"arg:{layers[layer]}_{part}"
    inner = layer.removeprefix("backbone.")
    if inner in ("conv1", "bn1"):
        name, is_norm = ("conv1", False) if inner == "conv1" else ("bn_conv1", True)
    else:
        name, is_norm = _block_layer(inner, key, numbered)
    return _NORM_PARTS[part].format(name) if is_norm else f"arg:{name}_{part}"


def _block_layer(layer: str, key: str, numbered: bool) -> tuple[str, bool]:
    """The original's name for a layer inside of a residual block, and whether it is a batch norm."""
    match = _BLOCK.match(layer)
    if match is None:
        raise ValueError(f"model: expected layers that the original MXNet code has, got {key!r}")
    stage, index = int(match[1]) + 1, int(match[2])
    long_stage = numbered and stage in (3, 4)
    block = "a" if index == 0 else f"b{index}" if long_stage else chr(ord("a") + index)
    is_norm = match[3] == "bn" or match[6] == "1"
    branch = "branch1" if match[3] is None else f"branch2{'abc'[int(match[4]) - 1]}"
    return f"{'bn' if is_norm else 'res'}{stage}{block}_{branch}{'_offset' if match[5] else ''}", is_norm


def load_mxnet(model: nn.Module, path: str | Path) -> None:
    """Loads an original ``.params`` file into the model it belongs to: all of it or nothing.

    A file with nothing but the ``_test`` copy of the regression layer is accepted too; the copy is divided by the
    numbers it was multiplied by.

    Raises:
        ValueError: for a file that cannot be read, or names and shapes that do not fit. All of them are listed, and
            ``model`` is unchanged.
    """
    arrays = _without_test_copies(model, read_params(path))
    known = {name: key for key, name in mxnet_names(model).items()}
    load_state(model, {known.get(name, name): value.float() for name, value in arrays.items()}, str(path))


def export_mxnet(model: nn.Module, *, test_copies: bool = True) -> dict[str, Tensor]:
    """The parameters of a model under the original's names, for :func:`write_params`.

    Args:
        model: see :func:`mxnet_names`.
        test_copies: add the ``_test`` copy of the regression layer, which the original's own test code wants.
    """
    state = model.state_dict()
    arrays = {name: state[key].detach().cpu() for key, name in mxnet_names(model).items()}
    if test_copies:
        for copy, name in _TEST_COPIES.items():
            if name in arrays:
                arrays[copy] = arrays[name] * _test_factor(model, arrays[name])
    return arrays


def backbone_of(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ResNet of an original file (ImageNet weights or a whole detector) under the names of our ``ResNet``.

    Offset branches are left out where the file has none, heads and ``fc1000`` always.

    Raises:
        ValueError: if the file holds no ResNet.
    """
    state = {}
    for name, value in arrays.items():
        key = _backbone_key(name)
        if key is not None:
            state[key] = value.float()
    if "conv1.weight" not in state:
        raise ValueError(f"expected the names of a ResNet (arg:conv1_weight, ...), got {', '.join(list(arrays)[:3])}")
    return state


def beside_backbone(arrays: Mapping[str, Tensor]) -> list[str]:
    """The names that :func:`backbone_of` leaves out, but for the classifier of ImageNet."""
    return [name for name in arrays if _backbone_key(name) is None and not name.startswith("arg:fc1000_")]


def _backbone_key(name: str) -> str | None:
    stem = {"conv1": "conv1", "bn_conv1": "bn1"}
    match = _ORIGINAL_NAME.match(name)
    if match is None:
        return None
    part = _PART_NAMES[match["part"]]
    if match["stem"]:
        return f"{stem[match['stem']]}.{part}"
    block = match["block"]
    index = int(block[1:]) if len(block) > 1 else ord(block) - ord("a")
    kind = "conv" if match["kind"] == "res" else "bn"
    layer = f"{kind}{'abc'.index(match['branch']) + 1}" if match["branch"] else f"downsample.{int(kind == 'bn')}"
    offset = ".conv_offset" if match["offset"] else ""
    return f"layer{int(match['stage']) - 1}.{index}.{layer}{offset}.{part}"


_SCORES: Final = {"rfcn_r101": "rfcn_cls", "fpn_r101": "cls_score", "rcnn_r101": "cls_score", "deeplab_r101": "score"}
_MARKS: Final = {"rfcn_r101": "rpn_cls_score", "fpn_r101": "fpn_p6", "rcnn_r101": "conv_new_1", "deeplab_r101": "fc6"}


def _family(arrays: Mapping[str, Tensor]) -> str | None:
    return next((n for n in _SCORES if {f"arg:{_SCORES[n]}_bias", f"arg:{_MARKS[n]}_bias"} <= arrays.keys()), None)


def is_model(arrays: Mapping[str, Tensor]) -> bool:
    """Whether an original file holds one of its models (:func:`model_of`) and not a backbone alone."""
    return _family(arrays) is not None


def model_of(arrays: Mapping[str, Tensor]) -> tuple[str, int, dict[str, object]]:
    """Which of our models an original file belongs to, from its names and shapes.

    Returns:
        The name in ``dcn.models.MODELS``, the number of classes, and the options that differ from the defaults.

    Raises:
        ValueError: if it is none of the original's models (for example a backbone alone).
    """
    name = _family(arrays)
    if name is None:
        raise ValueError(f"expected an original R-FCN, Faster R-CNN, FPN or DeepLab, got {', '.join(list(arrays)[:3])}")
    scores = len(arrays[f"arg:{_SCORES[name]}_bias"])
    classes = scores if name == "deeplab_r101" else (scores // 49 if name == "rfcn_r101" else scores) - 1
    options: dict[str, object] = {}
    if name in ("rfcn_r101", "rcnn_r101") and len(arrays["arg:rpn_cls_score_bias"]) == 18:
        options |= {"anchor_scales": (8, 16, 32), "max_detections": 300}  # the settings for Pascal VOC
    if name == "deeplab_r101" and classes == 21:
        options["test_size"] = (360, 600)  # of VOC too
    offsets = arrays.get("arg:res5c_branch2b_offset_bias")
    if name == "rfcn_r101" and offsets is not None and "arg:rfcn_cls_offset_t_bias" not in arrays:
        # The model of the original's deform_conv_demo.
        options |= {"deform_layers": 3, "offset_groups": len(offsets) // 18, "dilated_offsets": False}
    elif offsets is not None:
        name += "_dcn"
    return name, classes, options


def _test_factor(model: nn.Module, value: Tensor) -> Tensor:
    """What the weight or bias of the regression layer of ``model`` is multiplied by for its ``_test`` copy.

    One number per output: the four of each box in turn; in R-FCN each of them for all bins, which follow one another.
    """
    head = model.get_submodule("roi_head")
    bins = head.reg.bins**2 if isinstance(head, RFCNHead) else 1
    stds = torch.tensor(STDS).repeat_interleave(bins)
    return stds.repeat(len(value) // len(stds)).view(-1, *[1] * (value.ndim - 1))


def _without_test_copies(model: nn.Module, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arrays as training has them: copies are dropped, or turned back where they stand alone."""
    result = {name: value for name, value in arrays.items() if name not in _TEST_COPIES}
    for copy, name in _TEST_COPIES.items():
        if copy in arrays and name not in arrays:
            result[name] = arrays[copy].float() / _test_factor(model, arrays[copy])
    return result
