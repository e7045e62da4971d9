"""Multi-scale deformable attention with its projections (Zhu et al., "Deformable DETR", section 4.1).

Keys and start values are those of the original ``MSDeformAttn``: ``sampling_offsets``, ``attention_weights``,
``value_proj`` and ``output_proj``, each with ``weight`` and ``bias``. The building blocks are functions, so that layers
with other arguments (mmcv's, in :mod:`dcn.compat.mmcv`) share them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcn import checks
from dcn.nn.tracing import is_traced, recorded
from dcn.ops import ms_deform_attn
from dcn.ops._backends import check_name
from dcn.ops.ms_deform_attn import BACKENDS


def ring_bias(heads: int, levels: int, points: int) -> Tensor:
    """The start value of the offsets' bias, ``[heads * levels * points * 2]``: every head looks its own way.

    Head ``m`` looks along the angle ``2 * pi * m / heads``, on the unit square instead of the circle; its point ``p``
    lies ``p + 1`` pixels away.
    """
    angles = torch.arange(heads, dtype=torch.float32) * (2.0 * math.pi / heads)
    directions = torch.stack((angles.cos(), angles.sin()), -1)
    directions = directions / directions.abs().max(-1, keepdim=True).values
    steps = torch.arange(1, points + 1, dtype=torch.float32)
    ring = directions.view(heads, 1, 1, 2) * steps.view(1, 1, points, 1)
    return ring.expand(heads, levels, points, 2).flatten()


def locate(reference_points: Tensor, offsets: Tensor, spatial_shapes: Tensor) -> Tensor:
    """Sampling locations ``[N, Q, M, L, P, 2]`` from offsets of that shape.

    Args:
        reference_points: ``[N, Q, L, 2]`` (x, y as shares of the map; the offsets are pixels of their level), or
            ``[N, Q, L, 4]`` (centre, width and height of a box; ``P`` offsets of 1 reach from its centre to its edge).
        offsets: x, then y.
        spatial_shapes: ``[L, 2]``, height and width.

    Returns:
        In the type of ``offsets``; float32 where that is a half-precision type, in which a location on a level of 100
        pixels would move by up to 1/40 of a pixel.

    Raises:
        ValueError: ``reference_points`` has neither 2 nor 4 numbers.
    """
    if offsets.dtype in checks.HALVES:
        offsets = offsets.float()
    checks.ndim("reference_points", reference_points, 4, "[N, Q, L, 2 or 4]")
    points = reference_points.to(offsets.dtype)[:, :, None, :, None]  # [N, Q, 1, L, 1, 2 or 4]
    if points.shape[-1] == 2:
        sizes = spatial_shapes.flip(1).to(offsets.dtype)
        return points + offsets / sizes[:, None]
    if points.shape[-1] == 4:
        return points[..., :2] + offsets / offsets.shape[4] * points[..., 2:] * 0.5
    raise ValueError(
        f"reference_points: expected [N, Q, L, 2] (x, y) or [N, Q, L, 4] (cx, cy, w, h), got shape "
        f"{list(reference_points.shape)}"
    )


class MultiScaleDeformableAttention(nn.Module):
    """Attention of queries to some sampled locations of maps of several scales; ``MSDeformAttn`` of Deformable DETR.

    Example:
        >>> layer = MultiScaleDeformableAttention(d_model=64, n_levels=2)
        >>> shapes = [(6, 8), (3, 4)]
        >>> queries, maps = torch.rand(1, 10, 64), torch.rand(1, 60, 64)
        >>> layer(queries, torch.rand(1, 10, 2, 2), maps, shapes).shape
        torch.Size([1, 10, 64])

    Attributes:
        sampling_offsets: ``Linear(d_model, heads * levels * points * 2)``.
        attention_weights: ``Linear(d_model, heads * levels * points)``.
        value_proj: ``Linear(d_model, d_model)``.
        output_proj: ``Linear(d_model, d_model)``.
    """

    def __init__(
        self, d_model: int = 256, n_levels: int = 4, n_heads: int = 8, n_points: int = 4, *, backend: str | None = None
    ) -> None:
        """Make the layer.

        Args:
            d_model: channels of queries, maps and output; a multiple of ``n_heads``.
            n_levels: maps.
            n_heads: heads.
            n_points: samples per head and level.
            backend: ``None`` chooses, ``"triton"``, ``"cpu"`` or ``"reference"``.

        Raises:
            ValueError: a number is not positive, or ``d_model`` is no multiple of ``n_heads``.
        """
        super().__init__()
        sizes = (("d_model", d_model), ("n_levels", n_levels), ("n_heads", n_heads), ("n_points", n_points))
        for name, value in sizes:
            checks.whole(name, value, 1)
        if d_model % n_heads:
            raise ValueError(f"d_model: expected a multiple of the {n_heads} heads, got {d_model}; change one of them")
        check_name(BACKENDS, backend)
        self.d_model, self.n_levels, self.n_heads, self.n_points = d_model, n_levels, n_heads, n_points
        self.backend = backend
        samples = n_heads * n_levels * n_points
        self.sampling_offsets = nn.Linear(d_model, samples * 2)
        self.attention_weights = nn.Linear(d_model, samples)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the projections (Xavier, uniform); offsets start as a ring around the query, weights are equal."""
        with torch.no_grad():
            for layer in (self.sampling_offsets, self.attention_weights):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
            self.sampling_offsets.bias.copy_(ring_bias(self.n_heads, self.n_levels, self.n_points))
            for layer in (self.value_proj, self.output_proj):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        input_flatten: Tensor,
        input_spatial_shapes: Tensor | Sequence[Sequence[int]],
        input_level_start_index: Tensor | None = None,
        input_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: ``[N, Q, C]``.
            reference_points: ``[N, Q, L, 2]`` or ``[N, Q, L, 4]``, see :func:`locate`.
            input_flatten: ``[N, S, C]``, the pixels of all levels.
            input_spatial_shapes: ``[L, 2]`` integers, height and width, or a list of such pairs.
            input_level_start_index: ``[L]``, where each level begins; ``None``: one after the other.
            input_padding_mask: ``[N, S]``, true for padding, which counts as 0.

        Returns:
            ``[N, Q, C]``.

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        if is_traced(self, query):
            places = (reference_points, input_flatten, input_spatial_shapes, input_level_start_index)
            return recorded(self, query, *places, input_padding_mask)
        shapes = torch.as_tensor(input_spatial_shapes, device=input_flatten.device)
        self._check(query, reference_points, input_flatten, shapes)
        batch, queries, _ = query.shape
        value = self.value_proj(input_flatten)
        if input_padding_mask is not None:
            checks.shape("input_padding_mask", input_padding_mask, input_flatten.shape[:2], "batch and pixels")
            if input_padding_mask.dtype != torch.bool:
                got = input_padding_mask.dtype
                raise ValueError(
                    f"input_padding_mask: expected torch.bool, true for padding, got {got}; compare with 0"
                )
            value = value.masked_fill(input_padding_mask[..., None], 0.0)
        value = value.unflatten(2, (self.n_heads, self.d_model // self.n_heads))
        samples = (batch, queries, self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query).view(*samples, 2)
        weights = (
            self.attention_weights(query).view(*samples[:3], self.n_levels * self.n_points).softmax(-1).view(samples)
        )
        locations = locate(reference_points, offsets, shapes)
        output = ms_deform_attn(
            value, shapes, input_level_start_index, locations, weights.to(value.dtype), backend=self.backend
        )
        result: Tensor = self.output_proj(output)
        return result

    def _check(self, query: Tensor, reference_points: Tensor, input_flatten: Tensor, shapes: Tensor) -> None:
        """Refuse what does not fit together, by the names of the layer's own arguments."""
        _check_layer_input("query", query, self.d_model)
        _check_layer_input("input_flatten", input_flatten, self.d_model)
        batch, queries, _ = query.shape
        if input_flatten.shape[0] != batch:
            raise ValueError(
                f"input_flatten: expected the {batch} images of query [N, Q, C], got shape "
                f"{list(input_flatten.shape)}; the batch comes first in both"
            )
        checks.ndim("reference_points", reference_points, 4, "[N, Q, L, 2 or 4]")
        expected = (batch, queries, self.n_levels)
        if any(got not in (1, want) for got, want in zip(reference_points.shape, expected, strict=False)):
            raise ValueError(
                f"reference_points: expected shape {[*expected, '2 or 4']} (batch and queries of query, n_levels; each "
                f"may be 1 for all), got {list(reference_points.shape)}"
            )
        checks.shape("input_spatial_shapes", shapes, (self.n_levels, 2), "n_levels, then height and width")
        traced = torch.compiler.is_compiling() or type(shapes) is not Tensor
        if shapes.device.type == "cpu" and not traced:
            # As the original's assertion; on a GPU it would wait for the device.
            pixels = sum(height * width for height, width in shapes.tolist())
            if pixels != input_flatten.shape[1]:
                raise ValueError(
                    f"input_flatten: expected the {pixels} pixels of input_spatial_shapes {shapes.tolist()}, got "
                    f"{input_flatten.shape[1]}"
                )

    def extra_repr(self) -> str:
        """The arguments, for ``print``."""
        return f"d_model={self.d_model}, n_levels={self.n_levels}, n_heads={self.n_heads}, n_points={self.n_points}"


def _check_layer_input(name: str, value: Tensor, channels: int) -> None:
    checks.ndim(name, value, 3, "[N, Q or S, C]")
    if value.shape[2] != channels:
        raise ValueError(f"{name}: expected {channels} channels, got shape {list(value.shape)}")
