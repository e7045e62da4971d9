"""The tables of the small ablation, made from rows alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dcn.report.comparison import SeedDifference
from dcn.reproduce.intervals import ATROUS, DEFORMABLE, FIXED, STILL, ImageRow
from dcn.reproduce.plan import PLAIN, Plan
from dcn.reproduce.rows import DilationRow, Row, StepRow

METRICS = {"detection": ("AP", "AP50", "AP75"), "segmentation": ("mIoU",)}
"""What the tables show of a task, in percent; the rules are those of COCO."""

NONE = "-"
LOCATIONS = ("small", "medium", "large", "background")


@dataclass(frozen=True)
class Table:
    """A table with its heading.

    Attributes:
        title: the heading.
        header: names of the columns.
        rows: cells as text.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self, level: int = 3) -> str:
        """The heading and the table."""
        return f"{'#' * level} {self.title}\n\n{self.body()}"

    def body(self) -> str:
        """The table without its heading."""
        return "\n".join([_line(self.header), _line("---" for _ in self.header), *map(_line, self.rows)]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Claim:
    """The difference of one metric between two variants, with both intervals, in percent points.

    Attributes:
        seeds: over the seeds.
        images: over the images; ``None`` where it was not computed for these seeds.
    """

    seeds: SeedDifference
    images: ImageRow | None

    @property
    def shown(self) -> int:
        """1 or -1: above or below, and both intervals exclude zero; else 0."""
        interval = self.seeds.interval
        if interval is None or self.images is None:
            return 0
        lows, highs = (interval[0], self.images.low), (interval[1], self.images.high)
        return 1 if min(lows) > 0 else -1 if max(highs) < 0 else 0

    def cells(self) -> tuple[str, str, str]:
        """Difference with the interval over seeds, the interval over images, and whether it is shown."""
        interval = self.seeds.interval
        over_seeds = f"{_signed(self.seeds.mean)} {_interval(interval)}"
        over_images = NONE if self.images is None else _interval((self.images.low, self.images.high))
        return over_seeds, over_images, {1: "above", 0: "no", -1: "below"}[self.shown]


def _signed(value: float) -> str:
    return f"{100 * value + 0.0:+.1f}".replace("-0.0", "+0.0")


def _interval(ends: tuple[float, float] | None) -> str:
    return "(one seed)" if ends is None else f"({_signed(ends[0])} to {_signed(ends[1])})"


class Results:
    """Rows that belong to a plan: those of other recipes are left out.

    Args:
        plan: says which recipe a variant has.
        rows: of the runs.
        images: intervals over images.
        dilations: effective dilations.
        steps: times of training steps.
    """

    def __init__(
        self,
        plan: Plan,
        rows: Sequence[Row],
        images: Sequence[ImageRow],
        dilations: Sequence[DilationRow],
        steps: Sequence[StepRow] = (),
    ) -> None:
        self.plan = plan
        self._recipes: dict[tuple[str, str, str], str] = {}
        self._rows: dict[tuple[str, str, str], dict[int, Row]] = {}
        for row in rows:
            if row.stage == "tune" and row.recipe == self._recipe(row.dataset, row.system, row.variant):
                self._rows.setdefault((row.dataset, row.system, row.variant), {})[row.seed] = row
        self._images = {row.key: row for row in images}
        self.dilations = [row for row in dilations if self._is_current(row)]
        self.steps = {(row.dataset, row.system, row.variant): row for row in steps if self._is_current(row)}

    def _recipe(self, dataset: str, system: str, variant: str) -> str | None:
        plan, key = self.plan, (dataset, system, variant)
        if key not in self._recipes:
            known = dataset in plan.datasets and system in plan.systems and variant in plan.variants
            self._recipes[key] = plan.job(dataset, system, variant, 0).recipe if known else ""
        return self._recipes[key] or None

    def _is_current(self, row: DilationRow | StepRow) -> bool:
        return row.recipe == self._recipe(row.dataset, row.system, row.variant)

    def of(self, dataset: str, system: str, variant: str) -> dict[int, Row]:
        """The rows of a variant by seed."""
        return self._rows.get((dataset, system, self.plan.resolved(system, variant)), {})

    def claim(self, dataset: str, system: str, variant: str, reference: str, metric: str) -> Claim | None:
        """A variant minus a reference over the seeds that both have; ``None``: there are none."""
        variant, reference = self.plan.resolved(system, variant), self.plan.resolved(system, reference)
        rows, others = self.of(dataset, system, variant), self.of(dataset, system, reference)
        seeds = sorted(rows.keys() & others.keys())
        if not seeds:
            return None
        values = [tuple(float(getattr(part[seed], metric)) for seed in seeds) for part in (others, rows)]
        image = self._images.get((dataset, system, variant, reference, metric))
        recipes = (rows[seeds[0]].recipe, others[seeds[0]].recipe, " ".join(map(str, seeds)))
        if image is not None and (image.recipe, image.reference_recipe, image.seeds) != recipes:
            image = None
        return Claim(SeedDifference(*values), image)

    def best_atrous(self, dataset: str, system: str, metric: str) -> str | None:
        """The dilation other than 2 with the highest mean of a metric on the test images themselves.

        The means are those over the seeds that all dilations have, where there are any: seeds differ in their level.
        """
        runs = {variant: rows for variant in ATROUS if (rows := self.of(dataset, system, variant))}
        common = set.intersection(*(set(rows) for rows in runs.values())) if runs else set()
        means = {
            variant: statistics.fmean(getattr(rows[seed], metric) for seed in common or rows)
            for variant, rows in runs.items()
        }
        return max(means, key=lambda variant: means[variant]) if means else None

    def pairs(self) -> list[tuple[str, str]]:
        """Data sets and systems of the plan that have rows."""
        return [
            (dataset, system)
            for dataset in self.plan.datasets
            for system in self.plan.systems_of(dataset)
            if any(key[:2] == (dataset, system) for key in self._rows)
        ]


def _references(results: Results, dataset: str, system: str, metric: str) -> dict[str, str]:
    """What deformable is compared with, by the name in tables: plain, offsets at zero, one grid, the best dilation."""
    plan = results.plan
    names = {name: "" for name in (PLAIN, STILL, FIXED) if plan.resolved(system, name) == name}
    best = results.best_atrous(dataset, system, metric)
    names |= {best: ", the best"} if best else {}
    return {name: plan.title("variants", name) + more for name, more in names.items() if name in plan.variants}


def claims_table(results: Results) -> Table | None:
    """Deformable against each of its references: the answer in short."""
    plan, rows = results.plan, []
    for dataset, system in results.pairs():
        for metric in METRICS[plan.task(system)]:
            for reference, against in _references(results, dataset, system, metric).items():
                claim = results.claim(dataset, system, DEFORMABLE, reference, metric)
                if not claim:
                    continue
                values = (_mean(claim.seeds.first), _mean(claim.seeds.second))
                names = (plan.title("datasets", dataset), plan.title("systems", system), metric)
                rows.append((*names, against, str(len(claim.seeds.first)), *values, *claim.cells()))
    header = ("data", "system", "metric", "against", "seeds", "its value", "deformable", "difference (over seeds)")
    return _table(
        "Deformable against plain, offsets at zero, one learnt grid and the best dilation",
        (*header, "over images", "shown"),
        rows,
    )


@dataclass(frozen=True)
class Effect:
    """What deformable gives one system on one data set, in the first metric of its task.

    Attributes:
        dataset: title of the data set.
        system: title of the system.
        metric: name of the metric.
        from_plain: the difference from plain, as in the papers.
        from_still: the difference from offsets kept at zero, what learnt offsets give; ``None``: was not run.
        from_fixed: the difference from one learnt grid, what offsets that follow the image give; likewise.
    """

    dataset: str
    system: str
    metric: str
    from_plain: Claim
    from_still: Claim | None
    from_fixed: Claim | None


def effects(results: Results) -> list[Effect]:
    """One for each data set and system that has been run plain and deformable."""
    plan, effects_of = results.plan, []
    for dataset, system in results.pairs():
        metric = METRICS[plan.task(system)][0]
        claims = [results.claim(dataset, system, DEFORMABLE, name, metric) for name in (PLAIN, STILL, FIXED)]
        plain, still, fixed = claims
        if plain is not None:
            names = (plan.title("datasets", dataset), plan.title("systems", system), metric)
            effects_of.append(Effect(*names, plain, still, fixed))
    return effects_of


def front_table(results: Results) -> Table | None:
    """One row for each effect; a question mark: the difference is not shown."""
    rows = []
    for effect in effects(results):
        seeds = effect.from_plain.seeds
        values = (str(len(seeds.first)), _mean(seeds.first), _mean(seeds.second))
        claims = (effect.from_plain, effect.from_still, effect.from_fixed)
        gaps = [NONE if claim is None else claim.cells()[0] + ("" if claim.shown else " ?") for claim in claims]
        rows.append((effect.dataset, effect.system, effect.metric, *values, *gaps))
    header = (
        "data",
        "system",
        "metric",
        "seeds",
        "plain",
        "deformable",
        "difference",
        "by learnt offsets",
        "by following the image",
    )
    return _table("Deformable against plain", header, rows)


def summary(results: Results) -> str:
    """What is shown on each data set, in words: which differences, and which were not shown."""
    plan, lines = results.plan, []
    for dataset in plan.datasets:
        for reference in (PLAIN, STILL, FIXED):
            claims = [
                (f"{plan.title('systems', system)} {metric}", claim)
                for system in plan.systems_of(dataset)
                if plan.resolved(system, reference) == reference
                for metric in METRICS[plan.task(system)]
                if (claim := results.claim(dataset, system, DEFORMABLE, reference, metric)) is not None
            ]
            if not claims:
                continue
            parts = []
            for kind, text in ((1, "above"), (-1, "below"), (0, "not shown")):
                names = [f"{name} ({_signed(claim.seeds.mean)})" for name, claim in claims if claim.shown == kind]
                parts += [f"{text}: {', '.join(names)}"] if names else []
            against = plan.title("variants", reference)
            lines.append(f"* **{plan.title('datasets', dataset)}**, against {against}: {'; '.join(parts)}.")
    return "\n".join([*lines, ""]) if lines else ""


def part_tables(results: Results, part: str) -> list[Table]:
    """The tables of one part of the ablation: for each data set one for each task."""
    plan, tables = results.plan, []
    for dataset in plan.datasets:
        for task, metrics in METRICS.items():
            rows: list[tuple[str, ...]] = []
            for system in (name for name in plan.systems_of(dataset) if plan.task(name) == task):
                rows += _part_rows(results, part, dataset, system, metrics)
            header = ["system", "variant", "seeds"]
            for metric in metrics:
                header += [metric, "difference (over seeds)", "over images", "shown"]
            title = f"{plan.title('parts', part)}: {plan.title('datasets', dataset)}"
            title = title[:1].upper() + title[1:]
            title += ", segmentation" if task == "segmentation" else ""
            table = _table(title, (*header, "mean offset"), rows)
            tables += [] if table is None else [table]
    return tables


def _part_rows(results: Results, part: str, dataset: str, system: str, metrics: Sequence[str]) -> list[tuple[str, ...]]:
    plan = results.plan
    names = plan.variants_of(part, system)
    with_rows = [name for name in names if results.of(dataset, system, name)]
    if len(with_rows) < 2 or with_rows[0] != names[0]:
        return []  # nothing to compare, or nothing to compare with
    first = next(iter(plan.parts))
    if part != first and set(with_rows) <= set(plan.variants_of(first, system)):
        return []  # the table of the first part holds all of it
    lines = []
    for name in with_rows:
        rows = results.of(dataset, system, name)
        cells = [plan.title("systems", system), plan.title("variants", name), str(len(rows))]
        for metric in metrics:
            claim = None if name == names[0] else results.claim(dataset, system, name, names[0], metric)
            cells += [_spread(getattr(row, metric) for row in rows.values())]
            cells += [NONE] * 3 if claim is None else claim.cells()
        lines.append((*cells, _offsets(list(rows.values()))))
    return lines


def _offsets(rows: Sequence[Row]) -> str:
    """Mean size of the offsets: of convolutions in cells, of RoI pooling as a share of the region's side."""
    cells = [row.offset for row in rows if not math.isnan(row.offset)]
    shares = [float(part.rpartition(" ")[2]) for row in rows for part in row.offsets.split("; ") if part[:4] == "pool"]
    texts = [f"{statistics.fmean(cells):.2f}"] if cells else []
    texts += [f"pool {statistics.fmean(shares):.3f}"] if shares else []
    return ", ".join(texts) or NONE


def _mean(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f}"


def _spread(values: Iterable[float]) -> str:
    own = list(values)
    return f"{_mean(own)} ± {100 * statistics.stdev(own):.1f}" if len(own) > 1 else _mean(own)


def dilation_table(results: Results) -> Table | None:
    """Effective dilation of the deformable variant by size of the object: Table 2 of the paper."""
    plan = results.plan
    values: dict[tuple[str, str, str], dict[int, dict[str, DilationRow]]] = {}
    for row in results.dilations:
        if row.variant == DEFORMABLE:
            own = values.setdefault((row.dataset, row.system, row.layer), {})
            own.setdefault(row.seed, {})[row.location] = row
    rows = []
    for (dataset, system, layer), seeds in values.items():
        whole = [part for part in seeds.values() if part["small"].filters and part["large"].filters]
        if not whole:
            continue
        small, large = (tuple(part[name].mean for part in whole) for name in ("small", "large"))
        gap = SeedDifference(small, large)
        names = (plan.title("datasets", dataset), plan.title("systems", system), layer, str(len(whole)))
        means = [_over(part[name].mean for part in whole if part[name].filters) for name in LOCATIONS]
        interval = gap.interval
        ends = "(one seed)" if interval is None else f"({interval[0]:.2f} to {interval[1]:.2f})"
        shown = "no" if interval is None or interval[0] <= 0 <= interval[1] else "above" if gap.mean > 0 else "below"
        rows.append((*names, f"{whole[0]['small'].undeformed:g}", *means, f"{gap.mean:+.2f} {ends}", shown))
    header = ("data", "system", "layer", "seeds", "without offsets", *LOCATIONS, "large - small (over seeds)", "shown")
    return _table("Effective dilation of the deformable layers by size of the object", header, rows)


def _over(values: Iterable[float]) -> str:
    own = list(values)
    return f"{statistics.fmean(own):.2f}" if own else NONE


def cost_table(results: Results) -> Table | None:
    """Parameters and the time of a training step, where it was measured (`dcn reproduce --small --times`)."""
    plan, rows = results.plan, []
    for dataset, system in results.pairs():
        pair = [results.steps.get((dataset, system, name)) for name in (PLAIN, DEFORMABLE)]
        plain, deformable = pair
        if plain is None or deformable is None:
            continue
        names = (plan.title("datasets", dataset), plan.title("systems", system))
        parameters = (plain.parameters, deformable.parameters)
        rows.append(
            (
                *names,
                *(f"{count / 1e6:.2f}" for count in parameters),
                _more(*parameters),
                str(plain.batch_size),
                *(f"{row.ms / 1000:.2f}" for row in (plain, deformable)),
                _more(plain.ms, deformable.ms),
            )
        )
    times = ("images of a step", "plain, s of a core", "deformable, s of a core", "more")
    header = ("data", "system", "plain, M", "deformable, M", "more", *times)
    return _table("Parameters and the time of a training step", header, rows)


def _more(first: float, second: float) -> str:
    return f"{100 * (second / first - 1):+.0f} %"


def _table(title: str, header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table | None:
    return Table(title, tuple(header), tuple(rows)) if rows else None


def all_tables(results: Results) -> list[Table]:
    """Every table that has rows: the answer, the parts, the reach of the filters, and the costs."""
    makers: list[Callable[[Results], Table | None]] = [dilation_table, cost_table]
    parts = [table for part in results.plan.parts for table in part_tables(results, part)]
    tables = [claims_table(results), *parts, *(make(results) for make in makers)]
    return [table for table in tables if table is not None]
