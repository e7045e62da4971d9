"""Keys of recipes that were written before test-time options had a section of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EVALUATION = ("compare_at", "absent")
MOVED = {"testing": "tta", "segment": "tta or eval"}
"""Old key -> where its values are now."""


def current_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's data with ``eval.testing`` and ``segment`` under their present names, ``tta`` and ``eval``.

    A recipe of a run folder holds both old sections in full; only one of them was used, by its metric. That one is
    taken.
    """
    evaluation = data.get("eval")
    evaluation = dict(evaluation) if isinstance(evaluation, Mapping) else {}
    testing, segment = evaluation.pop("testing", None), data.get("segment")
    if not isinstance(testing, Mapping) and not isinstance(segment, Mapping):
        return dict(data)
    segment = segment if isinstance(segment, Mapping) else {}
    evaluation |= {key: segment[key] for key in _EVALUATION if key in segment}
    views = {key: value for key, value in segment.items() if key not in _EVALUATION}
    if views.get("scales") in ([1.0], [1]):
        views["scales"] = []
    if testing:
        views = views if evaluation.get("metric") == "miou" else dict(testing)
    rest = {key: value for key, value in data.items() if key not in ("segment", "eval")}
    own = data.get("tta", {})
    return {**rest, "eval": evaluation, "tta": {**views, **own} if isinstance(own, Mapping) else own}
