"""Whole networks: the published ones with deformable layers beside the plain ones, inference and training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.gpu import Row, Settings
from benchmarks.gpu.measure import machine, relative_error, surviving
from benchmarks.gpu.timing import waits
from dcn.bench.measure import Measurement, measure
from dcn.bench.workload import Workload, make_model, plain_name, random_images
from dcn.models.detection.shared.frames import make_frames
from dcn.models.inference import prepare
from dcn.models.inference.prepare import Precision

# (name, size); plain networks come in by their pairs.
NETWORKS = (
    ("faster_rcnn_r50_fpn_dconv_c3-c5", (800, 1333)),
    ("faster_rcnn_r101_fpn_dconv_c3-c5", (800, 1333)),
    ("faster_rcnn_x101_32x4d_fpn_dconv_c3-c5", (800, 1333)),
    ("mask_rcnn_r50_fpn_dconv_c3-c5", (800, 1333)),
    ("mask_rcnn_r101_fpn_dconv_c3-c5", (800, 1333)),
    ("cascade_rcnn_r50_fpn_dconv_c3-c5", (800, 1333)),
    ("cascade_rcnn_r101_fpn_dconv_c3-c5", (800, 1333)),
    ("cascade_mask_rcnn_x101_32x4d_fpn_dconv_c3-c5", (800, 1333)),
    ("rfcn_r101_dcn", (600, 1000)),
    ("rcnn_r101_dcn", (600, 1000)),
    ("deeplab_r101_dcn", (1024, 2048)),
)
QUICK = ("faster_rcnn_r50_fpn_dconv_c3-c5", "rfcn_r101_dcn", "deeplab_r101_dcn")
TINY = (("faster_rcnn_r18_fpn_dconv_c3-c5", (32, 64)), ("deeplab_r18_dcn", (32, 48)))
# Forward time with deformable layers over that without, as the papers report it (Table 5 of the first one).
PAPER = {"rfcn_r101_dcn": 1.18, "rcnn_r101_dcn": 1.31, "deeplab_r101_dcn": 1.08}
GOAL_RATIO = 1.10
WANTED_SPEED = ("faster_rcnn_r50_fpn_dconv_c3-c5", 8, 150.0)


@dataclass(frozen=True)
class Way:
    """How a network is run: direction, precision, images of a call, recorded as a CUDA graph or not."""

    train: bool
    precision: Precision
    batch: int
    graph: bool = False

    @property
    def label(self) -> str:
        """For the table."""
        return "train" if self.train else "graph" if self.graph else "eager"


WAYS = (
    Way(False, "bfloat16", 8, graph=True),
    Way(False, "bfloat16", 1, graph=True),
    Way(False, "bfloat16", 1),
    Way(False, "float32", 1),
    Way(True, "bfloat16", 2),
)


def cases(settings: Settings) -> list[tuple[str, tuple[int, int]]]:
    """Names and sizes of what is measured."""
    if settings.dry:
        return list(TINY)
    return [case for case in NETWORKS if not settings.quick or case[0] in QUICK]


def ways(settings: Settings) -> list[Way]:
    """How each is run."""
    if settings.dry:
        return [Way(False, "float32", 1), Way(True, "float32", 1)]
    return [way for way in WAYS if not settings.quick or way.batch != 1 or way.precision == "bfloat16"]


def rows(settings: Settings) -> Iterator[Row]:
    """A row for every network and way; what cannot run says why in ``note``."""
    for name, size in cases(settings):
        yield from surviving(name, _network_rows(name, size, settings))


def _network_rows(name: str, size: tuple[int, int], settings: Settings) -> Iterator[Row]:
    try:
        error, waits = _checked(name, size, settings)
    except RuntimeError as failure:  # such as too little memory for the reference: its times still count
        error, waits = "", f"not checked: {str(failure).splitlines()[0]}"
    for way in ways(settings):
        work = Workload(size, way.batch, way.precision, settings.device, way.train, cuda_graph=way.graph)
        yield from _rows(name, way, work, settings, {"error": error, "waits": waits})


def _rows(name: str, way: Way, work: Workload, settings: Settings, checks: Row) -> Iterator[Row]:
    plain = plain_name(name)
    names = [name] if plain is None else [name, plain]
    note = ""
    times: list[Measurement] = []
    try:
        if way.graph and checks["waits"] != "none":
            # A capture that fails spoils what comes after it in the process.
            raise RuntimeError(f"not recorded as a graph, it may wait: {checks['waits']}")
        times = measure(names, work, repetitions=min(settings.repetitions, 1 if settings.dry else 20))
    except RuntimeError as failure:
        note = str(failure).splitlines()[0]
    finally:
        if settings.device.type == "cuda":
            torch.cuda.empty_cache()
    for index, label in enumerate(names):
        row: Row = {**machine(settings.device), "suite": "networks", "case": label, "direction": way.label}
        row |= {"kind": way.precision, "batch": way.batch, "size": "{}x{}".format(*work.size)}
        row |= checks if index == 0 else dict.fromkeys(checks, "")
        row |= _columns(times[index], times[-1], name) if times else dict.fromkeys(_COLUMNS, "")
        yield row | {"note": note}


_COLUMNS = (
    "images_per_second",
    "median_ms",
    "p20_ms",
    "p80_ms",
    "peak_mib",
    "over_plain",
    "paper",
    "deformable_ms",
    "parts_ms",
)


def _columns(own: Measurement, plain: Measurement, name: str) -> Row:
    deformable = own.name == name
    parts = " ".join(f"{label.replace(' ', '-')}={value:.2f}" for label, value in own.parts.items())
    values = (
        round(own.images_per_second, 2),
        round(own.milliseconds, 3),
        round(own.low, 3),
        round(own.high, 3),
        "" if own.peak_mib is None else round(own.peak_mib),
        round(own.milliseconds / plain.milliseconds, 3) if deformable else "",
        PAPER.get(name, "") if deformable else "",
        round(own.deformable, 3),
        parts,
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _checked(name: str, size: tuple[int, int], settings: Settings) -> tuple[str, str]:
    """Error of the last map against the reference backend, and what the forward waits for, if anything."""
    work = Workload(size, 1, "float32", settings.device)
    model = prepare(make_model(name, work))
    with torch.no_grad():
        pixels = model.preprocess(random_images(work)).pixels  # type: ignore[operator]  # nn.Module attributes are untyped
        fast = _last_map(model, pixels)
        with _backend("reference"):
            expected = _last_map(model, pixels)
        error = relative_error([fast], [expected.double()])
        return f"{error:.1e}", _waits(model, pixels, size)


def _last_map(model: nn.Module, pixels: Tensor) -> Tensor:
    maps: tuple[Tensor, ...] = model.backbone(pixels)  # type: ignore[operator]  # nn.Module attributes are untyped
    return maps[-1]


@contextmanager
def _backend(name: str) -> Iterator[None]:
    before = os.environ.get("DCN_BACKEND")
    os.environ["DCN_BACKEND"] = name
    try:
        yield
    finally:
        del os.environ["DCN_BACKEND"]
        if before is not None:
            os.environ["DCN_BACKEND"] = before


def _waits(model: nn.Module, pixels: Tensor, size: tuple[int, int]) -> str:
    """``"none"``, or the first message of CUDA's own watch over synchronising calls."""
    if pixels.device.type != "cuda":
        return "not watched"
    frames = make_frames([size], [size], pixels.device)
    call = (lambda: model.detect(pixels, frames, 0.05)) if hasattr(model, "detect") else (lambda: model.scores(pixels))  # type: ignore[operator]  # nn.Module attributes are untyped
    return waits(call) or "none"


def summary(measured: list[Row]) -> list[str]:
    """Overheads beside the papers', and the goals of speed."""
    lines = []
    for row in measured:
        if row["paper"] != "" and row["direction"] != "train":
            verdict = "reached" if float(row["over_plain"]) <= GOAL_RATIO else "missed"
            lines.append(
                f"{row['case']} {row['direction']} {row['kind']} x{row['batch']}: {row['over_plain']} times plain, "
                f"papers {row['paper']}, goal {GOAL_RATIO}: {verdict}"
            )
        name, batch, least = WANTED_SPEED
        if (row["case"], row["batch"], row["direction"]) == (name, batch, "graph") and row["images_per_second"] != "":
            verdict = "reached" if float(row["images_per_second"]) >= least else "missed"
            lines.append(f"{name} bfloat16 x{batch}: {row['images_per_second']} images/s, goal {least:.0f}: {verdict}")
    return lines
