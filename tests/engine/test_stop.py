"""A signal to the whole process group, as batch systems and ``timeout`` send it, while loaders work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dcn.data.batching import TrainingBatches, training_loader
from dcn.engine.checkpoint import read_state
from dcn.engine.distributed import World
from dcn.engine.stop import stop_requests
from dcn.engine.train import train
from dcn.structures import Sample
from tests.engine.tiny import STEPS_PER_EPOCH, new_detector, recipe, sample


class _Dataset:
    """Sixteen images; one takes a while, so that the loaders are always at work."""

    name = "tiny"
    classes = ("dark", "bright")
    sizes = [(6, 10)] * 16  # part of the protocol of a data set

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Sample:
        time.sleep(0.005)
        return sample(index)

    def image_path(self, index: int) -> Path | None:
        return None


def main(folder: Path) -> None:
    batches = TrainingBatches([(6, 10)] * 16, 4)

    def stream(start: int) -> Iterator[list[Sample]]:
        for step, samples in enumerate(training_loader(_Dataset(), batches, start=start, workers=2), start):
            if step == 3:
                print("running", flush=True)
            yield samples

    settings = recipe(steps=100_000)
    outcome = train(new_detector(), stream, STEPS_PER_EPOCH, settings, folder, World(torch.device("cpu")))
    sys.exit(0 if outcome.finished else 130)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_ends_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(root / "src"), str(root)))}
    command = [sys.executable, "-m", "tests.engine.test_stop", str(tmp_path)]
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "stopping after this step" in errors
    assert read_state(tmp_path / "trainer.pt")["step"] >= 3
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_acts(number: signal.Signals) -> None:
    class ActedError(Exception):
        pass

    def act(*_: Any) -> None:
        raise ActedError

    before: Any = signal.signal(number, act)
    try:
        with stop_requests() as seen:
            os.kill(os.getpid(), number)
            assert seen == [number]
            with pytest.raises(ActedError):
                os.kill(os.getpid(), number)
        handler: Callable[..., Any] | int | None = signal.getsignal(number)
        assert handler is act
    finally:
        signal.signal(number, before)


if __name__ == "__main__":
    os.fsync = lambda fd: None
    main(Path(sys.argv[1]))
