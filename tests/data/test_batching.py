from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from dcn.data.batching import (
    TrainingBatches,
    evaluation_batches,
    evaluation_loader,
    sample_generator,
    training_loader,
)
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.datasets.voc import Voc
from dcn.data.transforms import Compose, RandomColor, RandomCrop, RandomFlip
from dcn.structures import Sample, Target
from tests.data.made_files import make_voc

WIDE, TALL = (30, 40), (40, 30)
SIZES = [WIDE, TALL, WIDE, WIDE, TALL, (30, 30), TALL, WIDE, WIDE, TALL, WIDE]  # 7 wide, 4 tall
AUGMENT = Compose((RandomFlip(), RandomColor(), RandomCrop((60, 60))))


@pytest.mark.parametrize("group", [True, False], ids=["grouped", "mixed"])
@pytest.mark.parametrize(("batch", "world"), [(1, 1), (2, 1), (3, 2), (4, 1), (16, 1), (5, 3)])
def test_every_image_is_in_every_epoch(group: bool, batch: int, world: int) -> None:
    ranks = [TrainingBatches(SIZES, batch, 3, group, rank, world) for rank in range(world)]
    for epoch in (0, 1, 7):
        batches = [one.epoch(epoch) for one in ranks]
        assert all(len(own) == ranks[0].steps_per_epoch for own in batches)
        assert all(len(indices) == batch for own in batches for indices in own)
        counts = Counter(index for own in batches for indices in own for index in indices)
        assert counts.keys() == set(range(len(SIZES)))
        assert counts.total() == ranks[0].steps_per_epoch * batch * world
        assert counts.total() - len(SIZES) < batch * world


def test_groups_share_at_most_the_rest() -> None:
    for epoch in range(20):
        batches = TrainingBatches(SIZES, 2, seed=epoch).epoch(epoch)
        shapes = [{SIZES[index][0] > SIZES[index][1] for index in batch} for batch in batches]
        assert sum(len(shape) == 2 for shape in shapes) <= 1  # 7 wide: one is left over
    mixed = [TrainingBatches(SIZES, 2, epoch, False).epoch(epoch) for epoch in range(20)]
    shapes = [{SIZES[i][0] > SIZES[i][1] for i in batch} for batches in mixed for batch in batches]
    assert sum(len(shape) == 2 for shape in shapes) > 30


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = TrainingBatches(SIZES, 2, seed=5)
    assert first.epoch(3) == TrainingBatches(list(SIZES), 2, seed=5).epoch(3)
    assert first.epoch(3) != first.epoch(4)
    assert first.epoch(3) != TrainingBatches(SIZES, 2, seed=6).epoch(3)


def test_ranks_take_parts_of_the_same_step() -> None:
    one = TrainingBatches(SIZES, 4, seed=1)
    halves = [TrainingBatches(SIZES, 2, seed=1, rank=rank, world=2) for rank in (0, 1)]
    for step in range(2 * one.steps_per_epoch):
        assert one.batch(step) == halves[0].batch(step) + halves[1].batch(step)


def test_steps_run_through_the_epochs() -> None:
    batches = TrainingBatches(SIZES, 4, seed=1)
    assert batches.steps_per_epoch == 3
    expected = [[(epoch, index) for index in batch] for epoch in range(3) for batch in batches.epoch(epoch)]
    assert [batches.batch(step) for step in range(9)] == expected


@pytest.mark.parametrize(("batch", "world"), [(1, 1), (4, 1), (2, 3), (50, 2)])
def test_evaluation_sees_each_image_once(batch: int, world: int) -> None:
    parts = [evaluation_batches(11, batch, rank, world) for rank in range(world)]
    assert sorted(itertools.chain(*itertools.chain(*parts))) == list(range(11))
    assert all(0 < len(indices) <= batch for part in parts for indices in part)
    assert parts[0][0][0] == 0


def test_evaluation_of_nothing() -> None:
    assert evaluation_batches(0, 4) == []
    assert evaluation_batches(1, 4, rank=1, world=2) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": []}, "sizes: expected the size of at least one image, got none"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"rank": 2, "world": 2}, "rank: expected 0 to world - 1 = 1, got 2"),
    ],
    ids=["empty", "batch", "rank"],
)
def test_wrong_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingBatches(**({"sizes": SIZES, "batch_size": 2} | options))  # type: ignore[arg-type]


def test_generators_differ_by_every_part() -> None:
    keys = list(itertools.product((0, 1), (0, 1), (0, 1)))
    numbers = {key: float(torch.rand((), generator=sample_generator(*key))) for key in keys}
    assert len(set(numbers.values())) == len(keys)
    assert numbers[1, 0, 1] == float(torch.rand((), generator=sample_generator(1, 0, 1)))


def _equal(a: list[Sample], b: list[Sample]) -> bool:
    def boxes(sample: Sample) -> torch.Tensor:
        assert isinstance(sample.target, Target)
        return sample.target.boxes

    return len(a) == len(b) and all(
        torch.equal(x.image, y.image) and torch.equal(boxes(x), boxes(y)) for x, y in zip(a, b, strict=True)
    )


def _data() -> Synthetic:
    return Synthetic("train", length=5, size=(64, 80), glyph_size=(20, 30))


def _steps(start: int, count: int, workers: int = 0, method: str | None = None) -> list[list[Sample]]:
    data = _data()
    batches = TrainingBatches(data.sizes, 2, seed=4)
    loader = training_loader(data, batches, AUGMENT, start=start, workers=workers, start_method=method)
    return list(itertools.islice(loader, count))


@pytest.mark.parametrize(
    ("workers", "method"), [(0, None), (1, "fork"), (2, "fork"), (1, "spawn")], ids=["here", "one", "two", "spawn"]
)
def test_continuing_gives_the_same_batches(workers: int, method: str | None) -> None:
    unbroken = _steps(0, 8)
    later = _steps(5, 3, workers, method)
    assert all(_equal(a, b) for a, b in zip(unbroken[5:], later, strict=True))


def test_augmentation_changes_with_the_epoch() -> None:
    data = _data()
    alone = TrainingBatches(data.sizes[:1], 1)
    first, second = itertools.islice(training_loader(data, alone, AUGMENT), 2)
    assert not _equal(first, second)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_global_stream(workers: int) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    _steps(0, 2, workers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_loader(workers: int) -> None:
    data = _data()
    batches = list(evaluation_loader(data, 2, workers=workers))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert _equal([sample for batch in batches for sample in batch], [data[i] for i in range(5)])


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_workers_arrive(tmp_path: Path, workers: int) -> None:
    data = Voc(make_voc(tmp_path), "train")
    (tmp_path / "JPEGImages" / "b.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"b.png: the image cannot be decoded"):
        list(evaluation_loader(data, 1, workers=workers))


@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "begun"])
def test_a_program_ends_though_its_loader_is_still_referenced(begun: bool) -> None:
    """The workers ignore SIGTERM, with which multiprocessing would end them at the exit of Python."""
    code = (
        "import tests.data.test_batching as made\n"
        "data = made._data()\n"
        "made.kept = loader = made.training_loader(data, made.TrainingBatches(data.sizes, 2), workers=2)\n"
        f"{begun} and next(loader)\n"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False)
    assert done.returncode == 0


def test_closing_ends_the_workers() -> None:
    data = _data()
    loader = training_loader(data, TrainingBatches(data.sizes, 2), workers=2)
    next(loader)
    assert len(multiprocessing.active_children()) == 2
    loader.close()  # type: ignore[attr-defined]  # an iterator that is a generator
    assert multiprocessing.active_children() == []
