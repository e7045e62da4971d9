"""Compares a network of the original MXNet code with recorded arrays: ``check_network.py FILE.npz``.

The file is ``net_<network>_test.npz`` or ``net_<network>_train.npz``. The network is built, its parameters are made
from their names alone, written as a ``.params`` file and loaded from it; it then runs on the stored inputs and every
stored intermediate, output and gradient is compared. Regions, labels and targets are taken from the file, because the
original draws some of them at random.

Errors are the largest difference of an array divided by its largest value; 1e-3 is allowed, 1e-2 for gradients. The
exit status is 0 if every array agrees.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import zlib
from ast import literal_eval
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dcn import boxes
from dcn.models import MODELS
from dcn.models.backbones import ResNet
from dcn.models.checkpoints.mxnet import load_mxnet, mxnet_names, write_params
from dcn.models.detection.original.detector import OriginalDetector
from dcn.models.detection.original.region_classifier import deform_psroi_demo
from dcn.models.detection.original.rfcn import RFCNHead, rfcn
from dcn.models.detection.original.rpn import OriginalRPNOutput
from dcn.models.detection.original.targets import STDS, AnchorTargets
from dcn.models.options import make_model
from dcn.models.segmentation import DeepLab
from dcn.models.segmentation.model import segmentation_loss

TOLERANCE = 1e-3
GRADIENT_TOLERANCE = 1e-2

Array = NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]

_CLASSES = {"coco": 80, "voc": 20, "cityscapes": 19}
_FACTORS = (
    ("cls_score", 0.04),
    ("score", 0.04),
    ("conv1_weight", 1 / 40),
    ("rpn_bbox", 0.02),
    ("rpn_cls", 0.1),
    ("rfcn_bbox", 0.05),
    ("bbox_pred", 0.05),
    ("rfcn_cls", 0.2),
)
_SCALES = {"coco": (4, 8, 16, 32), "voc": (8, 16, 32)}


def build_network(name: str) -> nn.Module:
    """The network that the original calls ``name``, for example ``rfcn_dcn_coco``."""
    if name == "deform_psroi_demo":
        return deform_psroi_demo()
    if name == "deform_conv_demo":
        return make_model(
            rfcn, 20, deform_layers=3, offset_groups=1, dilated_offsets=False, anchor_scales=_SCALES["voc"]
        )
    result = re.fullmatch(r"(rfcn|rcnn|fpn|deeplab)(_dcn)?_(coco|voc|cityscapes)", name)
    if result is None:
        raise ValueError(f"network: expected a name such as 'rfcn_dcn_coco' or 'deform_conv_demo', got {name!r}")
    family, dcn, data = result[1], result[2] or "", result[3]
    model = MODELS[f"{family}_r101{dcn}"]
    if family == "deeplab":
        return model(21 if data == "voc" else _CLASSES[data])
    if family == "fpn":
        return model(_CLASSES[data])
    return make_model(model, _CLASSES[data], anchor_scales=_SCALES[data])


def read_shapes(path: Path) -> Shapes:
    """Shapes by name, from lines such as ``arg:conv1_weight (64, 3, 7, 7)``."""
    lines = [line.split(" ", 1) for line in path.read_text().splitlines() if line.startswith(("arg:", "aux:"))]
    return {name: literal_eval(shape) for name, shape in lines}


def make_parameter(name: str, shape: tuple[int, ...]) -> Array:
    """The value that a parameter of this name and shape has in the recorded networks."""
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    if name == "upsampling_weight":
        line = 1 - np.abs(np.arange(32) / 16 - 31 / 32)
        return np.broadcast_to(np.outer(line, line), shape).astype(np.float32)
    ranges = {"_gamma": (0.5, 1.5), "_moving_var": (0.5, 1.5), "_beta": (-0.2, 0.2), "_moving_mean": (-0.2, 0.2)}
    reach = 0.5 if "offset" in name else 0.05
    ranges["_bias"] = (-reach, reach)
    for ending, (low, high) in ranges.items():
        if name.endswith(ending):
            factor = 0.25 if ending == "_gamma" and "branch2c" in name else 1.0
            return (random.uniform(low, high, shape) * factor).astype(np.float32)
    value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return (value * _weight_factor(name)).astype(np.float32)


def _weight_factor(name: str) -> float:
    if "branch2b_offset" in name or name.startswith("offset") or "offset_t" in name:
        return 0.05
    return next((factor for start, factor in _FACTORS if name.startswith(start)), 1.0)


def own_shapes(model: nn.Module) -> Shapes:
    state = model.state_dict()
    return {name: tuple(state[key].shape) for key, name in mxnet_names(model).items()}


def load_made_parameters(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Makes the parameters, writes them as a file of the original's format, and loads that file."""
    arrays = {name: torch.from_numpy(make_parameter(name[4:], shape)) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.params"
        write_params(path, arrays)
        load_mxnet(model, path)


class Recorder:
    """The outputs of the modules that have parameters, by the original's name of their layer."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: dict[str, list[Tensor]] = {}
        for key, name in mxnet_names(model).items():
            if key.endswith(".weight"):
                layer = name[4:].removesuffix("_weight").removesuffix("_gamma")
                self._record(model.get_submodule(key.removesuffix(".weight")), layer)
        backbone = model.get_submodule("backbone")
        assert isinstance(backbone, ResNet)
        for key, block in backbone.named_modules():
            if re.fullmatch(r"layer\d\.\d+", key):
                first = mxnet_names(model)[f"backbone.{key}.conv1.weight"]
                self._record(block, first[4:].split("_")[0] + "_relu")

        pool = getattr(model.get_submodule("roi_head"), "pool", None) if hasattr(model, "roi_head") else None
        if pool is not None:
            self._record(pool, "roi_pool")

    def _record(self, module: nn.Module, name: str) -> None:
        outputs = self.outputs.setdefault(name, [])

        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs.append(output.detach().clone())  # later layers work in place

        module.register_forward_hook(keep)

    def __getitem__(self, name: str) -> Tensor:
        """One output, or those of all levels, ``[N, C, H * W]`` each, in a row."""
        outputs = self.outputs[name]
        return outputs[0] if len(outputs) == 1 else torch.cat([output.flatten(2) for output in outputs], 2)


def stored_regions(file: Mapping[str, Array]) -> Tensor:
    """The regions ``[R, 5]`` that the second stage read."""
    for name in ("custom0_rois_output", "custom0_rois", "in_rois", "rois_output", "in_rois_output"):
        if name in file:
            return torch.from_numpy(file[name]).reshape(-1, 5)
    raise ValueError(f"file: expected an array with regions (rois_output, ...), got {', '.join(file)}")


def head_values(head: nn.Module, record: Recorder, maps: list[Tensor], rois: Tensor) -> dict[str, Tensor]:
    """Intermediates of a second stage that no module of ours gives as its output."""
    if isinstance(head, RFCNHead):
        reduced = head.reduced(maps)
        values = {"relu1": reduced}
        for branch, short, long in ((head.cls, "cls", "cls"), (head.reg, "bbox", "loc")):
            offsets = branch.offsets(reduced, rois)
            values[f"psroipooled_{long}_rois"] = branch(reduced, rois)
            values |= {} if offsets is None else {f"rfcn_{short}_offset": offsets}
        return values
    pooled = record["roi_pool"]
    names = ("deformable_roi_pool", "roi_pool", "roi_pool5", "roi_pooling", "fpn_roi_pooling")
    fully = {f"fc_new_{i}_relu": F.relu(record[f"fc_new_{i}"]) for i in (1, 2)}
    values = dict.fromkeys(names, pooled) | fully
    if "conv_new_1" in record.outputs:
        values["relu1"] = values["conv_new_1_relu"] = F.relu(record["conv_new_1"])
    return values


def outputs(logits: Tensor, deltas: Tensor) -> dict[str, Tensor]:
    """What a second stage says, under every name that the original has for it."""
    moves, probabilities = deltas.flatten(1), logits.softmax(1)
    return {
        "cls_score": logits,
        "cls_prob": probabilities,
        "cls_prob_reshape": probabilities[None],
        "bbox_pred": moves,
        "bbox_pred_reshape": moves[None],
        "ave_cls_scors_rois": logits[:, :, None, None],
        "ave_bbox_pred_rois": moves[:, :, None, None],
    }


def rpn_values(record: Recorder) -> dict[str, Tensor]:
    scores = record.outputs["rpn_cls_score"]
    if len(scores) == 1:
        joined = scores[0].reshape(1, 2, -1, scores[0].shape[3])
    else:
        joined = torch.cat([level.reshape(1, 2, -1) for level in scores], 2)
    return {"rpn_cls_prob": joined.softmax(1), "rpn_cls_act": joined.softmax(1)}


def proposal_error(model: OriginalDetector, output: OriginalRPNOutput, file: Mapping[str, Array]) -> float:
    """Largest distance of one of our proposals from the nearest stored one, or the reverse, over the largest corner.

    Their order is not compared: where scores are nearly 1 it hangs on the last bit of the exponential function, and the
    stored ones end with random repeats.
    """
    height, width = (int(value) for value in file["in_im_info"][0, :2])
    model.rpn_head.after_nms = len(file["rois_output"])
    model.rpn_head.eval()
    ours = model.rpn_head.proposals(output, torch.tensor([[height, width]])).per_image()[0]
    stored = torch.from_numpy(file["rois_output"])[:, 1:]
    distance = (stored[:, None] - ours).abs().amax(2)
    return float(torch.cat((distance.amin(0), distance.amin(1))).max() / stored.abs().max())


def anchor_targets(file: Mapping[str, Array], output: OriginalRPNOutput, shapes_per_cell: int) -> AnchorTargets:
    """The stored targets of the proposal network (level, anchor shape, row, column) in the order of our anchors."""
    label = torch.from_numpy(file["in_label"]).flatten()
    target = torch.from_numpy(file["in_bbox_target"]).reshape(shapes_per_cell, 4, -1)
    weight = torch.from_numpy(file["in_bbox_weight"]).reshape(shapes_per_cell, 4, -1)
    labels, deltas, start = [], [], 0
    for rows, columns in output.shapes:
        cells = slice(start, start + rows * columns)
        anchors = slice(start * shapes_per_cell, cells.stop * shapes_per_cell)
        labels.append(label[anchors].view(shapes_per_cell, -1).T.flatten())
        deltas.append(target[:, :, cells].permute(2, 0, 1).reshape(-1, 4))
        if not torch.equal(weight[:, 0, cells].T.flatten() > 0, labels[-1] > 0):
            raise ValueError("file: in_bbox_weight does not belong to in_label")
        start = cells.stop
    return AnchorTargets(torch.cat(labels).long(), torch.cat(deltas))


def region_targets(model: OriginalDetector, file: Mapping[str, Array]) -> tuple[Tensor, Tensor]:
    """The stored labels ``[R]`` of the regions, and their deltas ``[R, 4]``, stored or made from the stored objects.

    Recordings hold only some rows of large arrays, and those of the targets would be needed whole.
    """
    labels = torch.from_numpy(file["custom0_label"]).flatten().long()
    if "custom0_bbox_target" in file:
        spread = torch.from_numpy(file["custom0_bbox_target"]).reshape(len(labels), -1, 4)
        return labels, spread[torch.arange(len(labels)), _slots(model, labels)]
    regions, objects = stored_regions(file)[:, 1:], torch.from_numpy(file["in_gt_boxes"]).reshape(-1, 5)[:, :4]
    owner = boxes.iou(regions, objects, pixel_offset=1).argmax(1)
    return labels, boxes.encode(regions, objects[owner], stds=STDS, pixel_offset=1)


def _slots(model: OriginalDetector, labels: Tensor) -> Tensor:
    """Which of the boxes of a region belongs to its label."""
    return labels.clamp(max=1) if model.roi_head.class_agnostic else labels


def spread_out(model: OriginalDetector, labels: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """The ``values`` of each object in the slot of its label, 0 elsewhere, as ``like`` ``[R, K, 4]`` but flat."""
    spread = torch.zeros_like(like)
    positive = (labels > 0).nonzero()[:, 0]
    spread[positive, _slots(model, labels)[positive]] = values[positive]
    return spread.flatten(1)


def smooth_l1(difference: Tensor, sigma: float) -> Tensor:
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=1 / sigma**2)


def detector_values(model: OriginalDetector, file: Mapping[str, Array], record: Recorder) -> dict[str, Tensor]:
    """Runs a detector; in training also backwards."""
    rpn_maps, roi_maps = model.features(torch.from_numpy(file["in_data"]))
    output = model.rpn_head(rpn_maps)
    rois = stored_regions(file)
    logits, deltas = model.roi_head(roi_maps, rois)
    values = rpn_values(record) | head_values(model.roi_head, record, roi_maps, rois) | outputs(logits, deltas)
    if "rois_output" in file:
        values["rois"] = torch.tensor(proposal_error(model, output, file))
    if "in_label" not in file:
        return values
    anchors = anchor_targets(file, output, model.rpn_head.shapes_per_cell)
    labels, reference = region_targets(model, file)
    second, kept = model.region_losses(logits, deltas, labels, reference)
    losses = model.rpn_head.losses(output, [anchors]) | second
    torch.stack(list(losses.values())).sum().backward()
    spread = spread_out(model, labels, reference, deltas)
    weights = spread_out(model, kept, torch.ones_like(reference), deltas)
    stored = {name: torch.from_numpy(file[name]) for name in ("in_bbox_target", "in_bbox_weight")}
    rpn_loss = stored["in_bbox_weight"] * smooth_l1(record["rpn_bbox_pred"] - stored["in_bbox_target"], 3)
    return values | {
        "rpn_bbox_loss": rpn_loss,
        "bbox_loss_reshape": (weights * smooth_l1(deltas.flatten(1) - spread, 1))[None],
        "custom0_bbox_target": spread,
        "custom0_bbox_weight": spread_out(model, labels, torch.ones_like(reference), deltas),
        "blockgrad0": kept[None].float(),
        "custom1_labels_ohem": kept.float(),
        "custom1_bbox_weights_ohem": weights,
    }


def deeplab_values(model: DeepLab, file: Mapping[str, Array], record: Recorder) -> dict[str, Tensor]:
    """Runs a segmentation network; in training also backwards."""
    scores = model.scores(torch.from_numpy(file["in_data"]))
    if "grad_names" in file:
        labels = torch.from_numpy(next(file[name] for name in file if name.startswith("in_") and "label" in name))
        segmentation_loss(scores, [labels.reshape(scores.shape[2:]).long()]).backward()
    return {"softmax": scores.softmax(1), "croped_score": scores, "relu_fc6": F.relu(record["fc6"])}


def region_values(model: nn.Module, file: Mapping[str, Array], record: Recorder) -> dict[str, Tensor]:
    """Runs the network that is given its regions."""
    head = model.get_submodule("roi_head")
    maps = [model.get_submodule("backbone")(torch.from_numpy(file["in_data"]))[-1]]
    rois = stored_regions(file)
    logits, deltas = head(maps, rois)
    values = outputs(logits, deltas) | head_values(head, record, maps, rois)
    if "grad_names" not in file:
        return values
    labels, kept = (region_labels(file, name) for name in ("in_label", "custom0_labels_ohem"))
    target, weight = (
        torch.from_numpy(file[name]).reshape(len(labels), -1) for name in ("in_bbox_target", "in_bbox_weight")
    )
    weight = weight * (kept >= 0)[:, None]
    box_loss = weight * smooth_l1(deltas.flatten(1) - target, 1)
    (F.cross_entropy(logits, kept, ignore_index=-1) + box_loss.sum() / 128).backward()
    return values | {
        "bbox_loss_reshape": box_loss[None],
        "blockgrad0": kept[None].float(),
        "custom0_labels_ohem": kept.float(),
        "custom0_bbox_weights_ohem": weight,
    }


def region_labels(file: Mapping[str, Array], name: str) -> Tensor:
    """Labels ``[R]`` of the regions; those that mining kept are all where it is not recorded."""
    return torch.from_numpy(file[name if name in file else "in_label"]).flatten().long()


def run_network(model: nn.Module, file: Mapping[str, Array], record: Recorder) -> dict[str, Tensor]:
    model.requires_grad_(True)  # the recorded gradients include the frozen parameters
    model.train("grad_names" in file)
    with torch.set_grad_enabled("grad_names" in file):
        if isinstance(model, OriginalDetector):
            return detector_values(model, file, record)
        if isinstance(model, DeepLab):
            return deeplab_values(model, file, record)
        return region_values(model, file, record)


def relative_error(ours: Array, stored: Array, floor: float = 0.0) -> float:
    """Largest difference over the largest stored value, or over ``floor`` where that is larger."""
    if ours.shape != stored.shape:
        raise ValueError(f"expected shape {stored.shape}, got {ours.shape}")
    scale = max(float(np.abs(stored).max(initial=0)), floor)
    return float(np.abs(ours.astype(np.float64) - stored).max(initial=0)) / (scale or 1.0)


def value_error(name: str, stored: Array, values: Mapping[str, Tensor], record: Recorder) -> float:
    """The error of one stored array; its name may begin with ``every<n>_`` and end with ``_output``."""
    result = re.fullmatch(r"(?:every(\d+)_)?(.*?)(?:_output)?", name)
    assert result is not None
    step, base = int(result[1] or 1), result[2]
    if base == "rois":
        return float(values["rois"])
    if base not in values and base not in record.outputs:
        raise ValueError("nothing of this name is known here")
    ours = (values[base] if base in values else record[base]).detach()
    ours = ours[:, ::step] if ours.ndim == 4 else ours[::step]
    return relative_error(ours.numpy(), stored)


def gradient_errors(model: nn.Module, file: Mapping[str, Array]) -> dict[str, tuple[float, str]]:
    """Per kind of recorded number the largest error over all parameters, and the parameter that has it."""
    parameters = dict(model.named_parameters())
    names = {name[4:]: parameters[key].grad for key, name in mxnet_names(model).items() if key in parameters}
    missing = set(map(str, file["grad_names"])) - set(names)
    if missing:
        raise ValueError(f"gradients of parameters that the network does not have: {', '.join(sorted(missing))}")
    rows = zip(file["grad_names"], file["grad_l2"], file["grad_sum"], file["grad_first8"], strict=True)
    worst = dict.fromkeys(("grad_l2", "grad_sum", "grad_first8"), (0.0, "-"))
    for name, length, total, first in rows:
        gradient_of = names[str(name)]
        if gradient_of is None:
            raise ValueError(f"{name}: the backward pass does not reach it")
        gradient = gradient_of.double().flatten().numpy()
        ours = {"grad_l2": np.linalg.norm(gradient), "grad_sum": gradient.sum(), "grad_first8": gradient[:8]}
        stored = {"grad_l2": length, "grad_sum": total, "grad_first8": first[: gradient.size]}
        # Sums and single numbers may cancel; they cannot be more exact than the gradient they are part of.
        floors = {"grad_l2": 0.0, "grad_sum": length, "grad_first8": length / np.sqrt(gradient.size)}
        for kind, value in ours.items():
            error = relative_error(np.atleast_1d(value), np.atleast_1d(stored[kind]), floors[kind])
            worst[kind] = max(worst[kind], (error, str(name)))
    return worst


def compare(model: nn.Module, file: Mapping[str, Array], report: Callable[[str], object]) -> bool:
    """Whether ``model``, with its parameters, agrees with all recorded arrays; ``report`` gets one line per array."""
    record = Recorder(model)
    values = run_network(model, file, record)
    good = True

    def verdict(name: str, error: float, tolerance: float, remark: str = "") -> None:
        nonlocal good
        good &= error <= tolerance
        report(f"{name:44} {error:9.2e} {'' if error <= tolerance else 'FAILED '}{remark}".rstrip())

    for name, stored in file.items():
        if name.startswith(("in_", "grad_", "custom0_rois", "custom0_label")):
            continue  # what the network was fed
        try:
            verdict(name, value_error(name, stored, values, record), TOLERANCE)
        except ValueError as problem:
            verdict(name, float("inf"), TOLERANCE, f"({problem})")
    if "grad_names" in file:
        try:
            for kind, (error, parameter) in gradient_errors(model, file).items():
                verdict(kind, error, GRADIENT_TOLERANCE, f"(worst: {parameter})")
        except ValueError as problem:
            verdict("gradients", float("inf"), GRADIENT_TOLERANCE, f"({problem})")
    return good


def check(path: Path, shapes: Shapes | None = None, report: Callable[[str], object] = print) -> bool:
    """Builds the network that the file is named after, with made parameters, and compares it with the file."""
    name = path.stem.removeprefix("net_").removesuffix("_test").removesuffix("_train")
    with np.load(path) as arrays:
        file = {key: arrays[key] for key in arrays.files}
    model = build_network(name)
    reference = own_shapes(model)
    unknown = sorted(set(shapes or {}) - set(reference))
    if unknown:
        report(f"note: {len(unknown)} parameters of the list are not in {name}, for example {unknown[0]}")
    load_made_parameters(model, {key: (shapes or reference).get(key, shape) for key, shape in reference.items()})
    return compare(model, file, report)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare a network of the original MXNet code with recorded arrays.")
    parser.add_argument("file", type=Path, help="net_<network>_test.npz or net_<network>_train.npz")
    parser.add_argument("--shapes", type=Path, help="names and shapes of the network's parameters; default: our own")
    arguments = parser.parse_args()
    good = check(arguments.file, read_shapes(arguments.shapes) if arguments.shapes else None)
    print("all arrays agree" if good else "NOT all arrays agree")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
