from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dcn.engine.checkpoint import read_weights
from dcn.engine.config import EvalConfig
from dcn.engine.distributed import World, choose_device, joined_world
from dcn.engine.train import train
from dcn.runs.measure import fill, predictions
from dcn.runs.tasks import DETECTION
from dcn.structures import Sample
from dcn.tta import TTA
from tests.engine.tiny import STEPS_PER_EPOCH, CountingMetric, new_detector, recipe, sample, stream


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"device: .*'{name}'"):
        choose_device(name)


def test_one_process_has_nothing_to_exchange() -> None:
    world = World(torch.device("cpu"))
    assert world.any(True)
    assert not world.any(False)
    assert world.gather("x") == ["x"]
    assert isinstance(world.wrap(torch.nn.Linear(1, 1)), torch.nn.Linear)


def _share(world: World, start: int) -> Iterator[list[Sample]]:
    """This process's half of the batches of one process."""
    for batch in stream(start):
        yield batch[world.rank * 2 : world.rank * 2 + 2]


def _evaluate(model: torch.nn.Module, batches: list[list[Sample]], world: World) -> dict[str, float]:
    view = DETECTION.view(model, TTA(), None)
    pairs = predictions(DETECTION, model, view, batches, world.device)
    metric = fill(DETECTION, CountingMetric(), pairs, world, EvalConfig())
    return {} if metric is None else metric.compute()


def main(folder: Path) -> None:
    """What each of two processes does."""
    with joined_world("cpu") as world:
        os.fsync = lambda fd: None
        model = new_detector()
        settings = recipe(steps=2)
        # Without its random part the loss is a mean over images, so that the halves add up to the whole.
        torch.rand = lambda *_: torch.zeros(2)  # type: ignore[assignment]
        train(model, lambda start: _share(world, start), STEPS_PER_EPOCH, settings, folder, world)
        mine = [[sample(index)] for index in range(world.rank, 5, 2)]
        metrics = _evaluate(model, mine, world)
        (folder / f"metrics_{world.rank}.json").write_text(json.dumps(metrics))


def test_two_processes_train_and_evaluate_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    settings["PYTHONPATH"] = os.pathsep.join((str(root / "src"), str(root)))
    command = [sys.executable, "-m", "tests.engine.test_distributed", str(tmp_path)]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    both = [subprocess.Popen(command, cwd=root, env=os.environ | settings | rank) for rank in ranks]
    assert [process.wait(timeout=300) for process in both] == [0, 0]

    (tmp_path / "one").mkdir()
    monkeypatch.setattr(torch, "rand", lambda *_: torch.zeros(4))
    model = new_detector()
    world = World(torch.device("cpu"))
    train(model, stream, STEPS_PER_EPOCH, recipe(steps=2), tmp_path / "one", world)
    shared, _ = read_weights(tmp_path / "weights" / "last.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(shared[name], value, rtol=1e-5, atol=1e-6)
    expected = _evaluate(model, [[sample(index)] for index in range(5)], world)
    assert json.loads((tmp_path / "metrics_0.json").read_text()) == expected
    assert json.loads((tmp_path / "metrics_1.json").read_text()) == {}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    # What comes after is torch's own shutdown: its threads have aborted it once in some hundred runs.
    os._exit(0)
