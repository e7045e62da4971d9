"""``dcn compare``: runs side by side on the same images, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os import fspath
from pathlib import Path
from typing import Any

from torch import Tensor

from dcn.checks import whole
from dcn.engine.config import Recipe
from dcn.engine.folder import versions
from dcn.engine.log import shell_command
from dcn.report.comparison import (
    RESAMPLES,
    Comparison,
    SeedDifference,
    compare_detections,
    compare_segmentations,
)
from dcn.report.comparison_page import MOST_PICTURES, Pair, comparison_page
from dcn.runs.opening import Opened, image_names, open_run_data
from dcn.runs.outputs import page_path
from dcn.runs.predictor import Predictor
from dcn.runs.report import CollectedConfusions, CollectedDetections, collect, draw_example, shown_values
from dcn.runs.sources import StrPath

Results = CollectedDetections | CollectedConfusions

PAGE_FILE = "comparison.html"
"""The page in a folder."""


@dataclass(frozen=True)
class RunComparison:
    """The result of :func:`compare`.

    Attributes:
        pairs: every other run beside the first one, or the pairs of seeds.
        seeds: by metric, where several seeds of two recipes were given; empty otherwise.
        page: the page, where one was written.
    """

    pairs: tuple[Pair, ...]
    seeds: dict[str, SeedDifference]
    page: Path | None

    def __str__(self) -> str:
        lines = []
        for pair in self.pairs:
            lines.append(f"{pair.first} -> {pair.second}")
            width = max(6, *map(len, pair.comparison.metrics))
            lines += [f"  {name:<{width}} {difference}" for name, difference in pair.comparison.metrics.items()]
        for name, seeds in self.seeds.items():
            interval = seeds.interval
            shown = "one seed, no interval" if interval is None else f"({interval[0]:+.4f} to {interval[1]:+.4f})"
            lines.append(f"over {len(seeds.first)} seeds: {name} {seeds.mean:+.4f} {shown}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "images": pair.comparison.images,
                    "metrics": {
                        name: {**asdict(one), "difference": one.value, "shown": one.shown}
                        for name, one in pair.comparison.metrics.items()
                    },
                    "per_class": {
                        name: {"first": a, "second": b} for name, (a, b) in pair.comparison.per_class.items()
                    },
                }
                for pair in self.pairs
            ],
            "seeds": {
                name: {**asdict(one), "difference": one.mean, "interval": one.interval}
                for name, one in self.seeds.items()
            },
        }


def compare(
    runs: Sequence[StrPath | Predictor],
    split: str = "test",
    *,
    output: StrPath | None = None,
    recipe: StrPath | Recipe | None = None,
    device: str | None = None,
    resamples: int = RESAMPLES,
    changes: Sequence[str] = (),
) -> RunComparison:
    """Compare runs on one split of their data.

    Two or more runs of different recipes: each is compared with the first one. Several seeds of two recipes: they are
    paired by seed, and the interval over seeds is given beside those over images.

    >>> print(dcn.compare(["runs/bccd_plain/0", "runs/bccd_deformable/0"]))

    Args:
        runs: run folders, weights files or predictors; the first one is what the others are compared with.
        split: see :func:`dcn.evaluate`.
        output: an HTML page to write, or a folder for its ``comparison.html``.
        recipe: what describes the data of all of them; ``None``: the recipe of each run. Predictors need one.
        device: ``"cpu"``, ``"cuda"``, ...
        resamples: of the bootstrap over images.
        changes: ``key=value`` changes of all recipes.

    Raises:
        ValueError: fewer than two runs, runs of different tasks, classes or images, or seeds that do not pair.
    """
    if len(runs) < 2:
        raise ValueError(f"runs: expected two or more run folders, got {len(runs)}")
    whole("resamples", resamples, 1)  # before anything is evaluated
    path = None if output is None else page_path(output, PAGE_FILE)
    _check_different(runs)
    opened = [open_run_data(run, split, recipe=recipe, device=device, changes=changes) for run in runs]
    _check_same(opened)
    results = [collect(one) for one in opened]
    names = image_names(opened[0].dataset)
    pairing = _pairing(opened)
    compared = [_compared(opened[a], results[a], results[b], names, resamples) for a, b in pairing]
    pairs = tuple(
        Pair(
            opened[a].label,
            opened[b].label,
            comparison,
            _pictures(opened[a], opened[b], comparison, names) if path is not None else (),
        )
        for (a, b), comparison in zip(pairing, compared, strict=True)
    )
    seeds = _seeds(opened, pairs)
    page = None
    if path is not None:
        facts = _facts(opened, resamples, _command(runs, split, recipe, resamples, changes))
        page = comparison_page(pairs, seeds, facts).write(path)
    return RunComparison(pairs, seeds, page)


def _check_different(runs: Sequence[StrPath | Predictor]) -> None:
    """Refuse a run that is named twice: all differences would be zero."""
    seen: set[Predictor | Path] = set()
    for run in runs:
        one = run if isinstance(run, Predictor) else Path(fspath(run)).expanduser().resolve()
        if one in seen:
            raise ValueError(f"runs: expected different runs, got {run} twice; name another run to compare with")
        seen.add(one)


def _facts(opened: Sequence[Opened], resamples: int, command: str) -> dict[str, object]:
    first = opened[0]
    facts = {"resamples": resamples, "command": command, **versions()}
    return {"data": f"{len(first.dataset)} images of {first.dataset.name}", **shown_values(facts)}


def _command(
    runs: Sequence[StrPath | Predictor],
    split: str,
    recipe: StrPath | Recipe | None,
    resamples: int,
    changes: Sequence[str],
) -> str:
    """What makes the page again; empty for predictors and for a recipe beside the runs, which only Python takes."""
    sources = [fspath(run) for run in runs if not isinstance(run, Predictor)]
    if recipe is not None or len(sources) < len(runs):
        return ""
    return shell_command("dcn", "compare", *sources, *changes, "--split", split, "--resamples", resamples)


def _check_same(opened: Sequence[Opened]) -> None:
    first = opened[0]
    for other in opened[1:]:
        if other.task is not first.task:
            raise ValueError(f"runs: expected one task, {first.label} is of {first.task.name}, got {other.task.name}")
        if tuple(other.dataset.classes) != tuple(first.dataset.classes):
            raise ValueError(
                f"runs: expected the classes {list(first.dataset.classes)} of {first.label}, got "
                f"{list(other.dataset.classes)} in {other.label}"
            )
        _check_same_images(first, other)


def _check_same_images(first: Opened, other: Opened) -> None:
    names, others = image_names(first.dataset), image_names(other.dataset)
    if names != others:
        row = next((i for i, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]), len(others))
        got = f"{others[row]} as image {row}" if row < min(len(names), len(others)) else f"{len(others)} images"
        raise ValueError(
            f"runs: expected the {len(names)} images of {first.label} ({first.dataset.name}), got {got} in "
            f"{other.label} ({other.dataset.name})"
        )


def _compared(opened: Opened, first: Results, second: Results, names: Sequence[str], resamples: int) -> Comparison:
    if isinstance(first, CollectedDetections) and isinstance(second, CollectedDetections):
        return _compared_detections(first, second, names, resamples)
    assert isinstance(first, CollectedConfusions)
    assert isinstance(second, CollectedConfusions)
    return compare_segmentations(
        names,
        opened.dataset.classes,
        first.confusion,
        second.confusion,
        resamples=resamples,
        absent=opened.recipe.eval.absent,
    )


def _compared_detections(
    first: CollectedDetections, second: CollectedDetections, names: Sequence[str], resamples: int
) -> Comparison:
    """By boxes, and by masks as well where both have them: ``mask/AP`` ... beside ``AP`` ..."""
    both = [kind for kind in first.iou_types if kind in second.iou_types]
    boxes, *masks = (
        compare_detections(
            first.truth, first.results, second.results, iou_type=first.iou_types[kind], resamples=resamples
        )
        for kind in both
    )
    of_masks = {f"mask/{name}": one for result in masks for name, one in result.metrics.items()}
    return replace(boxes, metrics={**boxes.metrics, **of_masks}).renamed(dict(enumerate(names, start=1)))


def _pictures(
    first: Opened, second: Opened, comparison: Comparison, names: Sequence[str]
) -> list[tuple[str, tuple[Tensor, Tensor, Tensor]]]:
    """The images that changed most, annotated and with the prediction of each run."""
    drawn = []
    for name, before, after in comparison.changed[:MOST_PICTURES]:
        if before != after:
            index = names.index(str(name))
            target, one = draw_example(first, index)
            _, other = draw_example(second, index)
            drawn.append((f"{name}: {before:.2f} to {after:.2f}", (target, one, other)))
    return drawn


def _kind(opened: Opened) -> str:
    """What two seeds of one recipe share: the recipe without its seed."""
    recipe = opened.recipe
    return repr((recipe.model, recipe.schedule, recipe.transforms, recipe.amp))


def _pairing(opened: Sequence[Opened]) -> list[tuple[int, int]]:
    """Which runs are compared: the seeds of two recipes with one another, else every run with the first one."""
    kinds: dict[str, dict[int, int]] = {}
    for index, one in enumerate(opened):
        by_seed = kinds.setdefault(_kind(one), {})
        if len(opened) > 2 and one.recipe.seed in by_seed:
            return [(0, other) for other in range(1, len(opened))]
        by_seed[one.recipe.seed] = index
    if len(opened) > 2 and len(kinds) == 2:
        first, second = kinds.values()
        if first.keys() != second.keys():
            raise ValueError(f"runs: expected the same seeds of both recipes, got {sorted(first)} and {sorted(second)}")
        return [(first[seed], second[seed]) for seed in sorted(first)]
    return [(0, other) for other in range(1, len(opened))]


def _seeds(opened: Sequence[Opened], pairs: Sequence[Pair]) -> dict[str, SeedDifference]:
    pairing = _pairing(opened)
    if len(pairing) < 2 or len({first for first, _ in pairing}) == 1:
        return {}
    names = pairs[0].comparison.metrics
    return {
        name: SeedDifference(
            tuple(pair.comparison.metrics[name].first for pair in pairs),
            tuple(pair.comparison.metrics[name].second for pair in pairs),
        )
        for name in names
        if all(name in pair.comparison.metrics for pair in pairs)
    }
