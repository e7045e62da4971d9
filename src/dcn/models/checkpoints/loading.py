"""A state dict into a module: all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def _nothing_optional(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _unusual(value: Tensor) -> str | None:
    """What keeps a tensor from being copied as numbers."""
    if value.is_meta:
        return "without values"
    if value.layout != torch.strided:
        return "sparse"
    if value.is_quantized:
        return "quantized"
    if value.is_complex():
        return "complex"
    return "NaN or infinite" if value.is_floating_point() and not bool(torch.isfinite(value).all()) else None


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    optional: Callable[[str], bool] = _nothing_optional,
) -> list[str]:
    """Copies ``state`` into ``module`` if every name and shape fits.

    Args:
        module: receives the values.
        state: values by name.
        source: the file's name, for the message.
        optional: whether a parameter of this name may be missing from ``state``; it then keeps its value. Batch
            norm's counters may always be missing.

    Returns:
        Names that kept their values, counters excepted.

    Raises:
        ValueError: names every missing, unexpected, misshapen and unusual entry (sparse, quantized, complex, without
            values, NaN or infinite); ``module`` is then unchanged.
    """
    own = module.state_dict()
    kept = [name for name in own if name not in state and not _nothing_optional(name)]
    problems = [f"missing: {name} {list(own[name].shape)}" for name in kept if not optional(name)]
    problems += [f"unexpected: {name} {list(value.shape)}" for name, value in state.items() if name not in own]
    problems += [
        f"misshapen: {name}: expected {list(own[name].shape)}, got {list(value.shape)}"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    problems += [f"{unusual}: {name}" for name, value in state.items() if (unusual := _unusual(value))]
    if problems:
        raise ValueError(
            f"{source}: expected the tensors of the model, got {len(problems)} differences; nothing was loaded:\n  "
            + "\n  ".join(problems)
        )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    return kept
