"""Which rules an implementation of the operators follows: the same cases on anybody's functions.

``python -m dcn.conformance --implementation torchvision`` prints a table; :mod:`dcn.conformance.rules`,
:mod:`dcn.conformance.torch_rules` and :mod:`dcn.conformance.roi_rules` have the cases.
"""

from __future__ import annotations

from dcn.conformance.implementations import Function, load, offered
from dcn.conformance.matrix import RULES
from dcn.conformance.processes import findings
from dcn.conformance.rules import Finding, Rule, examine

__all__ = ["RULES", "Finding", "Function", "Rule", "examine", "findings", "load", "offered"]
