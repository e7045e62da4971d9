"""What models cost, and what their deformable layers look at."""

from __future__ import annotations

from dcn.analysis.complexity import Count, count_model, count_multiply_adds, count_parameters, model_costs
from dcn.analysis.effective_dilation import (
    LayerDilation,
    Spread,
    categories_of,
    dilation_statistics,
    effective_dilation,
)
from dcn.analysis.receptive_field import LayerFields, field_size, field_statistics, receptive_field

__all__ = [
    "Count",
    "LayerDilation",
    "LayerFields",
    "Spread",
    "categories_of",
    "count_model",
    "count_multiply_adds",
    "count_parameters",
    "dilation_statistics",
    "effective_dilation",
    "field_size",
    "field_statistics",
    "model_costs",
    "receptive_field",
]
