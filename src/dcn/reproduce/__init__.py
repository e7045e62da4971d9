"""The papers' tables, trained again: at full size where data and GPUs are there, and in miniature on a CPU."""

from __future__ import annotations
