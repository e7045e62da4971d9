"""Record torchvision's signatures and results: ``python tests/compat/record_torchvision.py``, where it is installed.

The tests compare with the two files it writes, so that they need no torchvision.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parents[1] / "golden" / "foreign"
FUNCTIONS = ("deform_conv2d", "nms", "batched_nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
BOXES = ("box_area", "box_convert", "box_iou", "clip_boxes_to_image", "remove_small_boxes")
MODULES = ("DeformConv2d", "MultiScaleRoIAlign", "RoIAlign", "RoIPool", "PSRoIAlign", "PSRoIPool")


def _boxes(generator: torch.Generator, count: int, extent: float) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=generator) * extent
    return torch.cat((corners.amin(1), corners.amax(1)), 1)


def inputs() -> dict[str, torch.Tensor]:
    """The tensors of all calls, from a fixed seed."""
    generator = torch.Generator().manual_seed(7)
    draw: dict[str, torch.Tensor] = {
        "x": torch.randn(3, 6, 5, 4, generator=generator),
        "offset": torch.randn(3, 36, 3, 2, generator=generator) * 2,
        "mask": torch.rand(3, 18, 3, 2, generator=generator),
        "weight": torch.randn(2, 3, 3, 2, generator=generator),
        "bias": torch.randn(2, generator=generator),
        "map": torch.randn(2, 18, 11, 13, generator=generator),
        "scores": torch.rand(30, generator=generator),
        "nms_boxes": _boxes(generator, 30, 40.0),
        "labels": torch.randint(0, 3, (30,), generator=generator),
    }
    rois = _boxes(generator, 7, 30.0)
    draw["rois"] = torch.cat((torch.tensor([[0.0], [1], [1], [0], [0], [1], [0]]), rois), 1)
    draw |= {f"level{i}": torch.randint(-4, 5, (2, 2, 64 >> i, 80 >> i), generator=generator).float() for i in range(4)}
    # Boxes of every size of a pyramid of strides 4 to 32 in images of 256 x 320, two of them without area.
    sides = torch.tensor([0.0, 9, 30, 56, 60, 111, 113, 180, 250, 0])[:, None] * torch.rand(10, 2, generator=generator)
    corner = torch.rand(10, 2, generator=generator) * 70
    draw["pyramid_boxes"] = torch.cat((corner, corner + sides), 1)
    return draw


CALLS: dict[str, tuple[str, tuple[str, ...], tuple[Any, ...], dict[str, Any]]] = {
    "conv": (
        "deform_conv2d",
        ("x", "offset", "weight", "bias"),
        (),
        {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
    ),
    "conv_masked": (
        "deform_conv2d",
        ("x", "offset", "weight", "bias"),
        ((2, 1), (1, 0), (1, 2)),
        {"mask": "mask"},
    ),
    "nms": ("nms", ("nms_boxes", "scores"), (0.3,), {}),
    "batched_nms": ("batched_nms", ("nms_boxes", "scores", "labels"), (0.3,), {}),
    "roi_align": ("roi_align", ("map", "rois"), (3, 0.4), {}),
    "roi_align_aligned": ("roi_align", ("map", "rois"), ((3, 2), 0.4, 2), {"aligned": True}),
    "roi_pool": ("roi_pool", ("map", "rois"), ((3, 2), 0.4), {}),
    "ps_roi_align": ("ps_roi_align", ("map", "rois"), (3, 0.4, 2), {}),
    "ps_roi_pool": ("ps_roi_pool", ("map", "rois"), (3, 0.4), {}),
    "box_area": ("box_area", ("pyramid_boxes",), (), {}),
    "box_iou": ("box_iou", ("nms_boxes", "pyramid_boxes"), (), {}),
    "box_convert": ("box_convert", ("nms_boxes",), (), {"in_fmt": "xyxy", "out_fmt": "cxcywh"}),
    "box_convert_back": ("box_convert", ("nms_boxes",), (), {"in_fmt": "cxcywh", "out_fmt": "xywh"}),
    "clip_boxes_to_image": ("clip_boxes_to_image", ("pyramid_boxes",), ((100, 50),), {}),
    "remove_small_boxes": ("remove_small_boxes", ("pyramid_boxes",), (20.0,), {}),
}
"""Name of a call: function, names of the first tensors, other arguments; a string among them names a tensor."""


def run(library: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The result of every call by a library that has torchvision's functions."""
    results = {}
    for name, (function, first, rest, named) in CALLS.items():
        options = {key: tensors.get(value, value) if isinstance(value, str) else value for key, value in named.items()}
        results[name] = getattr(library, function)(*(tensors[key] for key in first), *rest, **options)
    return results | pyramid(library, tensors)


def pyramid(library: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What ``MultiScaleRoIAlign`` pools from all levels, from some, and from one."""
    maps = {str(i): tensors[f"level{i}"] for i in range(4)}
    boxes = list(tensors["pyramid_boxes"].split(6))
    results = {}
    for names, ratio, options in (
        ("0123", 2, {}),
        ("12", 0, {"canonical_scale": 112, "canonical_level": 3}),
        ("2", 1, {}),
    ):
        pool = library.MultiScaleRoIAlign(list(names), (3, 2), ratio, **options)
        results[f"pyramid_{names}"] = pool(maps, boxes, [(256, 320), (250, 300)])
    return results


def signature(function: Any) -> list[list[str]]:
    """Every parameter as ``[name, default]``."""
    return [
        [p.name, "" if p.default is p.empty else repr(p.default)]
        for p in inspect.signature(function).parameters.values()
    ]


def signatures(library: Any) -> dict[str, list[list[str]]]:
    """Of all functions, constructors and forward methods."""
    actual = {name: signature(getattr(library, name)) for name in (*FUNCTIONS, *BOXES, *MODULES)}
    return actual | {f"{name}.forward": signature(getattr(library, name).forward) for name in MODULES}


def main() -> None:
    """Write ``torchvision_signatures.json`` and ``torchvision_results.npz``."""
    import torchvision.ops

    recorded = {"version": torchvision.__version__, "signatures": signatures(torchvision.ops)}
    (FOLDER / "torchvision_signatures.json").write_text(json.dumps(recorded) + "\n")
    tensors = inputs()
    arrays: dict[str, Any] = {f"in_{name}": value.numpy() for name, value in tensors.items()}
    arrays |= {name: value.numpy() for name, value in run(torchvision.ops, tensors).items()}
    np.savez_compressed(FOLDER / "torchvision_results.npz", **arrays)


if __name__ == "__main__":
    main()
