"""Multi-scale deformable attention in Hugging Face transformers by this package's operator.

    import dcn.compat.transformers
    dcn.compat.transformers.install()

After that every model of :data:`CLASSES` and :data:`FUNCTIONS` computes its attention here, on the CPU and on GPUs,
forward and backward: those that are imported already, those that come, and instances that exist. Results stay the same
up to rounding. A model that transformers gives a kernel of its hub (``use_kernels=True``) keeps that kernel.

Programs that use transformers' own mechanism can name this package's layer there instead::

    kernels.register_kernel_mapping(dcn.compat.transformers.kernel_mapping())

Transformers and ``kernels`` are imported by nobody here; written for transformers 5.24 and kernels 0.17.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dcn.compat.ms_deform_attn import attend
from dcn.ops.ms_deform_attn import Shapes

__all__ = [
    "CLASSES",
    "FUNCTIONS",
    "MultiScaleDeformableAttention",
    "install",
    "kernel_mapping",
    "multi_scale_deformable_attention",
    "multi_scale_deformable_attention_v2",
    "uninstall",
]


class MultiScaleDeformableAttention(nn.Module):
    """transformers' layer of that name, which samples and has no parameters, as its kernel hub wants one."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """``[N, Q, M*D]``; ``im2col_step`` has no effect.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        return attend(value, value_spatial_shapes, level_start_index, sampling_locations, attention_weights)


def multi_scale_deformable_attention(
    value: Tensor, value_spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The function of that name in Mask2Former and OneFormer: ``[N, Q, M*D]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    return attend(value, value_spatial_shapes, None, sampling_locations, attention_weights)


def multi_scale_deformable_attention_v2(
    value: Tensor,
    value_spatial_shapes: Shapes,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    num_points_list: Sequence[int],
    method: str = "default",
) -> Tensor:
    """The function of that name in RT-DETRv2 and D-FINE: levels with numbers of points of their own.

    Args:
        value: ``[N, S, M, D]``.
        value_spatial_shapes: ``[L, 2]`` or pairs, height and width.
        sampling_locations: ``[N, Q, M, sum of P, 2]``, the points of one level after those of another.
        attention_weights: ``[N, Q, M, sum of P]``.
        num_points_list: points per level.
        method: ``"default"``, bilinear, or ``"discrete"``, the pixel that the location lies in, held on the map.

    Returns:
        ``[N, Q, M*D]``.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    if method not in ("default", "discrete"):
        raise ValueError(f"method: expected 'default' or 'discrete', got {method!r}")
    if method == "discrete":
        sampling_locations = _pixel_centres(sampling_locations, value_spatial_shapes, num_points_list)
    most, counts = max(num_points_list), list(num_points_list)
    levels = []
    for locations, weights in zip(sampling_locations.split(counts, 3), attention_weights.split(counts, 3), strict=True):
        missing = most - weights.shape[3]
        # Points that a level lacks lie outside of every map.
        padded = nn.functional.pad(locations, (0, 0, 0, missing), value=-9.0)
        levels.append((padded, nn.functional.pad(weights, (0, missing))))
    locations, weights = (torch.stack(parts, 3) for parts in zip(*levels, strict=True))
    return attend(value, value_spatial_shapes, None, locations, weights)


def _pixel_centres(locations: Tensor, shapes: Shapes, counts: Sequence[int]) -> Tensor:
    """The centre of the pixel that each location is counted to; no gradient goes back through it."""
    sizes = torch.as_tensor(shapes, device=locations.device).flip(1)  # width, height
    size = sizes.repeat_interleave(torch.as_tensor(counts, device=locations.device), 0)
    pixel = (locations.detach() * size + 0.5).long().clamp(min=0).minimum(size - 1)
    return (pixel.to(locations.dtype) + 0.5) / size


_CLASS, _FUNCTION, _RAGGED = (
    "MultiScaleDeformableAttention",
    "multi_scale_deformable_attention",
    "multi_scale_deformable_attention_v2",
)
CLASSES = (
    *("deformable_detr", "grounding_dino", "lw_detr", "mm_grounding_dino", "omdet_turbo"),
    *("pp_doclayout_v2", "pp_doclayout_v3", "pp_doclayout_v4", "rf_detr", "rt_detr"),
)
"""Models whose attention is a layer of that name."""
FUNCTIONS = {
    **dict.fromkeys(("mask2former", "oneformer"), _FUNCTION),
    **dict.fromkeys(("d_fine", "deimv2", "rt_detr_v2"), _RAGGED),
}
"""Models whose attention is a function of their module, and its name."""


def _module_name(model: str) -> str:
    return f"transformers.models.{model}.modeling_{model}"


_TARGETS = {_module_name(model): _CLASS for model in CLASSES} | {
    _module_name(model): name for model, name in FUNCTIONS.items()
}
_REPLACED: dict[str, Callable[..., Any]] = {}
"""What was there, by the name of the module."""


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _exchange(module: ModuleType) -> bool:
    """Put this package's attention into a module; whether it was done. A stranger is left alone, with a warning."""
    name = _TARGETS[module.__name__]
    if module.__name__ in _REPLACED:
        return True
    current = getattr(module, name, None)
    original = getattr(current, "forward", None) if name == _CLASS else current
    ours = MultiScaleDeformableAttention.forward if name == _CLASS else globals()[name]
    if original is None or _parameters(original) != _parameters(ours):
        warnings.warn(
            f"{module.__name__}.{name} is not as in transformers 5.24 and was left as it is; its attention runs in "
            "transformers' own code",
            stacklevel=3,
        )
        return False
    if name == _CLASS:
        current.forward = ours  # type: ignore[union-attr]
    else:
        setattr(module, name, ours)
    _REPLACED[module.__name__] = original
    return True


class _Watcher(MetaPathFinder):
    """Sees the models' modules being imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Nothing for other modules; for a model's, a loader that then calls :func:`_exchange`."""
        if fullname not in _TARGETS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if _WATCHER in sys.meta_path:
                _exchange(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_WATCHER = _Watcher()


def install() -> tuple[str, ...]:
    """Let transformers' models compute multi-scale deformable attention here, now and when they are imported later.

    Returns:
        Names of the models that were imported already and compute here now.
    """
    if _WATCHER not in sys.meta_path:
        sys.meta_path.insert(0, _WATCHER)
    loaded = [sys.modules[name] for name in _TARGETS if name in sys.modules]
    return tuple(module.__name__.split(".")[2] for module in loaded if _exchange(module))


def uninstall() -> None:
    """Undo :func:`install`."""
    if _WATCHER in sys.meta_path:
        sys.meta_path.remove(_WATCHER)
    for module_name, original in _REPLACED.items():
        module, name = sys.modules[module_name], _TARGETS[module_name]
        if name == _CLASS:
            getattr(module, name).forward = original
        else:
            setattr(module, name, original)
    _REPLACED.clear()


class _Repository:
    """What ``kernels`` asks for a layer; ours needs no download."""

    layer_name = _CLASS

    def load(self) -> type[nn.Module]:
        """The layer."""
        return MultiScaleDeformableAttention


_REPOSITORY = _Repository()


def kernel_mapping() -> dict[str, dict[str, Any]]:
    """The layer as ``kernels.register_kernel_mapping`` and ``kernels.use_kernel_mapping`` take it, CPU and CUDA."""
    return {_CLASS: {"cpu": _REPOSITORY, "cuda": _REPOSITORY}}
