"""Backbone weights from any file that holds some, with what the file implies about the model around them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dcn.models.backbones import LibraryBackbone, ResNet
from dcn.models.backbones.resnet import BLOCKS
from dcn.models.checkpoints import detectron2, mmdet, mxnet, torchvision
from dcn.models.checkpoints.facts import BackboneFacts
from dcn.models.checkpoints.loading import load_state
from dcn.models.checkpoints.reading import StateFile, read_state
from dcn.models.preprocess import Preprocess

LOGGER = logging.getLogger("dcn")


# Models with folded batch norm come from Caffe, whose ResNets have their strides in the first 1x1.
_CAFFE = BackboneFacts("bgr_caffe", "caffe", "ceil")
_MXNET = BackboneFacts("rgb_mean", "caffe", "ceil")


def backbone_size(state: Mapping[str, Tensor]) -> dict[str, float]:
    """The options ``depth``, ``width`` and ``stem_channels`` of a ResNet, from the names and shapes of its tensors.

    Args:
        state: under the names of :class:`ResNet`, from :func:`read_backbone`.
    """
    blocks = tuple(len({name.split(".")[1] for name in state if name.startswith(f"layer{i}.")}) for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in state
    depth = next((d for d, counts in BLOCKS.items() if counts == blocks and (d >= 50) == bottleneck), None)
    last, full = ("conv3", 256) if bottleneck else ("conv2", 64)
    width = state[f"layer1.0.{last}.weight"].shape[0] / full
    size: dict[str, float] = {} if depth is None else {"depth": depth}
    return size | {"width": width, "stem_channels": state["conv1.weight"].shape[0]}


def read_backbone(
    path: str | Path, preprocess: str | None = None, style: str | None = None
) -> tuple[dict[str, Tensor], BackboneFacts]:
    """Reads a ResNet: a torchvision file, one with folded batch norm, one of detectron2, a detector's file (ours,
    mmdetection's or detectron2's), or a ``.params`` file of the original MXNet code.

    A safetensors file may state the facts itself, in its metadata (``preprocess``, ``style``, ``pool``) or in the
    ``options`` that training writes there; otherwise they follow from the form of the names.

    Args:
        path: the file.
        preprocess: normalisation of the images, where the file was trained with another than its form says.
        style: where the strides sit, in the same way.

    Returns:
        Tensors under the names of :class:`ResNet`, and the facts.

    Raises:
        ValueError: for a file that cannot be read or holds no ResNet.
    """
    if Path(path).suffix == ".params":
        arrays = mxnet.read_params(path)
        if rest := mxnet.beside_backbone(arrays):
            # Such as the head of the original's deform_psroi_demo, which no model of the table has.
            LOGGER.info("%s: the backbone is read, left out: %s", path, ", ".join(rest))
        return mxnet.backbone_of(arrays), _changed(_MXNET, preprocess, style)
    file = read_state(path)
    if detectron2.is_detectron2(file.tensors):
        try:
            state, facts, rest = detectron2.backbone_of(file, preprocess, style)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if rest:
            LOGGER.info("%s: the backbone is read, left out: %s", path, shortened(rest))
        return state, facts
    plain = _changed(_stated(file, BackboneFacts()), preprocess, style)
    if mmdet.is_detector(file.tensors):
        return mmdet.backbone_of(file.tensors), plain
    if torchvision.is_torchvision(file.tensors):
        return torchvision.from_torchvision(mmdet.rename(file.tensors)), plain
    if torchvision.is_folded(file.tensors):
        return torchvision.from_folded(file.tensors), _changed(_stated(file, _CAFFE), preprocess, style)
    raise ValueError(
        f"{path}: expected a ResNet (names such as 'layer1.0.conv1.weight') or a detector ('backbone. ...'), "
        f"got names such as {', '.join(list(file.tensors)[:3])}"
    )


def _changed(facts: BackboneFacts, preprocess: str | None, style: str | None) -> BackboneFacts:
    given = {"preprocess": preprocess, "style": style}
    return replace(facts, **{name: value for name, value in given.items() if value is not None})


def shortened(names: Sequence[str]) -> str:
    """A list of names for a message."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _stated(file: StateFile, presumed: BackboneFacts) -> BackboneFacts:
    options = file.meta.get("options", {})
    stated = file.meta | (dict(options) if isinstance(options, Mapping) else {})
    names = ("preprocess", "style", "pool")
    return BackboneFacts(*(str(stated.get(name, getattr(presumed, name))) for name in names))


def load_backbone(model: nn.Module, path: str | Path) -> list[str]:
    """Loads a file into ``model.backbone``, after checking that the model is built for it.

    Args:
        model: a model with ``backbone`` and ``preprocess`` (:class:`Preprocess`).
        path: see :func:`read_backbone`; for a backbone of timm or transformers a file that the library publishes, and
            for one of your own its state dict.

    Returns:
        Names of the backbone's parameters that the file does not have: offset branches of deformable layers, which
        keep their zeros.

    Raises:
        ValueError: if the options of the model contradict the file, or names or shapes differ (all are listed).
    """
    backbone, preprocess = model.backbone, model.preprocess
    if not isinstance(backbone, nn.Module) or not isinstance(preprocess, Preprocess):
        raise ValueError(f"model: expected a model with a backbone and a Preprocess, got {type(model).__name__}")
    if not isinstance(backbone, ResNet):
        return _load_other(backbone, path)
    state, facts = read_backbone(path)
    built = BackboneFacts(preprocess.name, backbone.style if backbone.depth >= 50 else facts.style, backbone.pool)
    if built != facts:
        expected = ", ".join(f"{name}={value!r}" for name, value in vars(facts).items())
        got = ", ".join(f"{name}={value!r}" for name, value in vars(built).items())
        words = (f"model.options.{n}={v}" for n, v in vars(facts).items() if v != getattr(built, n))
        raise ValueError(
            f"{path}: expected a model built with {expected}, as its weights need it; got {got}; "
            f"write {' '.join(words)}"
        )
    return load_state(backbone, state, str(path), optional=lambda name: ".conv_offset." in name)


def _load_other(backbone: nn.Module, path: str | Path) -> list[str]:
    """Weights of a backbone that is no ResNet of this package, under its own names or those of its library."""
    file = read_state(path)
    tensors = file.tensors
    if mmdet.is_detector(tensors):
        own = mmdet.backbone_of(tensors)
        return load_state(backbone, own, str(path))
    try:
        state = (
            backbone.from_published(tensors) if isinstance(backbone, LibraryBackbone) else file.tensors_for(backbone)
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return load_state(backbone, state, str(path))


def export_backbone(
    source: str | Path, path: str | Path, *, half: bool = True, preprocess: str | None = None, style: str | None = None
) -> Path:
    """Writes the backbone of any file of :func:`read_backbone` alone, as a safetensors file.

    The file states its facts, so that :func:`load_backbone` checks them.

    Args:
        source: weights of a detector or of a ResNet.
        path: the file to write; its folder is made.
        half: store float16, which makes the file half as large; else float32.
        preprocess: as :func:`read_backbone`.
        style: as :func:`read_backbone`.

    Raises:
        ValueError: as :func:`read_backbone`, or a value is not a number or, with ``half``, above 65504.
    """
    from safetensors.torch import save

    state, facts = read_backbone(source, preprocess, style)
    dtype = torch.float16 if half else torch.float32
    kept = {name: value.to(dtype).contiguous() for name, value in state.items() if value.is_floating_point()}
    broken = [name for name, value in kept.items() if not bool(torch.isfinite(value).all())]
    if broken:
        short = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"{source}: expected numbers that fit into {short}, got others in {', '.join(broken)}; "
            "has the training diverged?"
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(save(kept, vars(facts)))
    return Path(path)
