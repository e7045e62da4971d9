"""The picture of the small ablation: what deformable gives, with intervals."""

from __future__ import annotations

import math
from os import PathLike

from dcn.reproduce.tables import Claim, Results, effects
from dcn.vis.plots import Interval, interval_panels

TITLES = ("deformable - plain", "deformable - offsets kept at zero", "deformable - one learnt grid")


def effects_figure(results: Results, path: str | PathLike[str] | None = None) -> bytes:
    """Every effect with its 95 % interval over seeds, in percent points; in colour where it is shown.

    Args:
        results: of the ablation.
        path: also write the PNG there.

    Returns:
        The PNG.

    Raises:
        ValueError: no system has been run both plain and deformable.
    """
    groups: dict[str, dict[str, tuple[Interval | None, ...]]] = {}
    for effect in effects(results):
        lines = groups.setdefault(effect.dataset, {})
        claims = (effect.from_plain, effect.from_still, effect.from_fixed)
        lines[f"{effect.system}, {effect.metric}"] = tuple(map(_interval, claims))
    if not groups:
        raise ValueError("--figure: expected rows of plain and deformable, got none")
    return interval_panels(groups, TITLES, path=path)


def _interval(claim: Claim | None) -> Interval | None:
    if claim is None:
        return None
    low, high = claim.seeds.interval or (math.nan, math.nan)
    return Interval(100 * claim.seeds.mean, 100 * low, 100 * high, claim.shown != 0)
