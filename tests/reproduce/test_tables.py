"""Tables from made rows: differences, intervals and what counts as shown, against numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from dcn.reproduce.costs import TABLE4, CostRow, Network, measure_costs, read_costs, table4
from dcn.reproduce.intervals import ImageRow
from dcn.reproduce.plan import Plan, read_plan
from dcn.reproduce.rows import DilationRow, Row, StepRow, append, read_table
from dcn.reproduce.tables import Results, claims_table, cost_table, dilation_table, front_table, part_tables, summary
from dcn.reproduce.written import with_region

TINY = Path(__file__).with_name("tiny.yaml")
NAN = math.nan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan(TINY)


def _row(plan: Plan, variant: str, seed: int, ap50: float, ap75: float, *, recipe: str | None = None) -> Row:
    return Row(
        system="rcnn",
        variant=variant,
        dataset="letters",
        stage="tune",
        seed=seed,
        recipe=recipe or plan.job("letters", "rcnn", variant, seed).recipe,
        AP=ap50 / 2,
        AP50=ap50,
        AP75=ap75,
        VOC50=NAN,
        VOC70=NAN,
        mIoU=NAN,
        accuracy=NAN,
        val=NAN,
        offset=0.5 if variant == "deformable" else NAN,
        offsets="c5.1 0.5; pool 0.0300" if variant == "deformable" else "",
        parameters=1_000_000 if variant == "plain" else 1_100_000,
        steps=100,
        seconds=50.0,
        threads=1,
        commit="c",
        torch="t",
        machine="m",
        date="d",
    )


def _image(plan: Plan, variant: str, reference: str, metric: str, seeds: str, low: float, high: float) -> ImageRow:
    own, other = (plan.job("letters", "rcnn", name, 0).recipe for name in (variant, reference))
    middle = (low + high) / 2
    return ImageRow("rcnn", "letters", variant, reference, own, other, metric, seeds, 50, middle, low, high)


def _rows(plan: Plan) -> list[Row]:
    values = {"plain": [0.50, 0.52, 0.54], "atrous4": [0.55, 0.54, 0.56], "deformable": [0.60, 0.61, 0.65]}
    return [_row(plan, name, seed, value, 0.3) for name, own in values.items() for seed, value in enumerate(own)]


def test_a_difference_has_the_interval_of_its_pairs(plan: Plan) -> None:
    images = [_image(plan, "deformable", "plain", "AP50", "0 1 2", 0.02, 0.18)]
    claim = Results(plan, _rows(plan), images, []).claim("letters", "rcnn", "deformable", "plain", "AP50")
    assert claim is not None
    # Gaps 0.10, 0.09, 0.11: mean 0.1, standard deviation 0.01, Student's factor for two degrees of freedom 4.303.
    half = 4.303 * 0.01 / math.sqrt(3)
    assert claim.seeds.mean == pytest.approx(0.1)
    assert claim.seeds.interval == pytest.approx((0.1 - half, 0.1 + half))
    assert claim.cells() == ("+10.0 (+7.5 to +12.5)", "(+2.0 to +18.0)", "above")


@pytest.mark.parametrize(
    ("low", "high", "seeds", "shown"),
    [
        (0.02, 0.18, "0 1 2", "above"),
        (-0.01, 0.2, "0 1 2", "no"),  # over the images zero is possible
        (0.02, 0.18, "0 1", "no"),  # of other seeds
    ],
    ids=["both", "images", "stale"],
)
def test_both_intervals_must_exclude_zero(plan: Plan, low: float, high: float, seeds: str, shown: str) -> None:
    images = [_image(plan, "deformable", "plain", "AP50", seeds, low, high)]
    claim = Results(plan, _rows(plan), images, []).claim("letters", "rcnn", "deformable", "plain", "AP50")
    assert claim is not None
    assert claim.cells()[2] == shown


def test_below_is_shown_as_such_and_one_seed_shows_nothing(plan: Plan) -> None:
    rows = [_row(plan, "plain", seed, 0.6, 0.3) for seed in (0, 1)]
    rows += [_row(plan, "deformable", seed, value, 0.3) for seed, value in ((0, 0.5), (1, 0.501))]
    images = [_image(plan, "deformable", "plain", "AP50", "0 1", -0.2, -0.01)]
    both = Results(plan, rows, images, []).claim("letters", "rcnn", "deformable", "plain", "AP50")
    assert both is not None
    assert both.shown == -1
    one = Results(plan, rows[::2], images, []).claim("letters", "rcnn", "deformable", "plain", "AP50")
    assert one is not None
    assert one.cells() == ("-10.0 (one seed)", "-", "no")


def test_rows_of_another_recipe_do_not_count(plan: Plan) -> None:
    rows = [*_rows(plan), _row(plan, "plain", 3, 0.1, 0.1, recipe="0" * 12)]
    results = Results(plan, rows, [], [])
    assert sorted(results.of("letters", "rcnn", "plain")) == [0, 1, 2]
    assert results.of("letters", "rcnn", "dconv1") == results.of("letters", "rcnn", "deformable")  # an alias


def test_the_answer_in_short(plan: Plan) -> None:
    images = [_image(plan, "deformable", name, "AP50", "0 1 2", 0.02, 0.18) for name in ("plain", "atrous4")]
    results = Results(plan, _rows(plan), images, [])
    table = claims_table(results)
    assert table is not None
    assert [(row[2:7], row[-1]) for row in table.rows] == [
        (("AP", "plain (dilation 2)", "3", "26.0", "31.0"), "no"),  # no interval over images
        (("AP", "dilation 4, the best", "3", "27.5", "31.0"), "no"),
        (("AP50", "plain (dilation 2)", "3", "52.0", "62.0"), "above"),
        (("AP50", "dilation 4, the best", "3", "55.0", "62.0"), "above"),
        (("AP75", "plain (dilation 2)", "3", "30.0", "30.0"), "no"),
        (("AP75", "dilation 4, the best", "3", "30.0", "30.0"), "no"),
    ]
    assert summary(results) == (
        "* **letters**, against plain (dilation 2): above: Faster R-CNN AP50 (+10.0); "
        "not shown: Faster R-CNN AP (+5.0), Faster R-CNN AP75 (+0.0).\n"
    )


def _shapes_row(plan: Plan, system: str, variant: str, seed: int, value: float) -> Row:
    job = plan.job("shapes", system, variant, seed)
    row = _row(plan, variant, seed, value, value, recipe=job.recipe)
    return replace(row, dataset="shapes", system=system, variant=job.variant, AP=value)


def test_what_learnt_offsets_add_is_told_from_what_pooling_adds() -> None:
    plan = read_plan()
    values = {"plain": [0.3, 0.31], "still": [0.4, 0.41], "fixed": [0.41, 0.42], "deformable": [0.42, 0.43]}
    rows = [
        _shapes_row(plan, system, name, seed, value)
        for system, names in (("rfcn", ("plain", "still", "fixed", "deformable")), ("rpn", ("plain", "deformable")))
        for name in names
        for seed, value in enumerate(values[name])
    ]
    results = Results(plan, rows, [], [])
    claims, front = claims_table(results), front_table(results)
    assert claims is not None
    assert front is not None
    assert [row[1:4] for row in claims.rows if row[2] == "AP"] == [
        ("class-aware RPN", "AP", "plain (dilation 2)"),
        ("R-FCN", "AP", "plain (dilation 2)"),
        ("R-FCN", "AP", "deformable RoI pooling, offsets kept at zero"),
        ("R-FCN", "AP", "one learnt grid"),
    ]
    assert [row[1:] for row in front.rows] == [
        (
            "class-aware RPN",
            "AP",
            "2",
            "30.5",
            "42.5",
            "+12.0 (+12.0 to +12.0) ?",
            "+12.0 (+12.0 to +12.0) ?",
            "-",
        ),  # no pooling
        (
            "R-FCN",
            "AP",
            "2",
            "30.5",
            "42.5",
            "+12.0 (+12.0 to +12.0) ?",
            "+2.0 (+2.0 to +2.0) ?",
            "+1.0 (+1.0 to +1.0) ?",
        ),
    ]
    assert "offsets kept at zero: not shown: R-FCN AP (+2.0)" in summary(results)
    assert summary(results).count("RPN AP (") == 1


def test_the_best_dilation_is_that_of_the_seeds_that_all_have() -> None:
    plan = read_plan()
    rows = [
        replace(_row(plan, variant, seed, ap, ap, recipe=job.recipe), dataset="shapes")
        for variant, seed, ap in (("atrous4", 0, 0.5), ("atrous4", 1, 0.2), ("atrous6", 0, 0.4))
        for job in [plan.job("shapes", "rcnn", variant, seed)]
    ]
    assert Results(plan, rows, [], []).best_atrous("shapes", "rcnn", "AP50") == "atrous4"


def test_a_part_lists_its_variants_beside_the_first(plan: Plan) -> None:
    (table,) = part_tables(Results(plan, _rows(plan), [], []), "a")
    assert table.title == "Plain, atrous and deformable: letters"
    assert [(*row[1:4], row[7]) for row in table.rows] == [
        ("plain (dilation 2)", "3", "26.0 ± 1.0", "52.0 ± 2.0"),
        ("dilation 4", "3", "27.5 ± 0.5", "55.0 ± 1.0"),
        ("deformable", "3", "31.0 ± 1.3", "62.0 ± 2.6"),
    ]
    # Another part without a variant of its own would repeat it.
    assert part_tables(Results(plan, _rows(plan), [], []), "c") == []
    assert [row[-1] for row in table.rows] == ["-", "-", "0.50, pool 0.030"]
    # Without the first variant there is nothing to compare with.
    assert part_tables(Results(plan, [row for row in _rows(plan) if row.variant != "plain"], [], []), "a") == []


def _step(plan: Plan, variant: str, ms: float, *, recipe: str | None = None) -> StepRow:
    own = recipe or plan.job("letters", "rcnn", variant, 0).recipe
    count = 1_000_000 if variant == "plain" else 1_100_000
    return StepRow("rcnn", variant, "letters", "tune", 0, own, count, 8, ms, 7, 1, "c", "t", "m", "d")


def test_costs_are_those_of_timed_steps(plan: Plan) -> None:
    steps = [_step(plan, "plain", 500.0), _step(plan, "deformable", 600.0)]
    table = cost_table(Results(plan, _rows(plan), [], [], steps))
    assert table is not None
    assert table.rows == (("letters", "Faster R-CNN", "1.00", "1.10", "+10 %", "8", "0.50", "0.60", "+20 %"),)


def test_costs_of_another_recipe_do_not_count(plan: Plan) -> None:
    steps = [_step(plan, "plain", 500.0), _step(plan, "deformable", 600.0, recipe="0" * 12)]
    assert cost_table(Results(plan, _rows(plan), [], [], steps)) is None


def test_filters_on_large_objects_reach_further(plan: Plan) -> None:
    recipe = plan.job("letters", "rcnn", "deformable", 0).recipe
    key = ("rcnn", "deformable", "letters", "tune")
    rows = [
        DilationRow(*key, seed, recipe, "c5.1", 2.0, location, 10, mean + 0.1 * seed, 1.0)
        for seed in (0, 1)
        for location, mean in (("small", 2.0), ("medium", 2.5), ("large", 3.0 + 0.02 * seed), ("background", 2.2))
    ]
    table = dilation_table(Results(plan, [], [], rows))
    assert table is not None
    half = 12.706 * math.sqrt(2) * 0.01 / math.sqrt(2)
    assert table.rows == (
        (
            *("letters", "Faster R-CNN", "c5.1", "2", "2", "2.05", "2.55", "3.06", "2.25"),
            f"+1.01 ({1.01 - half:.2f} to {1.01 + half:.2f})",
            "above",
        ),
    )


def test_without_results_there_are_no_tables(plan: Plan) -> None:
    nothing = Results(plan, [], [], [])
    assert claims_table(nothing) is None
    assert dilation_table(nothing) is None
    assert cost_table(nothing) is None
    assert (summary(nothing), part_tables(nothing, "a")) == ("", [])


def test_rows_are_read_as_they_were_written(plan: Plan, tmp_path: Path) -> None:
    rows = _rows(plan)
    path = tmp_path / "results.csv"
    for row in rows:
        append(path, [row])
    back = read_table(path, Row)
    assert [(row.variant, row.seed, row.recipe, row.AP50) for row in back] == [
        (row.variant, row.seed, row.recipe, row.AP50) for row in rows
    ]
    assert math.isnan(back[0].mIoU)
    path.write_text(path.read_text().replace("variant", "kind", 1))
    with pytest.raises(ValueError, match="expected the columns system, variant"):
        read_table(path, Row)


def test_table_4_counts_and_times_both(tmp_path: Path) -> None:
    from torch import nn

    calls: list[str] = []

    def prepare(name: str, classes: int, size: tuple[int, int]) -> tuple[nn.Module, object]:
        return nn.Linear(classes, size[0], bias=name == "b"), lambda: calls.append(name)

    networks = [Network(TABLE4[4].title, "a", "b", 10, (20, 30), (None, None)), *TABLE4[:0]]
    path = tmp_path / "costs.csv"
    rows = measure_costs(networks, prepare, repetitions=2, path=path)  # type: ignore[arg-type]  # calls give nothing
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert (rows[0].plain_parameters, rows[0].deformable_parameters) == (200, 220)
    assert measure_costs(networks, prepare, path=path) == read_costs(path)  # type: ignore[arg-type]  # likewise
    assert len(calls) == 6
    row = CostRow("R-FCN, VOC", 600, 800, 46_000_000, 48_300_000, 2000.0, 2500.0, 5, 1, "c", "t", "m", "d")
    table = table4([row])
    assert table is not None
    assert table.rows == (
        ("R-FCN, VOC", "600 x 800", "46.00 to 48.30", "+5.0 %", "47.1 to 49.5", "2.00 to 2.50", "+25 %"),
    )
    assert table4([]) is None


def test_a_region_is_replaced_and_nothing_else() -> None:
    page = "a\n<!-- begin x: note -->\nold\n<!-- end x -->\nb\n"
    new = with_region(page, "x", "new\n")
    assert new == "a\n<!-- begin x: note -->\n\nnew\n\n<!-- end x -->\nb\n"
    assert with_region(new, "x", "") == "a\n<!-- begin x: note -->\n<!-- end x -->\nb\n"
    with pytest.raises(ValueError, match="expected one region `<!-- begin y -->`"):
        with_region(page, "y", "")
