"""Table 4 of the paper, measured here: parameters and forward time of the published networks, plain and deformable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from dcn.analysis.clock import interleaved, processor_time
from dcn.reproduce.rows import environment, read_table, write_table
from dcn.reproduce.tables import Table

Prepared = tuple[nn.Module, Callable[[], object]]
"""A model, and a call that runs it on one image."""


class Network(NamedTuple):
    """A row of Table 4.

    Attributes:
        title: in the table.
        plain: name of the plain model.
        deformable: name of the deformable model.
        classes: of the data, with background for DeepLab on VOC.
        size: height and width of the image.
        published: parameters of the two in the paper, in millions; ``None`` where the number is not known here.
    """

    title: str
    plain: str
    deformable: str
    classes: int
    size: tuple[int, int]
    published: tuple[float | None, float | None]


# The paper counts ResNet-101 as 46.0 M parameters, where the files of its authors have 44.55 M.
TABLE4 = (
    Network("DeepLab, Cityscapes", "deeplab_r101", "deeplab_r101_dcn", 19, (1024, 2048), (46.0, 46.1)),
    Network("DeepLab, VOC", "deeplab_r101", "deeplab_r101_dcn", 21, (360, 480), (46.0, 46.1)),
    Network("class-aware RPN, VOC", "rpn_r101", "rpn_r101_dcn", 20, (600, 800), (46.0, None)),
    Network("Faster R-CNN, VOC", "rcnn_r101", "rcnn_r101_dcn", 20, (600, 800), (None, None)),
    Network("R-FCN, VOC", "rfcn_r101", "rfcn_r101_dcn", 20, (600, 800), (47.1, 49.5)),
)


@dataclass(frozen=True)
class CostRow:
    """One network, measured.

    Attributes:
        network: its title.
        height: of the image.
        width: of the image.
        plain_parameters: how many.
        deformable_parameters: likewise.
        plain_ms: processor time of a forward pass for one image, over all threads; median.
        deformable_ms: likewise.
        repetitions: of each.
        threads: that computed.
        commit: of the source.
        torch: version.
        machine: its processor.
        date: UTC.
    """

    network: str
    height: int
    width: int
    plain_parameters: int
    deformable_parameters: int
    plain_ms: float
    deformable_ms: float
    repetitions: int
    threads: int
    commit: str
    torch: str
    machine: str
    date: str


def measure_costs(
    networks: Sequence[Network],
    prepare: Callable[[str, int, tuple[int, int]], Prepared],
    *,
    repetitions: int = 3,
    path: Path | None = None,
) -> list[CostRow]:
    """Time the networks on the CPU, plain and deformable in turns.

    What counts is the time of the processor, which other work on the machine hardly changes.

    Args:
        networks: rows of the table.
        prepare: from name, classes and size of the image to the model and a call of it.
        repetitions: timed calls of each, after one that is not.
        path: the file of the rows; networks that it has are taken from there, new ones are added one by one.
    """
    rows = [] if path is None else read_costs(path)
    for network in networks:
        if any(row.network == network.title for row in rows):
            continue
        rows.append(_measure(network, prepare, repetitions))
        if path is not None:
            write_table(path, rows, CostRow)
    return rows


def _measure(network: Network, prepare: Callable[[str, int, tuple[int, int]], Prepared], repetitions: int) -> CostRow:
    pair = [prepare(name, network.classes, network.size) for name in (network.plain, network.deformable)]
    plain_count, deformable_count = (sum(parameter.numel() for parameter in model.parameters()) for model, _ in pair)
    calls = [call for _, call in pair]
    times = interleaved(calls, torch.device("cpu"), repetitions=repetitions, warm_up=1, clock=processor_time)
    plain, deformable = (round(1000 * own.median, 1) for own in times)
    height, width = network.size
    return CostRow(
        network.title, height, width, plain_count, deformable_count, plain, deformable, repetitions, **environment()
    )


def read_costs(path: Path) -> list[CostRow]:
    """The rows of a file; none where it does not exist."""
    return read_table(path, CostRow)


def table4(rows: Sequence[CostRow]) -> Table | None:
    """The table; ``None`` without rows. What is not known of the paper is left blank."""
    published = {network.title: network.published for network in TABLE4}
    lines = [
        (
            row.network,
            f"{row.height} x {row.width}",
            _pair(row.plain_parameters / 1e6, row.deformable_parameters / 1e6, 2),
            f"{100 * (row.deformable_parameters / row.plain_parameters - 1):+.1f} %",
            _published(*published.get(row.network, (None, None))),
            _pair(row.plain_ms / 1000, row.deformable_ms / 1000, 2),
            f"{100 * (row.deformable_ms / row.plain_ms - 1):+.0f} %",
        )
        for row in rows
    ]
    header = ("network", "image", "parameters, M", "more", "paper, M", "forward, s of a core", "more")
    return Table("Published networks, plain and deformable", header, tuple(lines)) if lines else None


def _pair(plain: float, deformable: float, digits: int) -> str:
    return f"{plain:.{digits}f} to {deformable:.{digits}f}"


def _published(plain: float | None, deformable: float | None) -> str:
    if plain is None:
        return ""
    return f"{plain:.1f}" if deformable is None else _pair(plain, deformable, 1)
