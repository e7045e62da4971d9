"""``dcn models``: the models with their sizes, costs and published accuracy; the options of one."""

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb ``models``."""
    parser = subparsers.add_parser(
        "models",
        help="list the models",
        epilog="GFLOPs are 10^9 multiply-adds for one image of the model's test size, as in published tables.",
    )
    parser.add_argument("name", nargs="?", help="a model whose costs and options are shown")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only names that contain this")
    parser.add_argument("--size", type=_size, metavar="HxW", help="with NAME: count for an image of this size")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected height and width such as 800x1333, got {text!r}")
    return int(height), int(width)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.name is not None:
        _show(arguments.name, arguments.size, arguments.json)
        return 0
    if arguments.size is not None:
        raise ValueError(
            "--size: expected the name of one model beside it, got none; the list shows each model at its test size"
        )
    _list(arguments.filter, arguments.json)
    return 0


def _list(part: str, as_json: bool) -> None:
    from dcn.models.zoo import MODELS

    names = [name for name in MODELS if part in name]
    if not names:
        raise ValueError(f"--filter: expected a part of the name of a model, got {part!r}; `dcn models` lists all")
    rows = {name: row for name in names if (row := _describe_or_warn(name)) is not None}
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(map(len, rows))
    print(f"{'name':<{width}}  {'params':>8}  {'GFLOPs':>6}  {'at':>9}  published")
    for name, row in rows.items():
        at, published = "{}x{}".format(*row["test_size"]), _results(row["published"][:1])
        source = published if "plugin" not in row else f"plug-in {row['plugin']}"
        print(f"{name:<{width}}  {row['parameters'] / 1e6:6.1f} M  {row['gflops']:6.0f}  {at:>9}  {source}".rstrip())
    if any(len(row["published"]) > 1 for row in rows.values()):
        print("`dcn models NAME` shows every published result of a model.")


def _results(published: list[dict[str, str]]) -> str:
    return "; ".join("{metrics} ({data}; {source})".format(**row) for row in published)


def _show(name: str, size: tuple[int, int] | None, as_json: bool) -> None:
    """Costs, counted now, and options of one model."""
    from dcn.analysis import model_costs
    from dcn.models import options_of

    options = options_of(name)
    parameters, count = model_costs(name, size)
    row = describe(name) | {"parameters": parameters, "gflops": round(count.total / 1e9, 2)}
    row["size"] = list(size or row["test_size"])
    row["gflops_by_part"] = {part: round(amount / 1e9, 2) for part, amount in count.by_part.items()}
    if as_json:
        print(json.dumps(row | {"options": options}, indent=2, default=repr))
        return
    parts = ", ".join(f"{part} {amount:g}" for part, amount in row["gflops_by_part"].items())
    print(f"{name}: {parameters:,} parameters" + (f", plug-in {row['plugin']}" if "plugin" in row else ""))
    print("{:g} GFLOPs (10^9 multiply-adds) at {}x{}: {}".format(row["gflops"], *row["size"], parts))
    for one in row["published"]:
        print(f"published: {_results([one])}, recipe {one['recipe']}")
    print("\n".join(f"{option} = {value!r}" for option, value in options.items()))


def _describe_or_warn(name: str) -> dict[str, Any] | None:
    """The row of a model; ``None`` for one of a plug-in that is broken, which is named."""
    from dcn.models.zoo import MODELS

    try:
        return describe(name)
    except Exception as error:
        if MODELS.plugin_of(name) is None:
            raise
        warnings.warn(f"{name}: left out: {type(error).__name__}: {error}", stacklevel=3)
        return None


def describe(name: str) -> dict[str, Any]:
    """``parameters``, ``gflops``, ``test_size``, ``published`` (result, data, source, recipe), ``plugin`` if of one."""
    from dataclasses import asdict

    from dcn.analysis import model_costs
    from dcn.models import MODELS, default_test_size
    from dcn.models.zoo.costs import COSTS
    from dcn.models.zoo.published import PUBLISHED

    if name in COSTS:
        parameters, gflops = COSTS[name]
    else:  # a model that was added to the table
        parameters, count = model_costs(name)
        gflops = round(count.total / 1e9, 1)
    plugin = MODELS.plugin_of(name)
    row = {
        "parameters": parameters,
        "gflops": gflops,
        "test_size": default_test_size(name),
        "published": [asdict(row) for row in PUBLISHED.get(name, ())],
    }
    return row if plugin is None else row | {"plugin": plugin}
