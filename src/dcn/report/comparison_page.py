"""The page of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dcn.report.comparison import Comparison, Difference, SeedDifference
from dcn.report.page import Bar, Page, Picture
from dcn.vis.plots import intervals

MOST_CHANGED = 12
MOST_PICTURES = 4
"""Images that changed most and are drawn."""


@dataclass(frozen=True)
class Pair:
    """Two runs and their difference.

    Attributes:
        first: name of the first run.
        second: name of the second run.
        comparison: of the two.
        pictures: of images that changed most: a line about it; annotation, first and second prediction.
    """

    first: str
    second: str
    comparison: Comparison
    pictures: Sequence[tuple[str, tuple[Picture, Picture, Picture]]] = ()


def comparison_page(pairs: Sequence[Pair], seeds: Mapping[str, SeedDifference], facts: Mapping[str, object]) -> Page:
    """The page.

    Args:
        pairs: runs that were compared.
        seeds: differences over seeds by metric, where there are several.
        facts: name -> value, for the end of the page.
    """
    page = Page("Comparison of runs", "Differences with 95 % intervals over images.")
    if seeds:
        _add_seeds(page, seeds)
    for pair in pairs:
        _add_pair(page, pair)
    return page.section("Origin").facts(facts)


def _add_seeds(page: Page, seeds: Mapping[str, SeedDifference]) -> None:
    rows: list[list[object]] = []
    for name, one in seeds.items():
        low, high = one.interval or (math.nan, math.nan)
        mean = sum(one.first) / len(one.first), sum(one.second) / len(one.second)
        rows.append([name, *mean, one.mean, low, high, *one.spread, "yes" if low > 0 or high < 0 else "no"])
    header = ["metric", "first", "second", "difference", "low", "high", "spread first", "spread second", "shown"]
    count = len(next(iter(seeds.values())).first)
    page.section(f"Over {count} seeds").text(
        "The interval is Student's, of the mean of the paired differences. It holds the chance of training; the "
        "intervals below hold the chance of the images. A difference is shown if its interval excludes zero."
    )
    page.table(header, rows, "Means over the seeds; spread is the standard deviation between seeds.")


def _add_pair(page: Page, pair: Pair) -> None:
    comparison, first, second = pair.comparison, pair.first, pair.second
    page.section(f"{first} and {second}").text(_verdict(pair))
    page.image(
        intervals({name: (one.value, one.low, one.high) for name, one in comparison.metrics.items()}),
        "; ".join(
            f"{name}: {one.value:+.3f}, from {one.low:+.3f} to {one.high:+.3f}"
            for name, one in comparison.metrics.items()
        ),
        f"{second} minus {first}, with 95 % intervals over images. An interval that does not touch the line at zero "
        "shows a difference.",
    )
    rows: list[list[object]] = [
        [name, one.first, one.second, one.value, one.low, one.high, one.width, "yes" if one.shown else "no"]
        for name, one in comparison.metrics.items()
    ]
    header = ["metric", first, second, "difference", "low", "high", "width", "shown"]
    page.table(header, rows, f"Bootstrap over {comparison.images} images, 95 % intervals.")
    classes = sorted(comparison.per_class.items(), key=lambda row: row[1][0] - row[1][1])
    page.table(
        ["class", first, second, "difference"],
        [[name, Bar(a), Bar(b), b - a] for name, (a, b) in classes],
        "By class, the largest gain first.",
    )
    changed = [[str(name), a, b, b - a] for name, a, b in comparison.changed[:MOST_CHANGED] if a != b]
    if changed:
        page.table(["image", first, second, "difference"], changed, "Images that changed most.")
    page.side_by_side(pair.pictures, ("annotated", first, second))


def _verdict(pair: Pair) -> str:
    name, one = next(iter(pair.comparison.metrics.items()))
    return f"{name}: {_in_words(one, pair)}"


def _in_words(one: Difference, pair: Pair) -> str:
    if not one.shown:
        return (
            f"no difference is shown. {pair.second} is at {one.value:+.3f}, and the interval from {one.low:+.3f} to "
            f"{one.high:+.3f} holds zero."
        )
    better = pair.second if one.value > 0 else pair.first
    interval = f"95 % interval of the difference {one.low:+.3f} to {one.high:+.3f}"
    return f"{better} is better by {abs(one.value):.3f} ({interval})."
