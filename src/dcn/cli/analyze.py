"""``dcn analyze``: how far the deformable layers of a detector look, on objects and on background."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcn.analysis import LayerDilation, Spread
    from dcn.data.dataset import Dataset

_EPILOG = """\
examples:
  dcn analyze runs/cards_rfcn_deformable/0
  dcn analyze runs/cards_rfcn_deformable/0 --split train --images 100 --figure dilation.png
  dcn analyze runs/cards_rfcn_deformable/0 --by-group --sides 64 128
  dcn analyze model.safetensors --recipe cards_rfcn_deformable data.root=data/cards --json dilation.json

Printed is the effective dilation: the mean distance between adjacent sampling points of a filter, in cells of the
layer's input map, as mean and standard deviation over all filters whose centre lies on an object of that size or on
background. A filter that moves nothing has its dilation.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``analyze``."""
    parser = subparsers.add_parser(
        "analyze",
        help="how far deformable layers look, on objects and background",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="CHECKPOINT key=value", help="a run folder or weights file, then overrides"
    )
    parser.add_argument("--split", default="test", help="train, val, test as in the recipe, or a split's own name")
    parser.add_argument("--recipe", help="where the data is described, for weights outside of a run folder")
    parser.add_argument("--images", type=int, help="only so many, spread evenly over the split (default: all)")
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
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    parser.add_argument("--batch", type=int, default=1, help="images of one forward pass (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
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
    from dcn.api import load_model
    from dcn.cli import assemble
    from dcn.cli.eval import check_classes, find_run, split_name
    from dcn.engine.distributed import World, choose_device
    from dcn.engine.log import progress

    for option in ("batch", "images"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option}: expected 1 or more, got {value}")
    checkpoint, recipe, _ = find_run(arguments.words, arguments.recipe)
    if recipe.eval.metric == "miou":
        raise ValueError("eval.metric: miou is for label maps; this analysis is of detectors, by the sizes of boxes")
    recipe = replace(recipe, eval=replace(recipe.eval, batch_size=arguments.batch))
    world = World(choose_device(arguments.device))
    model = load_model(checkpoint).to(world.device)
    whole = assemble.open_split(recipe, split_name(recipe, arguments.split))
    check_classes(tuple(whole.classes), tuple(model.classes), whole.name)  # type: ignore[arg-type]  # nn.Module attributes are untyped
    if not getattr(whole, "annotated", True):
        raise ValueError(f"{whole.name} has no annotations to say what lies where; choose another --split")
    dataset = assemble.spread(whole, arguments.images)
    batches = assemble.evaluation_batches(recipe, dataset, assemble.test_size(recipe), world)
    shown = progress(batches, math.ceil(len(dataset) / arguments.batch), dataset.name)
    return dataset, dilation_statistics(model, shown, arguments.sides, by_group=arguments.by_group)


def _name(row: LayerDilation) -> str:
    return row.layer if row.group is None else f"{row.layer} group {row.group}"


def table(rows: Sequence[tuple[str, str, dict[str, Spread]]], second: str) -> str:
    """A line for each layer: its name, a figure of its own, and the spreads."""
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
            place: {"filters": own.count, "mean": own.mean, "std": own.std}
            if own.count
            else {"filters": 0, "mean": None, "std": None}
            for place, own in spreads.items()
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
    spreads = [{place: (own.mean, own.std) for place, own in row.effective.items()} for row in rows]
    spread_bars(
        dict(zip(names, spreads, strict=True)),
        ylabel="effective dilation (cells)",
        marks={name: row.undeformed for name, row in zip(names, rows, strict=True)},
        mark_label="undeformed",
        path=path,
    )


def _short(names: Sequence[str]) -> list[str]:
    """Names without the parts that all begin with, of three parts or more: ``layer4.0.conv2``."""
    parts = [name.split(".") for name in names]
    while len({own[0] for own in parts}) == 1 and min(map(len, parts)) > 3:
        parts = [own[1:] for own in parts]
    return [".".join(own) for own in parts]
