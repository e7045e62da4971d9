"""Table 4 of the paper: parameters, forward time and run time of a model, beside its plain form."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from dcn.analysis import count_model, count_parameters
from dcn.bench.measure import Measurement, measure_models
from dcn.bench.workload import Workload, make_model, plain_name
from dcn.engine.checkpoint import read_weights
from dcn.models import Model, build, options_of
from dcn.models.checkpoints import load_state
from dcn.runs.load import read_model
from dcn.runs.sources import StrPath, find_source

NOT_FORWARD = ("input", "post-processing")
"""Parts of a call that are not the network's forward pass."""


@dataclass(frozen=True)
class Complexity:
    """What a model costs.

    Attributes:
        name: of the model.
        parameters: how many it has.
        multiply_adds: of one image.
        forward: milliseconds of one image in the network alone.
        runtime: milliseconds from the image to the result: median.
        low: percentile 20 of the same.
        high: percentile 80.
    """

    name: str
    parameters: int
    multiply_adds: float
    forward: float
    runtime: float
    low: float
    high: float


def model_and_plain(source: StrPath, work: Workload, plain: str | None = None) -> dict[str, Model]:
    """A model by name, and its plain form where it has one.

    Args:
        source: a run folder, a weights file, or a name of ``dcn models``.
        work: for the size of the images and the device.
        plain: name of the model beside it; ``None``: the plain form of the same name.

    Returns:
        The models on their device. The plain form of weights has the options, the classes and all tensors of the
        deformable model that it shares; models by name have random weights that behave like trained ones.

    Raises:
        ValueError: no such model.
    """
    origin = find_source(source)
    if origin is None:
        name = str(source)
        options_of(name)  # an unknown name is refused with near ones
        beside = plain or plain_name(name)
        return {one: make_model(one, work) for one in (name, beside) if one is not None}
    state, info = read_weights(origin.weights)
    models = {info.model: read_model(origin.weights)}
    beside = plain or plain_name(info.model)
    if beside is not None:
        known = set(options_of(beside)) & set(info.options) - {"roi_pooling", "deform_pool", "deform_layers"}
        own = build(beside, info.classes, **{key: info.options[key] for key in known})
        shapes = {name: value.shape for name, value in own.state_dict().items()}
        shared = {name: value for name, value in state.items() if shapes.get(name) == value.shape}
        load_state(own, shared, str(origin.weights), optional=lambda _name: True)
        models[beside] = own
    return {name: model.to(work.device).eval() for name, model in models.items()}


def measure_complexity(models: dict[str, Model], work: Workload, *, repetitions: int = 5) -> list[Complexity]:
    """Count and time models, in turns.

    Args:
        models: by name, from :func:`model_and_plain`.
        work: what they do; inference.
        repetitions: timed calls of each.
    """
    counts = {name: count_model(deepcopy(model), work.size).total for name, model in models.items()}
    measured = measure_models(models, work, repetitions=repetitions)
    return [
        Complexity(
            one.name,
            count_parameters(models[one.name]),
            counts[one.name],
            _forward(one),
            one.milliseconds,
            one.low,
            one.high,
        )
        for one in measured
    ]


def _forward(one: Measurement) -> float:
    """The parts' share of a pass that was watched, of the time of one that was not."""
    total = sum(one.parts.values())
    network = sum(milliseconds for label, milliseconds in one.parts.items() if label not in NOT_FORWARD)
    return one.milliseconds * network / total if total else one.milliseconds


def complexity_table(rows: Sequence[Complexity], work: Workload) -> str:
    """For reading: a line for each model."""
    head = f"{work.size[0]}x{work.size[1]}, batch {work.batch}, {work.precision}, {work.device}"
    width = max(len(row.name) for row in rows)
    lines = [head, f"{'model':<{width}}  {'params':>9}  {'GMACs':>8}  {'forward':>10}  {'run time':>10}  20% .. 80%"]
    for row in rows:
        params, counts = f"{row.parameters / 1e6:.2f} M", f"{row.multiply_adds / 1e9:.2f}"
        times = f"{row.forward:>7.1f} ms  {row.runtime:>7.1f} ms  {row.low:.1f} .. {row.high:.1f}"
        lines.append(f"{row.name:<{width}}  {params:>9}  {counts:>8}  {times}")
    if len(rows) == 2:
        first, second = rows
        lines.append(
            f"{first.name} has {first.parameters / second.parameters:.3f} times the parameters and takes "
            f"{first.runtime / second.runtime:.3f} times as long"
        )
    return "\n".join(lines)
