"""``dcn demo``: the whole system from end to end in minutes; and pictures of what models find and where they look."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dcn.cli.words import add_device, examples, split_words

_EXAMPLES = """\
examples:
  dcn demo                                    # train and compare two detectors, write one page
  dcn demo detection                          # pictures of the model that comes with the package
  dcn demo detection runs/bccd_deformable/0 photos/
  dcn demo segmentation runs/camvid_deformable/0 street.png -o pictures
  dcn demo offsets runs/bccd_deformable/0 cell.jpg --at 120,80 --at 300,200
  dcn demo roi-parts
"""
_ABOUT = {
    "detection": "draw the objects of images",
    "segmentation": "draw the classes of the pixels of images",
    "offsets": "draw the sampling points of units on background, on small and on large objects (figure 6 of the paper)",
    "roi-parts": "draw the parts of regions where deformable RoI pooling moves them (figure 7 of the paper)",
}


def add_parser(subparsers: Any) -> None:
    """Add the verb ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="train, evaluate and draw a small detector in minutes; draw what models see",
        description="Without WHAT: generate data, train a plain and a deformable detector with identical settings, "
        "evaluate both on held-out images, and write one page with metrics and pictures.",
        **examples(_EXAMPLES),
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/demo"), help="folder (default runs/demo)")
    parser.add_argument("--quick", action="store_true", help="takes a minute: every step runs, little is learnt")
    parser.add_argument("--seed", type=int, default=0, help="of new weights and of the order of images (default 0)")
    add_device(parser)
    parser.set_defaults(run=_run)
    kinds = parser.add_subparsers(dest="what", metavar="WHAT")
    for name, about in _ABOUT.items():
        _add_show(kinds, name, about)


def _add_show(kinds: Any, name: str, about: str) -> None:
    parser = kinds.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="MODEL IMAGES key=value",
        help="a run folder, weights or the name of a model (default: one that comes with the package); image files, "
        "folders or patterns (default: generated images); changes of tta.* and of the image size",
    )
    parser.add_argument("-o", "--output", type=Path, help=f"folder (default demos/{name})")
    if name != "segmentation":
        parser.add_argument("--score", type=float, default=0.5, help="score threshold (default 0.5)")
    if name == "offsets":
        parser.add_argument(
            "--at", action="append", type=_point, metavar="X,Y", help="show the unit at this pixel; may be repeated"
        )
        parser.add_argument("--layer", help="name of the layer whose units are shown")
    add_device(parser)
    parser.set_defaults(run=_show)


def _point(text: str) -> tuple[float, float]:
    x, comma, y = text.partition(",")
    try:
        return float(x), float(y if comma else "")
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected two numbers such as 120,80, got {text!r}") from None


def _show(arguments: argparse.Namespace) -> int:
    from dcn.demo.showcase import Settings, show
    from dcn.runs.sources import names_a_model

    words, changes = split_words(arguments.words)
    source = words.pop(0) if words and names_a_model(words[0]) else None
    settings = Settings(
        min_score=getattr(arguments, "score", 0.0),
        points=getattr(arguments, "at", None),
        layer=getattr(arguments, "layer", None),
    )
    written = show(
        arguments.what,
        source,
        words,
        arguments.output,
        settings=settings,
        device=arguments.device,
        changes=changes,
    )
    for path in written:
        print(path)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from dcn.demo.job import run_demo
    from dcn.demo.plan import FULL, QUICK
    from dcn.engine.distributed import World, choose_device

    plan = QUICK if arguments.quick else FULL
    lines = run_demo(arguments.output, plan, World(choose_device(arguments.device)), arguments.seed)
    if lines is None:
        print(f"interrupted; `dcn demo --output {arguments.output}` starts again")
        return 130
    print("\n".join(lines))
    return 0
