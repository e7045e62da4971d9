from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.engine.config import Recipe
from dcn.engine.distributed import World
from dcn.engine.train import DivergedError, Outcome, autocast, deciding_figure, step_seed, train
from dcn.structures import Sample
from tests.engine.tiny import STEPS_PER_EPOCH, TinyDetector, new_detector, recipe, stream

CPU = World(torch.device("cpu"))
TIMES = ("images_per_second",)


def _train(folder: Path, settings: Recipe, model: TinyDetector | None = None) -> tuple[TinyDetector, Outcome]:
    folder.mkdir(exist_ok=True)
    model = model or new_detector()
    judge = lambda step: {"AP": step / 100}  # noqa: E731
    return model, train(model, stream, STEPS_PER_EPOCH, settings, folder, CPU, evaluate=judge)


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


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
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


def test_an_interrupt_saves_and_the_run_goes_on(tmp_path: Path) -> None:
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
            found = super().forward(*arguments, **named)
            return {"loss_class": found["loss_class"]} if isinstance(found, dict) else found

    torch.manual_seed(0)
    whole, _ = _train(tmp_path / "whole", recipe(), Calm())
    torch.manual_seed(0)
    parts, _ = _train(tmp_path / "parts", recipe(accumulate=2), Calm())
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_the_run_folder_is_complete(tmp_path: Path) -> None:
    _train(tmp_path, recipe())
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    wanted = {
        "metrics.jsonl",
        "trainer.pt",
        "loss.png",
        "ap.png",
        "weights/last.safetensors",
        "weights/best.safetensors",
    }
    assert wanted <= files
    assert any(name.startswith("tensorboard/events") for name in files)
    kinds = [(row["kind"], row["step"]) for row in _rows(tmp_path)]
    assert kinds == [("eval", 2), ("train", 3), ("eval", 4), ("train", 6), ("eval", 6), ("train", 8), ("eval", 8)]


def test_the_best_weights_are_those_of_the_best_evaluation(tmp_path: Path) -> None:
    from dcn.engine.checkpoint import read_weights

    model, seen = new_detector(), dict[int, dict[str, Tensor]]()

    def judge(step: int) -> dict[str, float]:
        seen[step] = _weights(model)
        return {"AP": {2: 0.3, 4: 0.8, 6: math.nan, 8: 0.8}[step]}

    outcome = train(model, stream, STEPS_PER_EPOCH, recipe(), tmp_path, CPU, evaluate=judge)
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
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        autocast("fp16", torch.device("cpu"))


def test_seeds_differ_in_every_part() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(3)}
    assert len(seeds) == 450


@pytest.mark.parametrize(
    ("figures", "wanted", "expected"),
    [
        ({"AP": 0.0, "AP50": 0.0}, None, "AP"),
        ({"AP50": 0.0}, None, "AP50"),
        ({"mIoU": 0.0}, None, "mIoU"),
        ({"AP": 0.0, "AP75": 0.0}, "AP75", "AP75"),
    ],
    ids=["coco", "voc", "other", "named"],
)
def test_what_decides(figures: dict[str, float], wanted: str | None, expected: str) -> None:
    assert deciding_figure(figures, wanted) == expected


def test_an_unknown_deciding_figure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eval\.best: no figure 'AP5'"):
        deciding_figure({"AP": 0.0}, "AP5")
