"""The published protocols: rows of the tables, what is planned, and a whole table on generated data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dcn.cli.main import main
from dcn.engine.recipe import load_recipe
from dcn.models.zoo.published import PUBLISHED
from dcn.reproduce.papers import DOWNLOADS, PAPER_TABLES, TABLE2, Line, folder_of, lines_of
from dcn.reproduce.protocol import (
    FINISHED,
    Setting,
    comparison,
    hours_of,
    planned,
    processes,
    reached_numbers,
    train_planned,
    training_of,
    write_rows,
)

TRAINED = [name for name in PAPER_TABLES if name != "table4"]


@pytest.mark.parametrize("table", TRAINED)
def test_every_row_has_a_recipe_a_number_and_data_that_can_be_had(table: str) -> None:
    for line in lines_of(table):
        recipe = load_recipe(line.recipe)
        assert recipe.model.name == line.model
        assert line.published or table == "table2"
        assert all(10 < value < 100 for value in line.published.values())
        assert folder_of(recipe.data.root) in DOWNLOADS


# Counted in the paper: Table 1 has five columns and five rows of systems and data; Table 3 has four systems.
@pytest.mark.parametrize(
    ("table", "rows", "one"),
    [
        ("table1", 25, ("rfcn_r101_dconv6_voc", {"AP50": 81.5, "AP70": 65.4})),
        ("table3", 29, ("rcnn_r101_dpool_voc", {"AP50": 78.3, "AP70": 66.6})),
        ("table5", 14, ("rpn_r101_dcn_coco", {"AP": 25.8})),
        ("voc", 6, ("rfcn_r101_voc", {"AP50": 79.6, "AP70": 63.1})),  # the README's, not the paper's 80.0 / 61.8
        ("coco", 4, ("rcnn_r101_dcn_coco", {"AP": 35.0})),
        ("fpn", 4, ("fpn_r101_dcn_coco_multiscale", {"AP": 44.4})),
        ("deeplab", 4, ("voc12_deeplab_dcn", {"mIoU": 75.9})),
        ("zoo", 17, ("mask_rcnn_r50_fpn_dconv_c3-c5_1x", {"AP": 41.8, "mask/AP": 37.4})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_and_numbers_of_the_tables(table: str, rows: int, one: tuple[str, dict[str, float]]) -> None:
    lines = lines_of(table)
    assert len(lines) == rows
    assert one in [(line.recipe, line.published) for line in lines]


def test_the_numbers_are_those_of_the_printed_text() -> None:
    for row in (row for own in PUBLISHED.values() for row in own):
        assert row.numbers
        assert all(f"{number:.1f}" in row.metrics for number in row.numbers.values())
    assert set(TABLE2) == {"c5.0", "c5.1", "c5.2"}
    means = [[layer[name][0] for name in ("small", "medium", "large")] for layer in TABLE2.values()]
    assert all(row == sorted(row) for row in means)  # the paper's claim


@pytest.mark.parametrize(
    ("recipe", "training"),
    [
        ("fpn_r101_dcn_coco_multiscale", "fpn_r101_dcn_coco"),
        ("rfcn_aligned_inception_resnet_coco_multiscale_voting", "rfcn_aligned_inception_resnet_coco"),
        ("fpn_r101_coco", "fpn_r101_coco"),
    ],
)
def test_recipes_that_differ_in_testing_alone_are_one_training(recipe: str, training: str) -> None:
    assert training_of(recipe) == training


def test_hours_follow_from_the_operations(tmp_path: Path) -> None:
    """R-FCN on VOC: 145.9 10^9 multiply-adds at 600 x 1000, of which 4:3 photos have 600 x 800; 14 epochs of 16,551."""
    expected = 145.9e9 * 0.8 * 14 * 16_551 * 3 * 2 / (6e12 * 4) / 3600
    recipe = load_recipe("rfcn_r101_voc")
    assert hours_of("rfcn_r101_voc", recipe, 4, Setting(tmp_path, tmp_path)) == pytest.approx(expected, rel=0.001)
    # DeepLab is trained on windows of 768 x 1024 of the 1024 x 2048 that its operations were counted at.
    expected = 425.6e9 * 0.375 * 106 * 2975 * 6 / 6e12 / 3600
    recipe = load_recipe("cityscapes_deeplab")
    assert hours_of("cityscapes_deeplab", recipe, 1, Setting(tmp_path, tmp_path)) == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize(("recipe", "gpus", "count"), [("coco_1x", 8, 8), ("original_voc", 8, 4), ("coco_1x", 6, 4)])
def test_processes_share_the_batch_evenly(recipe: str, gpus: int, count: int) -> None:
    assert processes(load_recipe(recipe), gpus) == count


def test_a_dry_run_lists_runs_hours_and_downloads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "deeplab", "--data", str(tmp_path), "--output", str(tmp_path / "out"), "--gpus", "8"]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "cityscapes_deeplab_dcn: missing, " in out
    assert " hours on 1 GPU, into " in out  # its batch is one image
    assert f"leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip into {tmp_path / 'cityscapes'}" in out
    assert f"benchmark.tgz into {tmp_path / 'SBD'}" in out
    assert f"{tmp_path / 'weights' / 'resnet_v1_101-0000.params'} is not there" in out
    assert not (tmp_path / "out").exists()
    assert main(command) == 2
    assert "expected all data and weights, got:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table9"], "table: expected one of table1, table2"),
        ([], "expected one table or --small, got neither"),
        (["voc", "--small"], "expected one table or --small, got voc and --small"),
        (["voc"], "--data: expected the folder of the data sets"),
        (["voc", "--data", ".", "--gpus", "0"], "--gpus: expected 1 or more, got 0"),
        (["--small", "schedule.lr=1"], "schedule.lr=1: --small takes its settings from a plan"),
    ],
    ids=["table", "nothing", "both", "data", "gpus", "change"],
)
def test_wrong_calls(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err


RECIPE = """\
model:
  name: deeplab_r18
  options: {width: 0.125, stem_channels: 8, head_channels: 8, norm: train, frozen_stages: 0}
data: {format: synthetic, options: {length: 2, size: [64, 64], num_classes: 2, glyph_size: [20, 38], semantic: true}}
transforms: {short: [64], long: 64, flip: 0.0}
schedule: {steps: 2, batch_size: 2, lr: 0.01}
eval: {every: 2, metric: miou, images: 1, pictures: 0, report: false}
workers: 0
"""


def test_a_table_from_training_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    lines = [
        Line("deeplab_r18", str(recipe), {"mIoU": 70.0}, "VOC 2012 val", "a test"),
        Line("deeplab_r18", str(recipe), {"accuracy": 50.0}, "VOC 2012 val", "a test"),
    ]
    setting = Setting(tmp_path, tmp_path / "out", changes=("seed=7",))
    plan = planned(lines, setting)
    assert [(one.state, one.hours, one.needs) for one in plan] == [("missing", None, ())]
    assert [row.reached for row in reached_numbers(lines, setting)] == [None, None]
    assert train_planned(plan, setting)  # in a process of its own
    assert "seed: 7" in (plan[0].folder / "recipe.yaml").read_text(encoding="utf-8")
    assert [one.state for one in planned(lines, setting)] == [FINISHED]
    rows = reached_numbers(lines, setting)
    metrics = json.loads((plan[0].folder / "eval" / "tiny" / "test.json").read_text(encoding="utf-8"))
    assert [row.reached for row in rows] == [round(100 * metrics[name], 1) for name in ("mIoU", "accuracy")]
    write_rows(tmp_path / "out" / "table", "A table", rows)
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        assert [row["published"] for row in csv.DictReader(file)] == ["70.0", "50.0"]
    assert json.loads((tmp_path / "out" / "table.json").read_text())[0]["reached"] == rows[0].reached
    cells = comparison("A table", rows).rows[0]
    gap = 100 * metrics["mIoU"] - 70
    assert cells[3:8] == ("70.0", "VOC 2012 val", f"{rows[0].reached:.1f}", "test", f"{gap:+.1f}")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was started again")

    monkeypatch.setattr("subprocess.run", never)
    assert train_planned(planned(lines, setting), setting)


def test_an_interrupted_training_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    line = Line("deeplab_r18", str(recipe), {"mIoU": 70.0}, "VOC 2012 val", "a test")
    setting, codes, commands = Setting(tmp_path, tmp_path / "out", gpus=2), [130, 0, 1], list[list[str]]()

    class Ended:
        def __init__(self, code: int) -> None:
            self.returncode = code

    def start(command: list[str], **_: object) -> Ended:
        folder = tmp_path / "out" / "tiny" / "reproduce"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").touch()
        (folder / "trainer.pt").touch()
        commands.append(command)
        return Ended(codes[len(commands) - 1])

    monkeypatch.setattr("subprocess.run", start)
    assert not train_planned(planned([line], setting), setting)
    assert [one.state for one in planned([line], setting)] == ["to be resumed"]
    assert train_planned(planned([line], setting), setting)
    assert commands[0][1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert commands[0][6:10] == ["-m", "dcn", "train", str(recipe)]
    assert commands[1][6:] == ["-m", "dcn", "train", "--resume", str(tmp_path / "out" / "tiny" / "reproduce")]
    (tmp_path / "out" / "tiny" / "reproduce" / FINISHED).unlink()
    with pytest.raises(ValueError, match=r"the training of .*tiny\.yaml ended with code 1"):
        train_planned(planned([line], setting), setting)
