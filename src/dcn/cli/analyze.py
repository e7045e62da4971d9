"""``dcn analyze``: how far deformable layers reach, what units of a layer see, and what a model costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn.cli.words import add_device, add_split, examples, one_source

if TYPE_CHECKING:
    from dcn.analysis import LayerDilation, LayerFields, Spread

_EXAMPLES = """\
examples:
  dcn analyze effective-dilation runs/cards_rfcn_deformable/0
  dcn analyze effective-dilation runs/cards_rfcn_deformable/0 --split train --images 100 --figure dilation.png
  dcn analyze effective-dilation runs/cards_rfcn_deformable/0 --by-group --sides 64 128
  dcn analyze effective-dilation model.safetensors --recipe cards_rfcn_deformable data.root=data/cards --json a.json
  dcn analyze effective-dilation runs/camvid_deformable/0
  dcn analyze receptive-field runs/bccd_deformable/0 --figure field.png --json field.json
  dcn analyze receptive-field letters_detection --layer backbone.layer2.1.conv2
  dcn analyze complexity rfcn_r101_dcn --figure cost.png
  dcn analyze complexity runs/bccd_deformable/0 --size 320x534
"""
_DILATION = """\
The effective dilation is the mean distance between adjacent sampling points of a filter, in cells of the layer's input
map. Each line gives its mean and standard deviation over all filters whose centre lies on an object of that size or on
background. A filter without offsets has the dilation of its layer. Objects are boxes, or connected regions of one label
in segmentation maps.
"""
_FIELD = """\
The effective receptive field of a unit is the gradient of the unit with respect to the image. Its size is the side of a
square with as many pixels as have more than 4.55 % of the largest gradient. Beside it: the same unit without offsets.
"""
_COMPLEXITY = """\
Parameters, multiply-adds, time of the network's forward pass and of the whole call, beside the plain form of the model.
The two run in turns.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``analyze``."""
    help_text = "measure how far deformable layers reach, what units see, and what models cost"
    parser = subparsers.add_parser("analyze", help=help_text, **examples(_EXAMPLES))
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    dilation = kinds.add_parser(
        "effective-dilation", help="effective dilation by size of object (table 2)", **examples(_DILATION)
    )
    _add_data(dilation)
    dilation.add_argument("--by-group", action="store_true", help="a line for every offset group of a layer")
    dilation.add_argument("--batch", type=int, default=1, help="images of one forward pass (default 1)")
    dilation.set_defaults(run=_run_dilation)
    field = kinds.add_parser(
        "receptive-field", help="effective receptive field by size of object, by gradient", **examples(_FIELD)
    )
    _add_data(field, images=16)
    field.add_argument("--layer", help="name of the layer (default: the last deformable one)")
    field.add_argument("--units", type=int, default=2, help="units of each kind and image (default 2)")
    field.set_defaults(run=_run_field)
    complexity = kinds.add_parser(
        "complexity", help="parameters, forward time and run time (table 4)", **examples(_COMPLEXITY)
    )
    complexity.add_argument("source", help="a run folder, a weights file, or a name of `dcn models`")
    complexity.add_argument("--plain", metavar="NAME", help="the model beside it (default: its plain form)")
    complexity.add_argument("--size", metavar="HxW", help="image size (default: the model's test size)")
    complexity.add_argument("--repetitions", type=int, default=5, help="timed calls of each model (default 5)")
    _add_output(complexity)
    complexity.set_defaults(run=_run_complexity)


def _add_data(parser: argparse.ArgumentParser, images: int | None = None) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN_OR_WEIGHTS key=value",
        help="a run folder or weights file, then key=value changes of its recipe; lists are written a,b",
    )
    add_split(parser, "test")
    parser.add_argument("--recipe", help="the recipe that describes the data, for weights outside of a run folder")
    default = "all" if images is None else images
    parser.add_argument(
        "--images", type=int, default=images, help=f"how many images, spread over the split (default: {default})"
    )
    parser.add_argument(
        "--sides",
        type=float,
        nargs=2,
        default=(32.0, 96.0),
        metavar="PIXELS",
        help="sides of the squares whose areas separate small, medium and large objects, in pixels of the image file "
        "(default 32 96, as COCO)",
    )
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file too")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="write a picture of the results too")


def _open(arguments: argparse.Namespace, batch: int) -> Any:
    from dcn.runs.analysis import open_analysis

    for option in ("batch", "images", "units"):
        value = getattr(arguments, option, None)
        if value is not None and value < 1:
            raise ValueError(f"--{option}: expected 1 or more, got {value}")
    source, changes = one_source(arguments.words)
    return open_analysis(
        source,
        arguments.split,
        recipe=arguments.recipe,
        images=arguments.images,
        device=arguments.device,
        changes=[*changes, f"eval.batch_size={batch}"],
    )


def _write(arguments: argparse.Namespace, content: dict[str, Any]) -> None:
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _print_note(opened: Any) -> None:
    """Why there is no background, where the data cannot say what it is."""
    from dcn.data.splitting import target_of
    from dcn.structures import SegmentationMap

    if opened.background is None and isinstance(target_of(opened.dataset, 0), SegmentationMap):
        print(
            "no class is called background (a file classes.txt names those of index masks): every region is an object"
        )


def _run_dilation(arguments: argparse.Namespace) -> int:
    from dcn.runs.analysis import analyze_dilation

    opened = _open(arguments, arguments.batch)
    rows = analyze_dilation(opened, arguments.sides, by_group=arguments.by_group)
    name, images = opened.dataset.name, len(opened.dataset)
    print(f"effective dilation on {name}, {images} images, mean ± standard deviation")
    print(table([(_name(row), f"{row.undeformed:g}", row.effective) for row in rows], "undeformed"))
    _print_note(opened)
    modulated = [(_name(row), "", row.modulation) for row in rows if row.modulation is not None]
    if modulated:
        print("modulation, mean over the taps of a filter")
        print(table(modulated, ""))
    report = {"data": name, "images": images, "sides": list(arguments.sides)}
    _write(arguments, report | {"layers": [_plain(row) for row in rows]})
    if arguments.figure is not None:
        _draw(rows, arguments.figure)
    return 0


def _run_field(arguments: argparse.Namespace) -> int:
    from dcn.runs.analysis import analyze_receptive_field

    opened = _open(arguments, 1)
    fields = analyze_receptive_field(opened, arguments.layer, arguments.sides, units=arguments.units)
    name, images = opened.dataset.name, len(opened.dataset)
    print(f"effective receptive field of {fields.layer} on {name}, {images} images: side in pixels, mean ± std")
    print(table([("with offsets", "", fields.sizes), ("without offsets", "", fields.plain)], ""))
    _print_note(opened)
    report = {"data": name, "images": images, "sides": list(arguments.sides), "layer": fields.layer}
    _write(arguments, report | {"with_offsets": _spreads(fields.sizes), "without_offsets": _spreads(fields.plain)})
    if arguments.figure is not None:
        _draw_fields(fields, arguments.figure)
    return 0


def _draw_fields(fields: LayerFields, path: Path) -> None:
    from dcn.vis.plots import field_maps

    shown = {
        f"{kind}: {fields.sizes[kind].mean:.0f} px": mean.numpy()
        for kind, mean in fields.means.items()
        if fields.sizes[kind].count
    }
    field_maps({**shown, "without offsets": fields.plain_mean.numpy()}, path=path)


def _run_complexity(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from dcn.analysis.memory import keep_freed_memory
    from dcn.bench.complexity import complexity_table, measure_complexity, model_and_plain
    from dcn.bench.workload import Workload, parse_size, test_size_of
    from dcn.engine.distributed import choose_device

    if arguments.repetitions < 1:
        raise ValueError(f"--repetitions: expected 1 or more, got {arguments.repetitions}")
    keep_freed_memory()
    size = test_size_of(arguments.source) if arguments.size is None else parse_size(arguments.size)
    work = Workload(size, 1, "float32", choose_device(arguments.device))
    rows = measure_complexity(
        model_and_plain(arguments.source, work, arguments.plain), work, repetitions=arguments.repetitions
    )
    print(complexity_table(rows, work))
    _write(arguments, {"size": list(work.size), "device": str(work.device), "models": [asdict(row) for row in rows]})
    if arguments.figure is not None:
        from dcn.vis.plots import bar_panels

        panels = {
            "parameters (M)": {row.name: row.parameters / 1e6 for row in rows},
            "forward (ms)": {row.name: row.forward for row in rows},
            "run time (ms)": {row.name: row.runtime for row in rows},
        }
        bar_panels(panels, path=arguments.figure)
    return 0


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
    """As JSON."""
    modulation = None if row.modulation is None else _spreads(row.modulation)
    return {
        "layer": row.layer,
        "group": row.group,
        "undeformed": row.undeformed,
        "effective_dilation": _spreads(row.effective),
        "modulation": modulation,
    }


def _spreads(spreads: dict[str, Spread]) -> dict[str, Any]:
    """As JSON, which has no NaN."""
    return {
        location: {"filters": own.count, "mean": own.mean, "std": own.std}
        if own.count
        else {"filters": 0, "mean": None, "std": None}
        for location, own in spreads.items()
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
