"""The whole system from end to end in minutes, on generated data, into one page; behind ``dcn demo``."""

from __future__ import annotations
