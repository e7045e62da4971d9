"""Pages: one self-contained HTML file each, which opens without a network or a server."""

from __future__ import annotations

from dcn.report.explorer import Observation, explorer_page, observe, write_explorer

__all__ = ["Observation", "explorer_page", "observe", "write_explorer"]
