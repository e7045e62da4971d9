"""mmcv's multi-scale deformable attention: the layer with identity and dropout, and its two functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dcn.compat._layers import Refused
from dcn.compat.ms_deform_attn import MSDeformAttnFunction, attend, ms_deform_attn_core_pytorch
from dcn.nn.ms_deform_attn import locate, ring_bias

MultiScaleDeformableAttnFunction = MSDeformAttnFunction
multi_scale_deformable_attn_pytorch = ms_deform_attn_core_pytorch


class MultiScaleDeformableAttention(nn.Module):
    """``mmcv.ops.MultiScaleDeformableAttention``: adds what came in to what comes out.

    Keys: ``sampling_offsets``, ``attention_weights``, ``value_proj``, ``output_proj``, each ``.weight`` and ``.bias``.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        im2col_step: int = 64,
        dropout: float = 0.1,
        batch_first: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: Any = None,
        value_proj_ratio: float = 1.0,
    ) -> None:
        """Make the layer; ``im2col_step``, ``norm_cfg`` and ``init_cfg`` are kept and have no effect, as in mmcv."""
        super().__init__()
        if embed_dims % num_heads:
            raise Refused(f"embed_dims: expected a multiple of num_heads={num_heads}, got {embed_dims}")
        self.embed_dims, self.num_heads, self.num_levels = embed_dims, num_heads, num_levels
        self.num_points, self.im2col_step, self.batch_first = num_points, im2col_step, batch_first
        self.norm_cfg, self.init_cfg = norm_cfg, init_cfg
        inner = int(embed_dims * value_proj_ratio)
        self.dropout = nn.Dropout(dropout)
        self.sampling_offsets = nn.Linear(embed_dims, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(embed_dims, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(embed_dims, inner)
        self.output_proj = nn.Linear(inner, embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise the projections (Xavier, uniform); offsets start as a ring, weights are equal."""
        with torch.no_grad():
            for layer in (self.sampling_offsets, self.attention_weights):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
            self.sampling_offsets.bias.copy_(ring_bias(self.num_heads, self.num_levels, self.num_points))
            for layer in (self.value_proj, self.output_proj):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        level_start_index: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend, project, drop out and add ``identity``.

        Args:
            query: ``[Q, N, C]``, or ``[N, Q, C]`` with ``batch_first``.
            key: not used, as in mmcv.
            value: ``[S, N, C]`` or ``[N, S, C]``; ``None``: the query.
            identity: like ``query``; ``None``: the query, before the position is added.
            query_pos: like ``query``, added to what offsets and weights are made from.
            key_padding_mask: ``[N, S]``, true for padding.
            reference_points: ``[N, Q, L, 2]`` or ``[N, Q, L, 4]``.
            spatial_shapes: ``[L, 2]``.
            level_start_index: ``[L]``.
            kwargs: not used, as in mmcv.

        Returns:
            Like ``query``.

        Raises:
            ValueError: an argument is missing or does not fit.
        """
        if reference_points is None or spatial_shapes is None:
            raise Refused("reference_points, spatial_shapes: expected tensors, got None; the layer samples around them")
        value, identity = query if value is None else value, query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        batch, queries, _ = query.shape
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        value = value.reshape(batch, value.shape[1], self.num_heads, -1)
        samples = (batch, queries, self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).view(*samples, 2)
        weights = self.attention_weights(query).view(*samples[:3], -1).softmax(-1).view(samples)
        locations = locate(reference_points, offsets, spatial_shapes)
        output = self.output_proj(attend(value, spatial_shapes, level_start_index, locations, weights))
        result: Tensor = self.dropout(output if self.batch_first else output.transpose(0, 1)) + identity
        return result
