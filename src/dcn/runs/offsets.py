"""The offsets of a model at work, as numbers for its log and its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from torch import nn

from dcn.engine.train import Probe
from dcn.nn import RoIOffsetHealth, RoIOffsetMonitor, offset_parameters
from dcn.nn.offset_health import OffsetHealth, OffsetMonitor
from dcn.nn.offset_layer import OffsetLayer


class Offsets(NamedTuple):
    """What was seen of a model's offsets.

    Attributes:
        layers: the deformable convolutions that ran, in the order of the model; sizes in cells of their input.
        rois: deformable RoI pooling, as shares of the region's side; ``None`` where it did not run.
    """

    layers: list[OffsetHealth]
    rois: RoIOffsetHealth | None


def has_offsets(model: nn.Module) -> bool:
    """Whether a model has a layer whose offsets can be watched."""
    return has_deformable_layers(model) or any(True for _ in offset_parameters(model))


def has_deformable_layers(model: nn.Module) -> bool:
    """Whether a model has a deformable convolution."""
    return any(isinstance(module, OffsetLayer) for module in model.modules())


@contextmanager
def watched_offsets(model: nn.Module) -> Iterator[Callable[[], Offsets]]:
    """Watch the offsets of all calls of a model; what it gives is a function that tells what was seen so far."""
    convolutions = OffsetMonitor(model) if has_deformable_layers(model) else nullcontext()
    with convolutions as monitor, RoIOffsetMonitor() as pooling:

        def seen() -> Offsets:
            layers = [] if monitor is None else [row for row in monitor.report() if row.calls]
            rois = pooling.report()
            return Offsets(layers, rois if rois.calls else None)

        yield seen


def offset_probe(model: nn.Module) -> Probe | None:
    """What :func:`dcn.engine.train` logs about the offsets of a model; ``None`` where it has none.

    Returns:
        A probe whose numbers are ``offsets/mean`` and ``offsets/largest`` (size of the offsets in pixels of the layer's
        input, the mean over layers and the largest of all), ``offsets/outside`` (share of samples off the map) and
        ``offsets/pool`` (mean size of the offsets of RoI pooling, as a share of the region's side).
    """
    if not has_offsets(model):
        return None

    @contextmanager
    def probe() -> Iterator[Callable[[], Mapping[str, float]]]:
        with watched_offsets(model) as seen:
            yield lambda: summary(seen())

    return probe


def summary(offsets: Offsets) -> dict[str, float]:
    """The numbers of :func:`offset_probe`."""
    layers, rois = offsets
    values = {} if rois is None else {"offsets/pool": rois.mean}
    if not layers:
        return values
    return {
        "offsets/mean": sum(row.mean for row in layers) / len(layers),
        "offsets/largest": max(row.largest for row in layers),
        "offsets/outside": sum(row.outside for row in layers) / len(layers),
        **values,
    }
