"""How a verb runs a network: precision, compilation, graphs. The same options for every verb that does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, ``--compile`` and ``--cuda-graph``."""
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of weights and maps; boxes and scores are always float32 (default float32)",
    )
    group.add_argument("--compile", action="store_true", help="torch.compile; pays off for many images of few sizes")
    group.add_argument("--cuda-graph", action="store_true", help="on a GPU: record one graph per size and replay it")


def prepared(model: nn.Module, arguments: argparse.Namespace, *, merging: bool = False) -> nn.Module:
    """The network as the options want it, for inference only.

    Args:
        model: with its final weights; it is not changed.
        arguments: with the options of :func:`add_options`.
        merging: whether several passes over an image will be merged, which neither compiling nor graphs are made for.

    Raises:
        ValueError: an option that the call cannot serve.
    """
    from dcn.analysis.memory import keep_freed_memory
    from dcn.models.inference import prepare
    from dcn.models.inference.cuda_graphs import accelerate

    if merging and (arguments.compile or arguments.cuda_graph):
        raise ValueError("--compile, --cuda-graph: are for one pass per image; leave them out with test-time options")
    keep_freed_memory()
    ready = prepare(model, arguments.dtype)
    return accelerate(ready, compiled=arguments.compile, cuda_graph=arguments.cuda_graph)
