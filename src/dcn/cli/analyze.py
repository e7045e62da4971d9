"""``dcn analyze``: how far the deformable layers of a detector reach, on objects and on background."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn.cli.words import add_device, examples, one_source

if TYPE_CHECKING:
    from dcn.analysis import LayerDilation, Spread
    from dcn.data.dataset import Dataset

_EXAMPLES = """\
examples:
  dcn analyze runs/cards_rfcn_deformable/0
  dcn analyze runs/cards_rfcn_deformable/0 --split train --images 100 --figure dilation.png
  dcn analyze runs/cards_rfcn_deformable/0 --by-group --sides 64 128
  dcn analyze model.safetensors --recipe cards_rfcn_deformable data.root=data/cards --json dilation.json

The effective dilation is the mean distance between adjacent sampling points of a filter, in cells of the layer's input
map. Each line gives its mean and standard deviation over all filters whose centre lies on an object of that size or on
background. A filter without offsets has the dilation of its layer.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``analyze``."""
    help_text = "measure how far deformable layers reach, on objects and on background"
    parser = subparsers.add_parser("analyze", help=help_text, **examples(_EXAMPLES))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN_OR_WEIGHTS key=value",
        help="a run folder or weights file, then key=value changes of its recipe; lists are written a,b",
    )
    parser.add_argument("--split", default="test", help="train, val, test as in the recipe, or a split's own name")
    parser.add_argument("--recipe", help="the recipe that describes the data, for weights outside of a run folder")
    parser.add_argument("--images", type=int, help="this many images at even distances (default: all)")
    parser.add_argument(
        "--sides",
        type=float,
        nargs=2,
        default=(32.0, 96.0),
        metavar="PIXELS",
        help="objects are medium from the first squared on, large from the second, by their area in the image file "
        "(default 32 96, as COCO)",
    )
    parser.add_argument("--by-group", action="store_true", help="a line for every offset group of a layer")
    parser.add_argument("--batch", type=int, default=1, help="images of one forward pass (default 1)")
    add_device(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file too")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw them too")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    dataset, rows = _measure(arguments)
    title = f"{dataset.name}, {len(dataset)} images"
    print(f"effective dilation on {title}, mean ± standard deviation")
    print(table([(_name(row), f"{row.undeformed:g}", row.effective) for row in rows], "undeformed"))
    modulated = [(_name(row), "", row.modulation) for row in rows if row.modulation is not None]
    if modulated:
        print("modulation, mean over the taps of a filter")
        print(table(modulated, ""))
    if arguments.json is not None:
        report = {"data": dataset.name, "images": len(dataset), "sides": list(arguments.sides)}
        text = json.dumps(report | {"layers": [_plain(row) for row in rows]}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.figure is not None:
        _draw(rows, arguments.figure)
    return 0


def _measure(arguments: argparse.Namespace) -> tuple[Dataset, list[LayerDilation]]:
    from dcn.analysis import dilation_statistics
    from dcn.data.subset import spread
    from dcn.engine.distributed import World, choose_device
    from dcn.engine.log import progress
    from dcn.runs.build import evaluation_batches, test_size
    from dcn.runs.load import read_model
    from dcn.runs.opening import find_run, open_for
    from dcn.runs.tasks import DETECTION, task_of

    for option in ("batch", "images"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option}: expected 1 or more, got {value}")
    source, changes = one_source(arguments.words)
    origin, recipe = find_run(source, arguments.recipe, [*changes, f"eval.batch_size={arguments.batch}"])
    model = read_model(origin.weights)
    if task_of(model) is not DETECTION:
        raise ValueError(
            f"{source}: expected a detector, got a segmentation model; objects are compared by their boxes"
        )
    whole = open_for(recipe, arguments.split, model)
    if not getattr(whole, "annotated", True):
        raise ValueError(f"{whole.name}: expected annotations that tell objects from background, got none")
    dataset = spread(whole, arguments.images)
    world = World(choose_device(arguments.device))
    batches = evaluation_batches(recipe, dataset, test_size(recipe), world)
    shown = progress(batches, math.ceil(len(dataset) / arguments.batch), dataset.name)
    return dataset, dilation_statistics(model.to(world.device), shown, arguments.sides, by_group=arguments.by_group)


def _name(row: LayerDilation) -> str:
    return row.layer if row.group is None else f"{row.layer} group {row.group}"


def table(rows: Sequence[tuple[str, str, dict[str, Spread]]], second: str) -> str:
    """A line for each layer: its name, a value of its own, and the spreads."""
    heads = ["layer", second, *rows[0][2]]
    lines = [[name, own, *map(_cell, spreads.values())] for name, own, spreads in rows]
    first, *widths = (max(len(line[column]) for line in (heads, *lines)) for column in range(len(heads)))
    aligned = [
        [line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], widths, strict=True))]
        for line in (heads, *lines)
    ]
    return "\n".join("  ".join(line) for line in aligned)


def _cell(spread: Spread) -> str:
    return f"{spread.mean:.2f} ± {spread.std:.2f}" if spread.count else "-"


def _plain(row: LayerDilation) -> dict[str, Any]:
    """As JSON, which has no NaN."""

    def plain(spreads: dict[str, Spread]) -> dict[str, Any]:
        return {
            location: {"filters": own.count, "mean": own.mean, "std": own.std}
            if own.count
            else {"filters": 0, "mean": None, "std": None}
            for location, own in spreads.items()
        }

    modulation = None if row.modulation is None else plain(row.modulation)
    return {
        "layer": row.layer,
        "group": row.group,
        "undeformed": row.undeformed,
        "effective_dilation": plain(row.effective),
        "modulation": modulation,
    }


def _draw(rows: Sequence[LayerDilation], path: Path) -> None:
    from dcn.vis import spread_bars

    names = _short([_name(row) for row in rows])
    spreads = [{location: (own.mean, own.std) for location, own in row.effective.items()} for row in rows]
    spread_bars(
        dict(zip(names, spreads, strict=True)),
        ylabel="effective dilation (cells)",
        marks={name: row.undeformed for name, row in zip(names, rows, strict=True)},
        mark_label="undeformed",
        path=path,
    )


def _short(names: Sequence[str]) -> list[str]:
    """Names without the beginning that all share; three parts or more remain: ``layer4.0.conv2``."""
    parts = [name.split(".") for name in names]
    while len({own[0] for own in parts}) == 1 and min(map(len, parts)) > 3:
        parts = [own[1:] for own in parts]
    return [".".join(own) for own in parts]
