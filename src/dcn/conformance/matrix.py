"""All questions in the order of the table."""

from __future__ import annotations

from dcn.conformance import attention_rules, dcnv3_rules, roi_rules, rules, torch_rules, transpose_rules

RULES = (
    *rules.RULES,
    *torch_rules.RULES,
    *roi_rules.RULES,
    *transpose_rules.RULES,
    *attention_rules.RULES,
    *dcnv3_rules.RULES,
)
