"""All questions in the order of the table."""

from __future__ import annotations

from dcn.conformance import dcnv3_rules, roi_rules, rules, torch_rules

RULES = (*rules.RULES, *torch_rules.RULES, *roi_rules.RULES, *dcnv3_rules.RULES)
