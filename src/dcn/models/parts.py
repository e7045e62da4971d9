"""The parts of a model whose times are reported separately."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class ModelPart(NamedTuple):
    """A method of a module of the model.

    Attributes:
        label: what the time is reported under: ``input``, ``backbone``, ``neck``, ``proposals``, ``heads``, ...
        module: of the model.
        method: its name; ``"forward"`` for a call of the module.
    """

    label: str
    module: nn.Module
    method: str = "forward"
