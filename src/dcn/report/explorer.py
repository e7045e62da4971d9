"""The explorer: an interactive page of what each unit of a deformable network reads in an image.

It shows figures 6 and 7 of "Deformable Convolutional Networks" (Dai et al., ICCV 2017) for any unit and any detection:
the sampling points of up to three stacked deformable layers beside the fixed grid of plain convolutions, the effective
dilation (section 3 of the paper), and the parts of deformable RoI pooling.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dcn
from dcn import boxes
from dcn.nn import DeformConv2d
from dcn.nn.roi_offset_health import RoIPoolingCalls
from dcn.structures import Detections
from dcn.vis import LayerOffsets, record_offsets, roi_parts
from dcn.vis.canvas import to_picture

ASSETS = Path(__file__).parent / "assets"
MIN_SCORE = 0.3
"""Detections below this score are not shown."""

MOST_DETECTIONS = 50


@dataclass(frozen=True)
class RoIOffsets:
    """One call of a deformable RoI pooling.

    Attributes:
        regions: ``[R, 4]`` xyxy in continuous pixels of the image.
        offset: ``[R, 2 * classes, parts, parts]``: x and y per class, as shares of the region's size before ``gamma``.
        mask: ``[R, 1, rows, columns]``, the modulation of each bin, or ``None``.
        bins: rows and columns of the output.
        gamma: the factor of the offsets.
    """

    regions: Tensor
    offset: Tensor
    mask: Tensor | None
    bins: tuple[int, int]
    gamma: float


@dataclass(frozen=True)
class Observation:
    """What a network did with one image.

    Attributes:
        name: of the image.
        picture: ``[3, H, W]`` uint8, the image as the network saw it; all coordinates are in its pixels.
        layers: the deformable convolutions, in the order in which they ran.
        detections: the detections of a detector, best first; ``None`` for another network.
        classes: names of the labels.
        rois: the calls of deformable RoI pooling.
    """

    name: str
    picture: Tensor
    layers: list[LayerOffsets]
    detections: Detections | None = None
    classes: tuple[str, ...] = ()
    rois: list[RoIOffsets] = field(default_factory=list)


def observe(
    model: Any,
    image: Tensor,
    *,
    name: str = "image",
    picture: Tensor | None = None,
    min_score: float = MIN_SCORE,
    needs_layers: bool = True,
) -> Observation:
    """Run a network on one image and keep what the explorer shows.

    Args:
        model: a detector or segmentation model of this package, a predictor of one, or any ``nn.Module`` with
            :class:`dcn.nn.DeformConv2d` in it, such as one made by :func:`dcn.nn.convert.deformify`.
        image: ``[3, H, W]`` uint8, called as ``model([image])``; or ``[1, C, H, W]`` floating point, called as
            ``model(image)``.
        name: of the image, for the page.
        picture: ``[3, H, W]`` uint8 of the same height and width, shown for a floating-point image; by default the
            first channels of the image, scaled to their range.
        min_score: detections below this score are left out.
        needs_layers: refuse a network without a deformable convolution, of which the page would show nothing.

    Raises:
        ValueError: another kind of image, or a network without a deformable convolution.
    """
    network: nn.Module = model if isinstance(model, nn.Module) else model.model
    device = next(network.parameters(), torch.empty(0)).device
    results: list[Any] = []
    rois: list[RoIOffsets] = []
    handle = network.register_forward_hook(lambda _module, _inputs, output: results.append(output))
    try:
        with RoIPoolingCalls(lambda call: rois.append(_roi_offsets(call))):
            layers = _layers(network, image.to(device), needs_layers)
    finally:
        handle.remove()
    shown = _picture_of(image) if picture is None else picture
    if shown.shape[1:] != image.shape[-2:]:
        raise ValueError(f"picture: expected the image's size {list(image.shape[-2:])}, got {list(shown.shape[1:])}")
    detections = _detections(results[-1] if results else None, min_score)
    classes = tuple(str(label) for label in getattr(network, "classes", ()))
    return Observation(name, shown.cpu(), layers, detections, classes, rois)


def explorer_page(observations: Sequence[Observation], *, title: str = "Deformable network") -> str:
    """The page as HTML text.

    Args:
        observations: one for each image, from :func:`observe`.
        title: heading of the page.

    Raises:
        ValueError: no observation.
    """
    if not observations:
        raise ValueError("observations: expected one or more, got none")
    content = {"images": [_image(observation) for observation in observations]}
    # "<" is written as an escape: no text in the data can end the script element.
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(title),
        "style": (ASSETS / "explorer.css").read_text(encoding="utf-8"),
        "script": (ASSETS / "explorer.js").read_text(encoding="utf-8"),
        "footer": f"Made by deformable-convnets {dcn.__version__}.",
        "data": data,
    }
    before, *rest = (ASSETS / "explorer.html").read_text(encoding="utf-8").split("{{")
    return before + "".join(parts[name] + text for name, _, text in (piece.partition("}}") for piece in rest))


def write_explorer(path: str | Path, observations: Sequence[Observation], *, title: str = "Deformable network") -> Path:
    """Write the page of :func:`explorer_page` as a file; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(explorer_page(observations, title=title), encoding="utf-8")
    return path


def _layers(network: nn.Module, image: Tensor, needed: bool) -> list[LayerOffsets]:
    if needed or any(isinstance(module, DeformConv2d) for module in network.modules()):
        return record_offsets(network, image)
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network([image] if image.dtype == torch.uint8 else image)
    finally:
        network.train(was_training)
    return []


def _roi_offsets(call: Mapping[str, Any]) -> RoIOffsets:
    regions = call["boxes"][:, 1:].detach().float().cpu()
    if call["form"] == "parts":  # the original's rule: rounded inclusive corners
        regions = boxes.from_inclusive(regions.round())
    mask = None if call["mask"] is None else call["mask"].detach().float().cpu()
    rows, columns = call["output_size"]
    return RoIOffsets(regions, call["offset"].detach().float().cpu(), mask, (int(rows), int(columns)), call["gamma"])


def _picture_of(image: Tensor) -> Tensor:
    """Something to look at for an image of any kind."""
    if image.dtype == torch.uint8:
        return image
    channels = image[0, :3].detach().float().cpu()
    if len(channels) < 3:
        channels = channels[:1].expand(3, -1, -1)
    low, high = channels.min(), channels.max()
    return ((channels - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)


def _detections(output: Any, min_score: float) -> Detections | None:
    first = output[0] if isinstance(output, (list, tuple)) and output else None
    if not isinstance(first, Detections):
        return None
    detections = first.to("cpu")
    kept = detections.scores >= min_score
    return detections.select(kept.nonzero()[:MOST_DETECTIONS, 0])


def _image(observation: Observation) -> dict[str, Any]:
    picture = to_picture(observation.picture)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return {
        "name": observation.name,
        "src": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "width": picture.width,
        "height": picture.height,
        "layers": [_layer(layer) for layer in observation.layers],
        "detections": _detection_rows(observation),
    }


def _layer(layer: LayerOffsets) -> dict[str, Any]:
    """One layer; its offsets as little-endian float32 ``[G, K, 2, H, W]`` in base64."""
    plain = bool((layer.mask == 1).all())
    return {
        "name": layer.name,
        "kernel": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.offset.shape[0],
        "boundary": layer.boundary,
        "input": vars(layer.input_grid),
        "output": vars(layer.output_grid),
        "offset": _encoded(layer.offset),
        "mask": None if plain else _encoded(layer.mask),
    }


def _encoded(values: Tensor) -> str:
    finite = torch.nan_to_num(values.float(), nan=0.0, posinf=0.0, neginf=0.0)
    return base64.b64encode(finite.contiguous().numpy().astype("<f4").tobytes()).decode()


def _detection_rows(observation: Observation) -> list[dict[str, Any]] | None:
    detections = observation.detections
    if detections is None:
        return None
    rows = []
    for box, score, label in zip(detections.boxes, detections.scores.tolist(), detections.labels.tolist(), strict=True):
        name = observation.classes[label] if label < len(observation.classes) else str(label)
        parts = _parts(observation, box, label)
        rows.append({"box": box.tolist(), "label": name, "score": score, "parts": parts})
    return rows


def _parts(observation: Observation, box: Tensor, label: int) -> dict[str, Any] | None:
    """The parts of a detection as JSON."""
    parts = chosen_parts(observation, box, label)
    if parts is None:
        return None
    region, _, moved, weights = parts
    shares = None if weights is None else weights.flatten().tolist()
    return {"region": region.tolist(), "boxes": moved.tolist(), "weights": shares}


def chosen_parts(
    observation: Observation, box: Tensor, label: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None] | None:
    """The region proposal that overlaps a detection most, and its parts; ``None`` without deformable RoI pooling.

    Of several poolings of a proposal the one with offsets per class is taken, else the last (of a cascade).

    Args:
        observation: of the image.
        box: ``[4]`` of the detection.
        label: of the detection.

    Returns:
        The region ``[4]``, its parts ``[parts, 4]`` before and after their offsets, and their modulation or ``None``.
    """
    best: tuple[float, int, RoIOffsets, int] | None = None
    for call in observation.rois:
        overlap = boxes.iou(box[None], call.regions)[0]
        index = int(overlap.argmax())
        rank = (float(overlap[index]), call.offset.shape[1])
        if best is None or rank >= (best[0], best[1]):
            best = (*rank, call, index)
    if best is None or best[0] == 0:
        return None
    _, channels, call, index = best
    # A class of its own for background comes first.
    slot = label + channels // 2 - len(observation.classes) if channels > 2 else 0
    offset = call.offset[index, 2 * slot : 2 * slot + 2]
    before, moved = roi_parts(call.regions[index], offset, bins=call.bins, gamma=call.gamma)
    return call.regions[index], before, moved, None if call.mask is None else call.mask[index, 0]
