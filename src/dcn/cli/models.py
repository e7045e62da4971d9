"""``dcn models``: the networks, with their sizes."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb ``models``."""
    parser = subparsers.add_parser("models", help="list the networks")
    parser.add_argument("name", nargs="?", help="show the options of this one")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only names that contain this")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.models import MODELS, options_of

    if arguments.name is not None:
        options = options_of(arguments.name)
        lines = [f"{name} = {value!r}" for name, value in options.items()]
        print(json.dumps(options, indent=2) if arguments.json else "\n".join(lines))
        return 0
    names = [name for name in MODELS if arguments.filter in name]
    if not names:
        raise ValueError(f"--filter: no model has {arguments.filter!r} in its name")
    rows = {name: describe(name) for name in names}
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max(map(len, rows))
    for name, row in rows.items():
        figure = "" if row["published"] is None else "  {figure} ({data}; {source})".format(**row["published"])
        print(f"{name:<{width}}  {row['parameters'] / 1e6:6.1f} M parameters{figure}")
    return 0


def describe(name: str) -> dict[str, Any]:
    """``parameters``, ``test_size``, and ``published``: figure, data and source, or ``None`` where there is none."""
    from dataclasses import asdict

    from dcn.models import options_of
    from dcn.models.published import PUBLISHED

    row = PUBLISHED.get(name)
    return {
        "parameters": parameter_count(name),
        "test_size": options_of(name)["test_size"],
        "published": None if row is None else asdict(row),
    }


def parameter_count(name: str) -> int:
    """Parameters of a network with its default number of classes; nothing is allocated."""
    import torch

    from dcn.models import MODELS

    with torch.device("meta"):
        model = MODELS[name]()
    return sum(parameter.numel() for parameter in model.parameters())
