"""What joins the maps of a backbone before the heads."""

from __future__ import annotations

from dcn.models.necks.fpn import FPN

__all__ = ["FPN"]
