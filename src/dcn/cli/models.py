"""``dcn models``: the networks, with their sizes."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the verb ``models``."""
    parser = subparsers.add_parser("models", help="list the networks")
    parser.add_argument("name", nargs="?", help="show the options of this one")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.models import MODELS, options_of

    if arguments.name is not None:
        options = options_of(arguments.name)
        lines = [f"{name} = {value!r}" for name, value in options.items()]
        print(json.dumps(options, indent=2) if arguments.json else "\n".join(lines))
        return 0
    counts = {name: parameter_count(name) for name in MODELS}
    if arguments.json:
        print(json.dumps(counts, indent=2))
        return 0
    width = max(map(len, counts))
    print("\n".join(f"{name:<{width}}  {count / 1e6:6.1f} M parameters" for name, count in counts.items()))
    return 0


def parameter_count(name: str) -> int:
    """Parameters of a network with its default number of classes; nothing is allocated."""
    import torch

    from dcn.models import MODELS

    with torch.device("meta"):
        model = MODELS[name]()
    return sum(parameter.numel() for parameter in model.parameters())
