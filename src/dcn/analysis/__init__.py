"""What networks cost, and what their deformable layers look at."""

from __future__ import annotations

from dcn.analysis.complexity import Count, count_multiply_adds, count_parameters

__all__ = ["Count", "count_multiply_adds", "count_parameters"]
