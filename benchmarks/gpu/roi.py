"""RoI pooling and suppression at the sizes of the published networks, beside torchvision where it has the operator."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu import Row, Settings
from benchmarks.gpu.measure import Contender, Results, Work, surviving
from benchmarks.gpu.measure import rows as measured
from dcn import ops

# (goal, case, direction, most microseconds)
GOALS = (
    (
        "deformable PS RoI pooling, 300 RoIs x 81 classes x 7x7, forward and backward",
        "deform_ps_roi_pool",
        "train",
        1e3,
    ),
    ("suppression of 12,000 boxes", "nms 12000", "forward", 1e3),
    ("the same as a mask", "nms_keep 12000", "forward", 1e3),
)


@dataclass(frozen=True)
class Pool:
    """A pooling: ``call(ops module, map, RoIs, offset, backend)``; torchvision's own where it has one."""

    name: str
    channels: int
    height: int
    width: int
    call: Callable[[Tensor, Tensor, Tensor | None, str], Tensor]
    torchvision: Callable[[object, Tensor, Tensor], Tensor] | None = None
    classes: int = 0  # of the offsets
    rois: int = 300
    channels_last: bool = True


def _of(package: object, name: str) -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = getattr(package, name)
    return function


SCALE = 1 / 16
# The stage that RoIs are taken from: stride 16, 800x1333 (Faster R-CNN) and 600x1000 (R-FCN, 81 x 7 x 7 channels).
POOLS = (
    Pool(
        *("roi_align", 256, 50, 84),
        lambda x, rois, offset, backend: ops.roi_align(x, rois, 7, SCALE, 0, True, backend=backend),
        lambda package, x, rois: _of(package, "roi_align")(x, rois, 7, SCALE, -1, True),
    ),
    Pool(
        *("roi_pool", 256, 50, 84),
        lambda x, rois, offset, backend: ops.roi_pool(x, rois, 7, SCALE, backend=backend),
        lambda package, x, rois: _of(package, "roi_pool")(x, rois, 7, SCALE),
    ),
    Pool(
        *("deform_roi_pool", 256, 50, 84),
        lambda x, rois, offset, backend: ops.deform_roi_pool(x, rois, offset, 7, SCALE, backend=backend),
        classes=1,
    ),
    Pool(
        *("deform_ps_roi_pool group 1", 256, 50, 84),
        lambda x, rois, offset, backend: ops.deform_ps_roi_pool(x, rois, offset, 7, SCALE, backend=backend),
        classes=1,
    ),
    Pool(
        *("deform_ps_roi_pool", 81 * 49, 38, 63),
        lambda x, rois, offset, backend: ops.deform_ps_roi_pool(
            x, rois, offset, 7, SCALE, group_size=7, backend=backend
        ),
        classes=81,
        channels_last=False,
    ),
    Pool(
        *("ps_roi_pool", 81 * 49, 38, 63),
        lambda x, rois, offset, backend: ops.ps_roi_pool(x, rois, 7, SCALE, rounding="after_scale", backend=backend),
        lambda package, x, rois: _of(package, "ps_roi_pool")(x, rois, 7, SCALE),
        channels_last=False,
    ),
    Pool(
        *("ps_roi_align", 81 * 49, 38, 63),
        lambda x, rois, offset, backend: ops.ps_roi_align(x, rois, 7, SCALE, 2, backend=backend),
        lambda package, x, rois: _of(package, "ps_roi_align")(x, rois, 7, SCALE, 2),
        channels_last=False,
    ),
)
_TINY = (
    Pool("roi_align", 4, 5, 6, POOLS[0].call, rois=2),
    Pool("roi_pool", 4, 5, 6, POOLS[1].call, rois=2),
    Pool("deform_ps_roi_pool", 98, 5, 6, POOLS[4].call, classes=2, rois=1, channels_last=False),
)


def rows(settings: Settings) -> Iterator[Row]:
    """Every pooling, type and direction, then the suppressions."""
    kinds = ("bfloat16",) if settings.quick else ("float32",) if settings.dry else ("bfloat16", "float32")
    for pool in _TINY if settings.dry else POOLS:
        for kind in kinds:
            for train in (False, True):
                yield from surviving(f"{pool.name} {kind}", _pool_rows(pool, kind, train, settings))
    yield from _suppression_rows(settings)


def make_boxes(count: int, height: float, width: float, device: torch.device) -> Tensor:
    """``[count, 4]``: sides from 32 to 512 pixels (or the image's), evenly in their logarithm, anywhere inside."""
    random = torch.Generator().manual_seed(0)
    sides = 32 * 16 ** torch.rand(count, 2, generator=random)
    sides = torch.minimum(sides, torch.tensor([width, height]))
    corner = torch.rand(count, 2, generator=random) * (torch.tensor([width, height]) - sides)
    return torch.cat((corner, corner + sides), 1).to(device)


def _pool_rows(pool: Pool, kind: str, train: bool, settings: Settings) -> Iterator[Row]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, pool.channels, pool.height, pool.width, generator=random).to(settings.device)
    boxes = make_boxes(pool.rois, pool.height / SCALE, pool.width / SCALE, settings.device)
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), 1)
    shape = (pool.rois, 2 * pool.classes, 7, 7)
    offset = torch.randn(shape, generator=random).to(settings.device) if pool.classes else None
    # In float32, not float64: at the edges of cells a coordinate decides by its last bit, which must be the same.
    data, exact = x.to(getattr(torch, kind)), x.to(getattr(torch, kind)).float()
    if pool.channels_last:
        data = data.contiguous(memory_format=torch.channels_last)

    def ours(backend: str, data: Tensor) -> Callable[[], Results]:
        return _run(lambda x, moves: pool.call(x, rois, moves, backend), data, offset, train)

    expected = tuple(result.double() for result in ours("reference", exact)())
    contenders = [Contender("dcn", ours("triton", data))]
    package = _torchvision(settings)
    if package is not None and pool.torchvision is not None:
        theirs, half = pool.torchvision, torch.float16 if kind == "bfloat16" else torch.float32
        run = _run(lambda x, moves: theirs(package, x, rois.to(half)), data.to(half).contiguous(), None, train)
        # In float16 it also computes coordinates in float16, a twentieth of a pixel off: timed, not checked.
        kind_of = str(half).removeprefix("torch.")
        contenders.append(Contender("torchvision", run, compared=half == torch.float32, kind=kind_of))
    size = f"{pool.channels}x{pool.height}x{pool.width}"
    case = f"{pool.name} {pool.rois}x7x7 of {size} {kind}"
    moved = sum(t.nbytes for t in (data, rois, offset, expected[0].to(data.dtype)) if t is not None)
    work = Work("roi", case, "train" if train else "forward", kind, 0.0, moved * (2 if train else 1))
    yield from measured(work, contenders, expected, settings)


def _run(
    call: Callable[[Tensor, Tensor | None], Tensor], data: Tensor, offset: Tensor | None, train: bool
) -> Callable[[], Results]:
    """One call; when training with the gradients of map and offsets, for an output gradient of ones."""
    if not train:
        return lambda: (call(data, offset),)
    leaves = [t.detach().requires_grad_() for t in (data, offset) if t is not None]

    def run() -> Results:
        output = call(leaves[0], leaves[1] if len(leaves) > 1 else None)
        return output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output))

    return run


def _torchvision(settings: Settings) -> object | None:
    if settings.dry:
        return None
    try:
        return importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError, OSError):  # built for another torch
        return None


def _suppression_rows(settings: Settings) -> Iterator[Row]:
    counts = (40,) if settings.dry else (12000,) if settings.quick else (1000, 2000, 6000, 12000)
    for count in counts:
        # Proposals crowd around objects: a tenth as many centres, each with boxes a little apart.
        centres = make_boxes(-(-count // 10), 800.0, 1333.0, settings.device).repeat_interleave(10, 0)[:count]
        random = torch.Generator().manual_seed(1)
        boxes = centres + (torch.randn(count, 4, generator=random) * 8).to(settings.device)
        scores = torch.rand(count, generator=random).to(settings.device)
        labels = (torch.rand(count, generator=random) * 80).long().to(settings.device)
        yield from surviving(f"nms of {count}", _greedy_rows(count, boxes, scores, labels, settings))
        yield from surviving(f"soft_nms of {count}", _soft_rows(count, boxes, scores, labels, settings))


def _greedy_rows(count: int, boxes: Tensor, scores: Tensor, labels: Tensor, settings: Settings) -> Iterator[Row]:
    def mask(results: Results) -> Results:
        return (torch.zeros(count, device=boxes.device).index_fill(0, results[0], 1.0),)

    def work(name: str) -> Work:
        return Work("roi", f"{name} {count}", "forward", "float32", 0.0, boxes.nbytes + scores.nbytes)

    package = _torchvision(settings)
    for name, chosen in (("nms", None), ("nms by class", labels)):
        reference = mask((ops.nms(boxes, scores, 0.7, chosen, backend="reference"),))[0].double()

        def run(chosen: Tensor | None = chosen) -> Results:
            return (ops.nms(boxes, scores, 0.7, chosen, backend="triton"),)

        contenders = [Contender("dcn", run, mask)]
        if package is not None:
            theirs, keys = _of(package, "nms" if chosen is None else "batched_nms"), () if chosen is None else (labels,)
            contenders.append(Contender("torchvision", lambda f=theirs, k=keys: (f(boxes, scores, *k, 0.7),), mask))  # type: ignore[misc]
        yield from measured(work(name), contenders, (reference,), settings)
        keep = Contender(
            "dcn",
            lambda c=chosen: (ops.nms_keep(boxes, scores, 0.7, c, backend="triton").float(),),  # type: ignore[misc]
        )
        yield from measured(work(name.replace("nms", "nms_keep")), [keep], (reference,), settings)


def _soft_rows(count: int, boxes: Tensor, scores: Tensor, labels: Tensor, settings: Settings) -> Iterator[Row]:
    def run(backend: str) -> Results:
        kept, values = ops.soft_nms(boxes, scores, sigma=0.6, labels=labels, max_output=100, backend=backend)
        return (torch.zeros(count, device=boxes.device).index_put((kept,), values),)

    def vote(dtype: torch.dtype = torch.float32) -> Results:
        kept, voters, weights = boxes[:100].to(dtype), boxes.to(dtype), scores.to(dtype)
        return (ops.box_voting(kept, voters, weights, kept_labels=labels[:100], labels=labels),)

    size = boxes.nbytes + scores.nbytes + labels.nbytes
    work = Work("roi", f"soft_nms by class {count}", "forward", "float32", 0.0, size)
    expected = tuple(result.double() for result in run("reference"))
    yield from measured(work, [Contender("dcn", lambda: run("triton"))], expected, settings)
    votes = Work("roi", f"box_voting 100 of {count}", "forward", "float32", 0.0, size)
    yield from measured(votes, [Contender("dcn", vote)], vote(torch.float64), settings)


def summary(measured: list[Row]) -> list[str]:
    """The goals beside what was measured."""
    lines = []
    for goal, case, direction, most in GOALS:
        for row in measured:
            mine = row["contender"] == "dcn" and row["direction"] == direction
            named = str(row["case"]) == case or str(row["case"]).startswith(f"{case} 300x")
            if mine and named and row["median_us"] != "":
                verdict = "reached" if float(row["median_us"]) <= most else "missed"
                lines.append(f"{goal}, {row['kind']}: {row['median_us']} us, goal {most:.0f}: {verdict}")
    return lines
