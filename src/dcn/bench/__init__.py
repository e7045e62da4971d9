"""How fast a model is, and which of its parts take the time; behind ``dcn bench``."""

from __future__ import annotations
