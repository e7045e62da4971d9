"""Which rules an implementation of ``deform_conv2d`` follows: the same cases on anybody's function.

``python -m dcn.conformance --implementation torchvision`` prints a table; :mod:`dcn.conformance.rules` has the cases.
"""

from __future__ import annotations

from dcn.conformance.implementations import Function, load
from dcn.conformance.processes import findings
from dcn.conformance.rules import RULES, Finding, Rule, examine

__all__ = ["RULES", "Finding", "Function", "Rule", "examine", "findings", "load"]
