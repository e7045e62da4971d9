"""The queue on the smallest plan: every run once, rows that can be trusted, and no run lost or repeated."""

from __future__ import annotations

import gzip
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcn.cli.main import main
from dcn.engine.distributed import World
from dcn.engine.lock import locked
from dcn.reproduce.intervals import ImageRow, update_intervals
from dcn.reproduce.plan import Choice, Plan, chosen_jobs, read_plan
from dcn.reproduce.queue import Locations, QueueResult, expected_hours, missing_jobs, run_queue
from dcn.reproduce.rows import DilationRow, Row, StepRow, append, read_table
from dcn.reproduce.steps import measure_steps
from dcn.reproduce.tables import all_tables
from dcn.reproduce.written import read_results
from dcn.runs.train import Run, train_recipe

TINY = Path(__file__).with_name("tiny.yaml")
CPU = World(torch.device("cpu"))
CHOICE = Choice(["letters"], seeds=(0,))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan(TINY)


@pytest.fixture(scope="module")
def locations(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Locations:
    """All runs of one seed."""
    folder = tmp_path_factory.mktemp("reproduce")
    locations = Locations(folder, folder / "results.csv")
    result = run_queue(plan, chosen_jobs(plan, CHOICE), locations, CPU)
    assert result == QueueResult(8, {}, interrupted=False)
    return locations


def test_every_run_has_a_row(plan: Plan, locations: Locations) -> None:
    rows = read_table(locations.results, Row)
    assert [(row.system, row.stage, row.variant) for row in rows] == [
        (system, stage, variant)
        for system in ("deeplab", "rcnn")
        for stage, variant in (
            ("start", "plain"),
            ("tune", "plain"),
            ("tune", "atrous4"),
            ("tune", "deformable"),
        )
    ]
    assert missing_jobs(chosen_jobs(plan, CHOICE), locations) == []
    for row in rows:
        metric = row.mIoU if row.system == "deeplab" else row.AP50
        assert 0 <= metric <= 1
        assert math.isnan(row.AP50) == (row.system == "deeplab")
        assert (row.steps, row.threads) == (1 if row.stage == "start" else 2, torch.get_num_threads())
        assert row.seconds > 0
        assert row.commit
        assert row.torch == torch.__version__


def test_offsets_are_measured_where_there_are_any(locations: Locations) -> None:
    rows = {(row.system, row.variant): row for row in read_table(locations.results, Row) if row.stage == "tune"}
    assert math.isnan(rows["rcnn", "plain"].offset)
    assert rows["rcnn", "plain"].offsets == ""
    # After two small steps from zero offsets are small, and not zero.
    assert 0 < rows["rcnn", "deformable"].offset < 0.1
    assert [part.rpartition(" ")[0] for part in rows["rcnn", "deformable"].offsets.split("; ")] == ["c5.1", "pool"]
    assert rows["rcnn", "deformable"].parameters > rows["rcnn", "plain"].parameters
    dilations = read_table(locations.dilations, DilationRow)
    assert {(row.system, row.variant, row.layer, row.undeformed) for row in dilations} == {
        ("rcnn", "deformable", "c5.1", 2.0)
    }
    # 3 images of 4 x 4 cells and 4 offset groups: every filter is counted once.
    assert sum(row.filters for row in dilations) == 3 * 16 * 4


def test_the_first_steps_are_the_same_but_for_the_dilation(plan: Plan, locations: Locations) -> None:
    """Plain and deformable start as one function of the same images."""
    losses = {}
    for job in chosen_jobs(plan, Choice(["letters"], ["deeplab"], seeds=(0,))):
        lines = (locations.run_folder(job) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses[job.variant] = json.loads(lines[0])["loss"]
    assert losses["plain"] == pytest.approx(losses["deformable"], rel=1e-5)
    assert losses["plain"] != pytest.approx(losses["atrous4"], rel=1e-5)


def test_only_the_start_keeps_its_weights(plan: Plan, locations: Locations) -> None:
    job = plan.job("letters", "rcnn", "plain", 0)
    assert job.start is not None
    kept = [path.name for path in (locations.run_folder(job.start) / "weights").iterdir()]
    assert kept == ["last.safetensors"]
    assert not (locations.run_folder(job) / "weights").exists()


def test_nothing_runs_twice(plan: Plan, locations: Locations, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("dcn.reproduce.queue.train_recipe", never)
    assert run_queue(plan, chosen_jobs(plan, CHOICE), locations, CPU) == QueueResult(0, {}, interrupted=False)


def test_a_new_clone_with_rows_needs_a_start_only_for_new_runs(
    plan: Plan, locations: Locations, tmp_path: Path
) -> None:
    other = Locations(tmp_path, locations.results)
    assert missing_jobs(chosen_jobs(plan, CHOICE), other) == []
    jobs = missing_jobs(chosen_jobs(plan, Choice(["letters"], ["rcnn"], variants=["plain"], seeds=(0, 1))), other)
    assert [job.name for job in jobs] == ["letters/rcnn/start-0", "letters/rcnn/plain-1"]


def test_a_run_of_another_process_is_left_alone(
    plan: Plan, locations: Locations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two runs is taken elsewhere: the other one is trained, then the queue waits for the first."""
    jobs = chosen_jobs(plan, Choice(["letters"], ["rcnn"], variants=["plain"], seeds=(0, 1)))
    own = Locations(tmp_path, tmp_path / "results.csv")
    start = jobs[0].start
    assert start is not None
    own.run_folder(start).parent.mkdir(parents=True)
    own.run_folder(start).symlink_to(locations.run_folder(start))
    taken = own.run_folder(jobs[0])
    taken.mkdir(parents=True)
    row = next(row for row in read_table(locations.results, Row) if row.recipe == jobs[0].recipe)
    reader, writer = os.pipe()
    ended, end = os.pipe()
    child = os.fork()
    if child == 0:  # the lock is one of the operating system: it must be held by another process
        try:
            with locked(taken):
                os.write(writer, b"!")
                os.read(ended, 1)
        finally:
            os._exit(0)
    os.read(reader, 1)

    def other_process_ends(_: float) -> None:
        append(own.results, [row])
        os.write(end, b"!")

    monkeypatch.setattr("time.sleep", other_process_ends)
    try:
        assert run_queue(plan, jobs, own, CPU) == QueueResult(1, {}, interrupted=False)
    finally:
        os.waitpid(child, 0)
    assert [row.seed for row in read_table(own.results, Row)] == [1, 0]


def test_a_signal_ends_the_queue_and_the_next_one_goes_on(
    plan: Plan, locations: Locations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = chosen_jobs(plan, Choice(["letters"], ["deeplab"], variants=["plain"], seeds=(0,)))
    own = Locations(tmp_path, tmp_path / "results.csv")
    start = jobs[0].start
    assert start is not None
    own.run_folder(start).parent.mkdir(parents=True)
    own.run_folder(start).symlink_to(locations.run_folder(start))

    def interrupted(*arguments: Any) -> Run:
        seed, calls = torch.manual_seed, list[int]()

        def at_the_first_step(value: int) -> object:
            calls.append(value)
            if len(calls) == 2:  # the first call is for the weights, the others begin steps
                os.kill(os.getpid(), signal.SIGINT)
            return seed(value)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "manual_seed", at_the_first_step)
            return train_recipe(*arguments)

    monkeypatch.setattr("dcn.reproduce.queue.train_recipe", interrupted)
    assert run_queue(plan, jobs, own, CPU) == QueueResult(0, {}, interrupted=True)
    assert read_table(own.results, Row) == []
    monkeypatch.setattr("dcn.reproduce.queue.train_recipe", train_recipe)
    assert run_queue(plan, jobs, own, CPU) == QueueResult(1, {}, interrupted=False)
    # The resumed run is the undisturbed one, bit for bit.
    undisturbed = next(row for row in read_table(locations.results, Row) if row.recipe == jobs[0].recipe)
    (resumed,) = read_table(own.results, Row)
    assert (resumed.mIoU, resumed.val, resumed.steps) == (undisturbed.mIoU, undisturbed.val, undisturbed.steps)


def test_intervals_over_images_are_those_of_the_kept_results(plan: Plan, locations: Locations) -> None:
    new = update_intervals(plan, CHOICE, locations)
    assert {(row.system, row.variant, row.reference) for row in new} == {
        (system, *pair)
        for system in ("deeplab", "rcnn")
        for pair in (("atrous4", "plain"), ("deformable", "plain"), ("deformable", "atrous4"))
    }
    rows = {(row.system, row.variant): row for row in read_table(locations.results, Row) if row.stage == "tune"}
    for row in read_table(locations.images, ImageRow):
        gap = getattr(rows[row.system, row.variant], row.metric) - getattr(rows[row.system, row.reference], row.metric)
        assert row.difference == pytest.approx(gap, abs=1e-4)
        assert row.low <= row.high
        assert row.images == 3
    assert update_intervals(plan, CHOICE, locations) == []


def test_detections_and_confusions_are_kept(plan: Plan, locations: Locations) -> None:
    with gzip.open(locations.run_folder(plan.job("letters", "rcnn", "plain", 0)) / "detections.json.gz", "rt") as file:
        content = json.load(file)
    assert len(content["truth"]["images"]) == 3
    with np.load(locations.run_folder(plan.job("letters", "deeplab", "plain", 0)) / "confusions.npz") as arrays:
        assert arrays["confusions"].sum() == 3 * 64 * 64


def test_tables_of_the_results(
    plan: Plan, locations: Locations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    titles = [table.title for table in all_tables(read_results(plan, locations.results))]
    assert titles[:3] == [
        "Deformable against plain, offsets at zero, one learnt grid and the best dilation",
        "Plain, atrous and deformable: letters",
        "Plain, atrous and deformable: letters, segmentation",
    ]
    command = ["reproduce", "--small", "--plan", str(TINY), "--output", str(locations.output), "--seeds", "0"]
    assert main([*command, "--tables", "--figure", str(tmp_path / "effects.png")]) == 0
    assert "### Plain, atrous and deformable: letters\n" in capsys.readouterr().out
    assert (tmp_path / "effects.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*command, "--figure", "effects.png"]) == 2
    assert "--figure: expected --tables beside it" in capsys.readouterr().err
    assert main([*command, "--dry-run", "--dataset", "upright", "--variant", "plain"]) == 0
    listed, total = capsys.readouterr().out.splitlines()[-2:]
    assert listed.startswith("left: 2 runs, with starts, for 1 row of")
    assert total == "hours of 0 of them, by the rows of their system and data that are there: 0.0"


def test_steps_are_timed_once_for_each_pair(
    plan: Plan, locations: Locations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = replace(locations, results=tmp_path / "results.csv")
    rows = measure_steps(plan, CHOICE, elsewhere, repetitions=2)
    assert [(row.system, row.variant, row.repetitions) for row in rows] == [
        (system, variant, 2) for system in ("deeplab", "rcnn") for variant in ("plain", "deformable")
    ]
    assert read_table(elsewhere.steps, StepRow) == rows
    assert all(row.ms > 0 and row.batch_size == 2 for row in rows)
    parameters = {(row.system, row.variant): row.parameters for row in read_table(locations.results, Row)}
    assert {(row.system, row.variant): row.parameters for row in rows}.items() <= parameters.items()
    command = ["reproduce", "--small", "--plan", str(TINY), "--output", str(locations.output), "--times"]
    assert main([*command, "--results", str(elsewhere.results)]) == 0  # `upright` has no start, the rest has rows
    assert capsys.readouterr().out == f"0 new rows in {elsewhere.steps}\n"


def test_expected_hours_follow_the_rows(plan: Plan, locations: Locations) -> None:
    rows = read_table(locations.results, Row)
    known = next(row for row in rows if row.stage == "tune")
    job = plan.job(known.dataset, known.system, known.variant, seed=7)
    job.settings["schedule"]["steps"] = 10 * known.steps
    paces = [
        row.seconds / row.steps
        for row in rows
        if (row.dataset, row.system, row.variant, row.stage) == (job.dataset, job.system, job.variant, job.stage)
    ]
    assert expected_hours(job, rows) == pytest.approx(10 * known.steps * sum(paces) / len(paces) / 3600)
    assert expected_hours(job, []) is None
