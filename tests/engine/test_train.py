from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.engine.checkpoint import read_weights
from dcn.engine.config import Recipe
from dcn.engine.distributed import World
from dcn.engine.lock import locked
from dcn.engine.train import Batches, DivergedError, Evaluate, Outcome, autocast, best_metric, step_seed, train
from dcn.structures import Sample
from tests.engine.tiny import STEPS_PER_EPOCH, TinyDetector, new_detector, recipe, stream

CPU = World(torch.device("cpu"))
TIMES = ("images_per_second",)


def _train(folder: Path, settings: Recipe, model: TinyDetector | None = None) -> tuple[TinyDetector, Outcome]:
    folder.mkdir(exist_ok=True)
    model = model or new_detector()
    score = lambda step: {"AP": step / 100}  # noqa: E731
    return model, train(model, stream, STEPS_PER_EPOCH, settings, folder, CPU, evaluate=score)


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def _weights(model: TinyDetector) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_run_is_the_plain_loop_of_torch(tmp_path: Path) -> None:
    """Same weights as ten lines with torch.optim.SGD, and the losses in the log are the means of its losses."""
    model, outcome = _train(tmp_path, recipe(steps=6))
    other = new_detector().train()
    optimizer = torch.optim.SGD(other.parameters(), 0.1, 0.9, weight_decay=1e-4)
    source = stream(0)
    losses = []
    for step in range(6):
        torch.manual_seed(step_seed(0, step))
        warm = min(1.0, 1 - (1 - step / 2) * 0.9)
        optimizer.param_groups[0]["lr"] = 0.1 * warm * (0.1 if step >= 5 else 1.0)
        samples = next(source)
        parts = other([s.image for s in samples], [s.target for s in samples])
        assert isinstance(parts, dict)
        loss = parts["loss_class"] + parts["loss_noise"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for name, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    logged = [row["loss"] for row in _rows(tmp_path) if row["kind"] == "train"]
    np.testing.assert_allclose(logged, [np.mean(losses[:3]), np.mean(losses[3:])], rtol=1e-5)
    assert (outcome.step, outcome.finished, outcome.best) == (6, True, 0.06)


def test_a_run_that_was_killed_resumes_bit_for_bit(tmp_path: Path) -> None:
    """SIGKILL in update 5, after the state of step 4 and a row that must not appear twice."""
    whole, _ = _train(tmp_path / "whole", recipe())
    killed = tmp_path / "killed"
    killed.mkdir()
    command = [sys.executable, "-m", "tests.engine.tiny", str(killed), "7"]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(root / "src"), str(root)))}
    assert subprocess.run(command, cwd=root, env=environment, check=False).returncode == -signal.SIGKILL
    assert _rows(killed)[-1]["step"] == 6
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 7}\n{"kind": "tr')
    resumed, outcome = _train(killed, recipe())
    assert outcome.finished
    assert _rows(killed) == _rows(tmp_path / "whole")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_an_interrupt_saves_and_the_run_resumes(tmp_path: Path) -> None:
    whole, _ = _train(tmp_path / "whole", recipe())

    def interrupted(start: int) -> Iterator[list[Sample]]:
        for step, batch in enumerate(stream(start), start):
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    half = tmp_path / "half"
    half.mkdir()
    outcome = train(
        new_detector(), interrupted, STEPS_PER_EPOCH, recipe(), half, CPU, evaluate=lambda step: {"AP": step / 100}
    )
    assert (outcome.step, outcome.finished) == (5, False)
    resumed, _ = _train(half, recipe())
    assert _rows(half) == _rows(tmp_path / "whole")
    assert all(torch.equal(resumed.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_parts_of_a_batch_add_up_to_the_batch(tmp_path: Path) -> None:
    """Without the random part of its loss the detector's gradient is a mean over images."""

    class Calm(TinyDetector):
        def forward(self, *arguments: Any, **named: Any) -> Any:
            actual = super().forward(*arguments, **named)
            return {"loss_class": actual["loss_class"]} if isinstance(actual, dict) else actual

    torch.manual_seed(0)
    whole, _ = _train(tmp_path / "whole", recipe(), Calm())
    torch.manual_seed(0)
    parts, _ = _train(tmp_path / "parts", recipe(accumulate=2), Calm())
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_the_run_folder_is_complete(tmp_path: Path) -> None:
    _train(tmp_path, recipe())
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    reference = {
        "metrics.jsonl",
        "trainer.pt",
        "loss.png",
        "ap.png",
        "weights/last.safetensors",
        "weights/best.safetensors",
    }
    assert reference <= files
    assert any(name.startswith("tensorboard/events") for name in files)
    kinds = [(row["kind"], row["step"]) for row in _rows(tmp_path)]
    assert kinds == [("eval", 2), ("train", 3), ("eval", 4), ("train", 6), ("eval", 6), ("train", 8), ("eval", 8)]


def test_the_best_weights_are_those_of_the_best_evaluation(tmp_path: Path) -> None:
    model, seen = new_detector(), dict[int, dict[str, Tensor]]()

    def score(step: int) -> dict[str, float]:
        seen[step] = _weights(model)
        return {"AP": {2: 0.3, 4: 0.8, 6: math.nan, 8: 0.8}[step]}

    outcome = train(model, stream, STEPS_PER_EPOCH, recipe(), tmp_path, CPU, evaluate=score)
    state, info = read_weights(tmp_path / "weights" / "best.safetensors")
    assert (outcome.best, info.step) == (0.8, 4)
    assert all(torch.equal(state[name], value) for name, value in seen[4].items())
    assert [row["AP"] for row in _rows(tmp_path) if row["kind"] == "eval"] == [0.3, 0.8, None, 0.8]


def test_divergence_stops_and_names_the_loss(tmp_path: Path) -> None:
    model = new_detector()
    torch.nn.init.constant_(model.layer.weight, math.nan)
    with pytest.raises(DivergedError, match=r"loss_class = nan.* at step 0; .*schedule\.lr"):
        _train(tmp_path, recipe(), model)


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    before = _weights(new_detector())
    settings = recipe(steps=1, clip_norm=1e-3, lr=1.0, weight_decay=0.0, warmup=recipe().schedule.warmup.__class__(0))
    model, _ = _train(tmp_path, settings)
    moved = torch.cat([(value - before[name]).flatten() for name, value in model.state_dict().items()]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-3)


def test_bf16_runs_on_the_cpu_and_fp16_is_refused() -> None:
    with autocast("bf16", torch.device("cpu")):
        product = torch.ones(2, 2) @ torch.full((2, 2), 1 / 3)
    assert product.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="amp: expected bf16 or off on the CPU, got fp16"):
        autocast("fp16", torch.device("cpu"))


def test_seeds_differ_in_every_part() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(3)}
    assert len(seeds) == 450


@pytest.mark.parametrize(
    ("metrics", "chosen", "expected"),
    [
        ({"AP": 0.0, "AP50": 0.0}, None, "AP"),
        ({"AP50": 0.0}, None, "AP50"),
        ({"mIoU": 0.0}, None, "mIoU"),
        ({"AP": 0.0, "AP75": 0.0}, "AP75", "AP75"),
    ],
    ids=["coco", "voc", "other", "named"],
)
def test_what_decides(metrics: dict[str, float], chosen: str | None, expected: str) -> None:
    assert best_metric(metrics, chosen) == expected


def test_an_unknown_best_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eval\.best: expected the name of a metric, got 'AP5'"):
        best_metric({"AP": 0.0}, "AP5")


def _evaluate(step: int) -> dict[str, float]:
    return {"AP": {2: 0.3, 4: 0.8, 6: 0.5, 8: 0.1}[step]}


def _outcome(folder: Path, batches: Batches = stream, evaluate: Evaluate = _evaluate, **named: Any) -> Outcome:
    folder.mkdir(exist_ok=True)
    return train(new_detector(), batches, STEPS_PER_EPOCH, recipe(), folder, CPU, evaluate=evaluate, **named)


def _best(folder: Path) -> bytes:
    return (folder / "weights" / "best.safetensors").read_bytes()


def test_an_evaluation_that_fails_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = _outcome(tmp_path / "whole")

    def fail(step: int) -> dict[str, float]:
        if step == 4:
            raise ValueError("val/7.jpg: cannot be decoded")
        return _evaluate(step)

    caplog.set_level("INFO")
    with pytest.raises(ValueError, match="cannot be decoded"):
        _outcome(tmp_path / "run", evaluate=fail)
    assert "the evaluation after step 4 failed; the last good checkpoint is that of step 4" in caplog.text
    assert _outcome(tmp_path / "run") == whole
    assert _rows(tmp_path / "run") == _rows(tmp_path / "whole")
    assert _best(tmp_path / "run") == _best(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_at_an_evaluation_does_not_lose_it(tmp_path: Path, number: signal.Signals) -> None:
    """Step 4 has the best evaluation; it is made up for by the resumed run, from the same weights."""
    whole = _outcome(tmp_path / "whole")

    def interrupted(start: int) -> Iterator[list[Sample]]:
        for step, batch in enumerate(stream(start), start):
            if step == 3:
                os.kill(os.getpid(), number)
            yield batch

    half = _outcome(tmp_path / "run", interrupted)
    assert (half.step, half.finished, half.best) == (4, False, 0.3)
    assert _outcome(tmp_path / "run") == whole
    assert whole.best == 0.8
    assert _rows(tmp_path / "run") == _rows(tmp_path / "whole")
    assert _best(tmp_path / "run") == _best(tmp_path / "whole")


def test_a_stop_during_an_evaluation_makes_no_further_step(tmp_path: Path) -> None:
    def stopped(step: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return _evaluate(step)

    assert _outcome(tmp_path, evaluate=stopped).step == 2


def test_a_finished_run_says_the_same_again(tmp_path: Path) -> None:
    first = _outcome(tmp_path)

    def never(step: int) -> dict[str, float]:
        raise AssertionError

    assert _outcome(tmp_path, evaluate=never) == first


def test_a_mistyped_best_is_refused_before_the_first_step(tmp_path: Path) -> None:
    def never(start: int) -> Iterator[list[Sample]]:
        raise AssertionError

    settings = replace(recipe(), eval=replace(recipe().eval, best="AP05"))
    with pytest.raises(
        ValueError, match=r"eval\.best: expected the name of a metric, got 'AP05'; did you mean .*'AP50'"
    ):
        train(new_detector(), never, STEPS_PER_EPOCH, settings, tmp_path, CPU, metric_names=("AP", "AP50", "AP75"))
    assert list(tmp_path.iterdir()) == []


class _BrokenGradient(torch.autograd.Function):
    """The value passes, its gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        return gradient[0] * math.nan


class _BreaksAtStep(TinyDetector):
    """Losses stay finite; from some step on their gradient is not."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def forward(self, *arguments: Any, **named: Any) -> Any:
        actual = super().forward(*arguments, **named)
        if isinstance(actual, dict):
            self.left -= 1
            if self.left < 0:
                actual["loss_noise"] = _BrokenGradient.apply(actual["loss_noise"])
        return actual


@pytest.mark.parametrize("clip_norm", [None, 10.0], ids=["plain", "clipped"])
@pytest.mark.parametrize("step", [3, 5, 7], ids=["before-a-checkpoint", "later", "last"])
def test_a_broken_gradient_stops_and_the_good_checkpoint_stays(
    tmp_path: Path, step: int, clip_norm: float | None
) -> None:
    message = rf"gradient: expected a finite norm, got nan, NaN or infinite in layer\.weight.* at step {step}; "
    message += rf".*that of step {step - 1}"
    model = _BreaksAtStep(step)
    with pytest.raises(DivergedError, match=message):
        _train(tmp_path, recipe(clip_norm=clip_norm), model)
    for name in ("last", "best"):
        state, info = read_weights(tmp_path / "weights" / f"{name}.safetensors")
        assert info.step == step - 1
        assert all(bool(value.isfinite().all()) for value in state.values())


def test_weights_that_are_not_finite_are_not_written_at_the_last_step_either(tmp_path: Path) -> None:
    """The gradient of the only step is finite, the update is not."""
    settings = recipe(steps=1, lr=3e38, weight_decay=1e10, warmup=recipe().schedule.warmup.__class__(0))
    with pytest.raises(
        DivergedError,
        match=r"weights: expected finite values, got NaN or infinite ones in layer.*no checkpoint was saved yet",
    ):
        _train(tmp_path, settings)
    assert not (tmp_path / "weights").exists()


def test_a_resumed_run_with_other_threads_says_what_is_not_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    threads = torch.get_num_threads()
    _outcome(tmp_path)
    _outcome(tmp_path)
    assert "not promised" not in caplog.text
    try:
        torch.set_num_threads(threads + 1)
        _outcome(tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert f"threads {threads} before, {threads + 1} now: the result is not promised" in caplog.text
    assert f"OMP_NUM_THREADS={threads}" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr_multipliers": {"*bias": 2.0}}, ""),
        ({"optimizer": "adamw"}, r"\(optimizer: expected the state of adamw, got that of sgd, momentum_form=torch\)"),
        ({"momentum_form": "mxnet"}, r"\(optimizer: expected the state of sgd, momentum_form=mxnet, got that of sgd"),
    ],
    ids=["groups", "adamw", "mxnet"],
)
def test_a_resumed_run_keeps_its_optimizer(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    _outcome(tmp_path)
    with pytest.raises(ValueError, match="the saved optimizer does not fit this recipe.*" + message):
        train(new_detector(), stream, STEPS_PER_EPOCH, recipe(**change), tmp_path, CPU)


def test_what_the_probe_sees_is_logged_with_the_losses(tmp_path: Path) -> None:
    watched = []

    @contextmanager
    def probe() -> Iterator[Any]:
        watched.append(True)
        yield lambda: {"offsets/mean": 0.25}

    plain = _outcome(tmp_path / "plain")
    assert _outcome(tmp_path / "watched", probe=probe) == plain
    rows = [row for row in _rows(tmp_path / "watched") if row["kind"] == "train"]
    assert [row.pop("offsets/mean") for row in rows] == [0.25] * 3
    assert rows == [row for row in _rows(tmp_path / "plain") if row["kind"] == "train"]
    assert len(watched) == 3


def test_memory_that_runs_out_names_the_keys(tmp_path: Path) -> None:
    class Greedy(TinyDetector):
        def forward(self, *arguments: Any, **named: Any) -> Any:
            torch.empty(1 << 50)

    message = r"step 0 \(schedule\.batch_size=4 in schedule\.accumulate=1 parts, images up to 6 x 10 pixels\); raise "
    with pytest.raises(ValueError, match=message):
        _train(tmp_path, recipe(), Greedy())


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    """A second process, because one process may take its own lock again."""
    command = [sys.executable, "-m", "tests.engine.tiny", str(tmp_path), "100"]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(root / "src"), str(root)))}
    with locked(tmp_path):
        second = subprocess.run(command, cwd=root, env=environment, check=False, capture_output=True, text=True)
    assert f"process {os.getpid()} on" in second.stderr
    assert [path.name for path in tmp_path.iterdir()] == []
