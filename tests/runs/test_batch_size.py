"""``schedule.batch_size=auto``: the arithmetic with made peaks, and real trainings."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dcn
from dcn.analysis import memory
from dcn.data import open_dataset
from dcn.engine import load_recipe
from dcn.engine.config import Recipe, ScheduleConfig, TransformsConfig
from dcn.engine.distributed import World
from dcn.engine.memory import OutOfMemoryError
from dcn.models import build
from dcn.runs import batch_size
from dcn.runs.batch_size import largest_sample, measured_batch_size
from dcn.runs.sources import read_recipe
from tests.runs.small import RECIPE

MIB = 2**20
ALONE = World(torch.device("cpu"))


class Linear(torch.nn.Module):
    """A model of one parameter, whose peaks are made up."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(MIB // 4))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "own.yaml").write_text(RECIPE)
    return load_recipe(tmp_path / "own.yaml", ["schedule.batch_size=auto"])


def _measure(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, world: World, *, fixed: int, image: int, room: int, taken: int = 0
) -> int | None:
    """The batch size of a process that has ``fixed`` MiB and takes ``image`` MiB more for each image."""
    monkeypatch.setattr(
        batch_size, "_peaks", lambda *a: [(fixed + image * count) * MIB for count in (len(a[2]), len(a[2]) + 1)]
    )
    monkeypatch.setattr(batch_size, "available_bytes", lambda: (room - taken) * MIB)
    monkeypatch.setattr(batch_size, "resident_bytes", lambda: taken * MIB)
    dataset = open_dataset("synthetic", None, "train", length=100, size=[64, 64], glyph_size=[14, 22])
    return measured_batch_size(recipe, Linear(), dataset, world)


@pytest.mark.parametrize(
    ("fixed", "image", "room", "expected"),
    [
        (100, 10, 300, 8),  # 0.6 * 300 - 100 is 80
        (100, 10, 299, 4),
        (100, 10, 10_000, 16),
        (100, 100, 100, 1),  # the measurement itself has fitted
    ],
)
def test_a_power_of_two_fits_the_share_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, fixed: int, image: int, room: int, expected: int
) -> None:
    assert _measure(monkeypatch, recipe, ALONE, fixed=fixed, image=image, room=room, taken=30) == expected


def test_parts_and_the_batch_size_of_the_rate_count(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    parts = replace(recipe, schedule=replace(recipe.schedule, accumulate=3))
    # Two of the limit of 16 go five times into three parts, so four images are in each part.
    assert _measure(monkeypatch, parts, ALONE, fixed=100, image=10, room=10_000) == 12
    large = replace(recipe, schedule=replace(recipe.schedule, lr_batch_size=64))
    assert _measure(monkeypatch, large, ALONE, fixed=100, image=10, room=10_000) == 64


def test_processes_share_the_memory_and_agree(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    class Pair(World):
        def gather(self, value: Any) -> list[Any]:
            return [value, 3]

    pair = Pair(torch.device("cpu"), 0, 2)
    # This process alone could take eight for itself; the other has room for three, which makes two for each.
    assert _measure(monkeypatch, recipe, pair, fixed=100, image=10, room=600) == 4


def test_memory_that_nobody_knows(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    monkeypatch.setattr(batch_size, "available_bytes", lambda: None)
    dataset = open_dataset("synthetic", None, "train", length=1, size=[64, 64], glyph_size=[14, 22])
    assert measured_batch_size(recipe, Linear(), dataset, ALONE) is None
    with pytest.raises(ValueError, match=r"schedule\.batch_size: auto needs a device whose memory can be measured"):
        batch_size.with_batch_size(recipe, Linear(), dataset, ALONE)


def test_the_largest_image_at_its_largest_size() -> None:
    class Sizes:
        sizes = ((80, 120), (128, 100), (64, 192))  # with a shorter side of 80: 80 x 120, 102 x 80, 80 x 240
        data = open_dataset("synthetic", None, "train", length=3, size=[64, 192], glyph_size=[14, 22])

        def __getitem__(self, index: int) -> Any:
            assert index == 2
            return self.data[index]

    def shape(**options: Any) -> tuple[int, ...]:
        sizes = TransformsConfig(short=(40, 80), long=400, **options)
        return tuple(largest_sample(Sizes(), sizes).image.shape[1:])  # type: ignore[arg-type]  # what it needs

    assert shape() == (80, 240)
    assert shape(scale=(0.5, 2.0)) == (160, 480)
    assert shape(crop=(64, 100)) == (64, 100)


def test_a_training_measures_and_records_a_number(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    run = dcn.train(recipe, output=tmp_path, device="cpu")
    assert run.recipe.schedule.batch_size in (1, 2, 4, 8, 16)
    assert [row["step"] for row in run.history if row["kind"] == "train"] == [1, 2]


def test_the_measurement_leaves_model_and_random_numbers_alone(recipe: Recipe) -> None:
    segmentation = replace(recipe, transforms=TransformsConfig(short=(64,), long=64))
    dataset = open_dataset(
        "synthetic", None, "train", length=2, size=[64, 64], num_classes=2, semantic=True, glyph_size=[14, 22]
    )
    model = build("deeplab_r18_dcn", dataset.classes, width=0.125)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert measured_batch_size(segmentation, model, dataset, ALONE) in (1, 2, 4, 8, 16)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_memory_of_the_second_image_or_of_the_first(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    dataset = open_dataset("synthetic", None, "train", length=1, size=[64, 64], glyph_size=[14, 22])
    fits = 1

    def step(model: object, samples: list[Any], *rest: object) -> dict[str, float]:
        if len(samples) > fits:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return {}

    monkeypatch.setattr(batch_size, "train_step", step)
    assert measured_batch_size(recipe, model, dataset, ALONE) == 1
    fits = 0
    with pytest.raises(
        OutOfMemoryError, match=r"a training step of 1 images of 64 x 64 pixels; lower transforms.short"
    ):
        measured_batch_size(recipe, model, dataset, ALONE)


@pytest.mark.parametrize("text", ["auto", "'auto'"])
def test_the_word_is_read_and_anything_else_is_a_number(recipe: Recipe, text: str) -> None:
    assert read_recipe(recipe, [f"schedule.batch_size={text}"]).schedule.batch_size == "auto"
    assert read_recipe(recipe, ["schedule.batch_size=8"]).schedule.batch_size == 8
    with pytest.raises(ValueError, match=r"schedule\.batch_size: expected int, got 'automatic'"):
        read_recipe(recipe, ["schedule.batch_size=automatic"])


def test_the_rate_waits_for_the_number() -> None:
    schedule = ScheduleConfig(steps=1, batch_size="auto", lr_batch_size=16)
    with pytest.raises(ValueError, match="batch_size: expected a number, got auto"):
        _ = schedule.scaled_lr


@pytest.mark.parametrize(
    ("files", "line", "expected"),
    [
        ({"a/b/memory.max": "1000", "a/b/memory.current": "300"}, "0::/a/b", [700]),
        (
            {"a/memory.max": "1000", "a/memory.current": "900", "a/memory.stat": "anon 5\ninactive_file 50"},
            "0::/a",
            [150],
        ),
        ({"a/memory.max": "max", "a/memory.current": "900"}, "0::/a", []),
        ({"memory.max": "500", "memory.current": "100"}, "0::/a", [400]),
        ({"memory/j/memory.limit_in_bytes": "800", "memory/j/memory.usage_in_bytes": "100"}, "4:memory:/j", [700]),
        ({"memory/j/memory.limit_in_bytes": str(2**63), "memory/j/memory.usage_in_bytes": "1"}, "4:memory:/j", []),
    ],
    ids=["limit", "cache", "no-limit", "of-the-container", "version-1", "version-1-no-limit"],
)
def test_limits_of_control_groups(tmp_path: Path, files: dict[str, str], line: str, expected: list[int]) -> None:
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        (path.parent / "memory.stat").touch()
    (tmp_path / "own").write_text(line + "\n")
    rooms = [memory._room(folder) for folder in memory._control_groups(tmp_path / "fs", tmp_path / "own")]
    assert [room for room in rooms if room is not None] == expected


def test_available_memory_is_known_here() -> None:
    free, resident = memory.available_bytes(), memory.resident_bytes()
    if free is None or resident is None:
        pytest.skip("no /proc on this system")
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    assert 0 < free <= pages * size
    assert 0 < resident <= pages * size
