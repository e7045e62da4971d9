"""The offsets of a model in training, as numbers for its log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from dcn.engine.train import Probe
from dcn.nn import DeformConv1d, DeformConv2d, DeformConv3d
from dcn.nn.offset_health import OffsetHealth, OffsetMonitor


def has_deformable_layers(model: nn.Module) -> bool:
    """Whether a model has a layer whose offsets can be watched."""
    return any(isinstance(module, DeformConv1d | DeformConv2d | DeformConv3d) for module in model.modules())


def offset_probe(model: nn.Module) -> Probe | None:
    """What :func:`dcn.engine.train` logs about the deformable layers of a model; ``None`` where it has none.

    Returns:
        A probe whose numbers are ``offsets/mean`` and ``offsets/largest`` (size of the offsets in pixels of the layer's
        input, the mean over layers and the largest of all) and ``offsets/outside`` (share of samples off the map).
    """
    if not has_deformable_layers(model):
        return None

    @contextmanager
    def probe() -> Iterator[Callable[[], Mapping[str, float]]]:
        with OffsetMonitor(model) as monitor:
            yield lambda: summary([row for row in monitor.report() if row.calls])

    return probe


def summary(layers: list[OffsetHealth]) -> dict[str, float]:
    """The numbers of :func:`offset_probe` from those of the layers that ran."""
    if not layers:
        return {}
    return {
        "offsets/mean": sum(row.mean for row in layers) / len(layers),
        "offsets/largest": max(row.largest for row in layers),
        "offsets/outside": sum(row.outside for row in layers) / len(layers),
    }
