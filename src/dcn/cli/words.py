"""What several verbs share: ``key=value`` words, and the options that say how a model is run."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from dcn.formats.color_tables import UNKNOWN
from dcn.formats.problems import OUTSIDE

_CHANGE = re.compile(r"[A-Za-z_]\w*(\.[^=/\\]+)*=")


def is_change(word: str) -> bool:
    """Whether a word changes a recipe: ``key=value`` or ``section.key=value``; a path with ``=`` has a separator."""
    return _CHANGE.match(word) is not None


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names and changes of a recipe, both in their order."""
    return [word for word in words if not is_change(word)], [word for word in words if is_change(word)]


def one_source(words: Sequence[str]) -> tuple[str, list[str]]:
    """The one run folder or weights file of a command line, and the changes.

    Raises:
        ValueError: none, or several.
    """
    names, changes = split_words(words)
    if len(names) != 1:
        raise ValueError(f"source: expected one run folder or weights file, got {' '.join(names) or 'none'}")
    return names[0], changes


def names_of(text: str | None) -> list[str] | None:
    """Class names that are separated by commas."""
    return None if text is None else [name.strip() for name in text.split(",")]


def add_device(parser: argparse.ArgumentParser) -> argparse.Action:
    """Add ``--device``."""
    return parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")


def add_outside(parser: argparse._ActionsContainer) -> argparse.Action:
    """Add ``--outside``."""
    says = "annotated boxes that reach outside of their image: refuse them, or clip them to it (default refuse)"
    return parser.add_argument("--outside", choices=OUTSIDE, default="refuse", help=says)


def add_colors(parser: argparse._ActionsContainer) -> list[argparse.Action]:
    """Add ``--colors`` and ``--unknown-colors``."""
    colors = parser.add_argument("--colors", help="masks in colours: a file with a line 'r g b name' for each colour")
    says = "a colour that the table does not have: refuse it, ignore its pixels, or take the nearest (default refuse)"
    return [colors, parser.add_argument("--unknown-colors", choices=UNKNOWN, default="refuse", help=says)]


def colors_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_colors` gave, as options of a data set; empty where nothing was given."""
    given = {"colors": arguments.colors, "unknown_colors": arguments.unknown_colors}
    return {name: value for name, value in given.items() if value not in (None, "refuse")}


def add_split(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--split``."""
    says = "train, val or test of the recipe, or the data's own name of a split"
    parser.add_argument("--split", default=default, help=f"{says} (default {default})")


def add_file_options(group: argparse._ActionsContainer, boxes_only: bool = False) -> list[argparse.Action]:
    """Add what says how result files are read: ``--annotations``, ``--iou-type``, ``--classes``, ``--outside``."""
    folders = "COCO annotation JSON, or folder of annotations in any layout"
    return [
        group.add_argument("--annotations", help=folders if boxes_only else f"{folders}, or of index PNGs"),
        group.add_argument("--iou-type", choices=("bbox", "segm"), default="bbox", help="COCO: boxes or masks"),
        group.add_argument("--classes", help="class names in order, separated by commas"),
        add_outside(group),
    ]


def refuse_given(arguments: argparse.Namespace, options: Sequence[argparse.Action], expected: str) -> None:
    """Refuse options that the rest of the command line has no use for.

    Args:
        arguments: the parsed command line.
        options: what is refused where it differs from its default.
        expected: the end of the message: what they go with, and what came.
    """
    given = [one.option_strings[-1] for one in options if getattr(arguments, one.dest) != one.default]
    if given:
        raise ValueError(f"{', '.join(given)}: expected {expected}")


def add_speed_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Add ``--precision``, ``--compile`` and ``--cuda-graph``."""
    group = parser.add_argument_group("speed")
    precision = group.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="type of weights and feature maps; boxes and scores are always float32 (default float32)",
    )
    compiled = group.add_argument(
        "--compile", action="store_true", help="use torch.compile; pays off for many images of few sizes"
    )
    graphs = "on a GPU: record one graph per size and replay it"
    return [precision, compiled, group.add_argument("--cuda-graph", action="store_true", help=graphs)]


def speed_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of :func:`add_speed_options` for :func:`dcn.load` and :func:`dcn.evaluate`."""
    return {
        "precision": arguments.precision,
        "compile": arguments.compile,
        "cuda_graph": arguments.cuda_graph,
    }


def examples(text: str) -> dict[str, Any]:
    """Arguments of a parser whose help ends with examples."""
    return {"epilog": text, "formatter_class": argparse.RawDescriptionHelpFormatter}
