"""The training loop: batches in, losses down, everything written so that a killed run goes on where it was saved."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dcn.engine.checkpoint import Checkpoints
from dcn.engine.config import Recipe
from dcn.engine.distributed import World
from dcn.engine.log import Console, RunLog
from dcn.engine.optim import clip_gradients, lr_factor, make_optimizer, set_learning_rate
from dcn.engine.plots import draw_plots
from dcn.structures import Sample

Batches = Callable[[int], Iterator[list[Sample]]]
"""``batches(start)``: this process's samples of update ``start``, ``start + 1``, ... without end."""

Evaluate = Callable[[int], dict[str, float]]
"""Judges the model after a number of updates; called in every process, figures in the first."""


class DivergedError(ValueError):
    """A loss is NaN or infinite."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: updates made.
        finished: whether that is all of them (else it was interrupted and saved).
        figures: of the last evaluation.
        best: the best value of the deciding figure.
    """

    step: int
    finished: bool
    figures: dict[str, float]
    best: float | None


def train(
    model: nn.Module,
    batches: Batches,
    steps_per_epoch: int,
    recipe: Recipe,
    folder: Path,
    world: World,
    *,
    options: dict[str, Any] | None = None,
    evaluate: Evaluate | None = None,
) -> Outcome:
    """Train a model, or go on training it where the run folder has a saved state.

    Args:
        model: ``model(images, targets)`` gives a dict of scalar losses in training mode.
        batches: see :data:`Batches`; each list holds ``batch_size / world.size`` samples.
        steps_per_epoch: updates that show every image once.
        recipe: schedule, precision, seed and intervals.
        folder: the run folder; it exists.
        world: this process among the others.
        options: what the model was built with, for the weights files; default ``recipe.model.options``.
        evaluate: see :data:`Evaluate`.

    Raises:
        DivergedError: a loss became NaN or infinite; the message names it and the step.
    """
    trainer = _Trainer(model, steps_per_epoch, recipe, folder, world, options)
    try:
        with stop_requests() as stop:
            return trainer.fit(batches, evaluate, stop)
    finally:
        trainer.close()


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of everything random in one update: a function of these three, so that resuming needs no saved stream."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM in the list it gives, so that the update is finished; a second one acts at once.

    Outside the main thread signals cannot be caught and the list stays empty.
    """
    seen: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)
        for name, handler in before.items():
            signal.signal(name, handler)

    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            before[name] = signal.signal(name, note)
    except ValueError:
        before.clear()
    try:
        yield seen
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@dataclass
class _Window:
    """Losses since the last line of the log."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def means(self) -> dict[str, float]:
        return {name: value / self.steps for name, value in self.sums.items()}


class _Trainer:
    """Everything that changes while training."""

    def __init__(
        self,
        model: nn.Module,
        steps_per_epoch: int,
        recipe: Recipe,
        folder: Path,
        world: World,
        options: dict[str, Any] | None,
    ) -> None:
        self.recipe, self.folder, self.world = recipe, folder, world
        self.schedule, self.steps_per_epoch = recipe.schedule, steps_per_epoch
        self.total = self.schedule.total_steps(steps_per_epoch)
        self.model = model.to(world.device)
        self.optimizer = make_optimizer(self.model, self.schedule)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.amp == "fp16")
        self.checkpoints = Checkpoints(folder, recipe.model.name, options or recipe.model.options)
        self.step, self.best = 0, -math.inf
        self.window, self.figures = _Window(), dict[str, float]()
        self._restore()
        self.parallel = world.wrap(self.model)
        self.log = RunLog(folder, self.step) if world.is_main else None
        self.console = Console(self.total, self.step, show=world.is_main)

    def fit(self, batches: Batches, evaluate: Evaluate | None, stop: list[int]) -> Outcome:
        """Run to the end, or to the first stop request."""
        self.parallel.train()
        source = batches(self.step)
        since = time.perf_counter()
        while self.step < self.total:
            self.window.add(self._update(next(source)))
            self.step += 1
            self.console.advance()
            if self.step % self.recipe.log_every == 0 or self.step == self.total:
                self._log(time.perf_counter() - since)
                since = time.perf_counter()
            stopping = self.world.any(bool(stop)) and self.step < self.total
            self._at_intervals(evaluate, stopping)
            if stopping:
                break
        return Outcome(self.step, self.step >= self.total, self.figures, self.best if self.best > -math.inf else None)

    def close(self) -> None:
        """Close log and console."""
        self.console.close()
        if self.log is not None:
            self.log.close()

    def _update(self, samples: list[Sample]) -> dict[str, float]:
        torch.manual_seed(step_seed(self.recipe.seed, self.step, self.world.rank))
        rate = self.schedule.scaled_lr * lr_factor(self.step, self.schedule, self.steps_per_epoch)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        summed: dict[str, Tensor] = {}
        parts = _split(samples, self.schedule.accumulate)
        for number, part in enumerate(parts):
            with self._exchange(last=number == len(parts) - 1):
                losses = self._backward(part, len(part) / len(samples))
            for name, value in losses.items():
                summed[name] = summed.get(name, 0.0) + value
        self._apply()
        shared = self.world.mean(summed)
        return {name: float(value) for name, value in shared.items()}

    def _backward(self, samples: list[Sample], share: float) -> dict[str, Tensor]:
        """Gradients of one part of the batch; its losses, weighted by its share."""
        device = self.world.device
        images = [sample.image.to(device, non_blocking=True) for sample in samples]
        # The network moves its targets itself, after it has left out what it does not train on.
        targets = [sample.target for sample in samples]
        with autocast(self.recipe.amp, device):
            losses = self.parallel(images, targets)
        total = torch.stack([value.float() for value in losses.values()]).sum()
        self._refuse_divergence(losses, total)
        self.scaler.scale(total * share).backward()
        weighted = {name: value.detach().float() * share for name, value in losses.items()}
        return {"loss": total.detach() * share, **weighted}

    def _apply(self) -> None:
        if self.schedule.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            clip_gradients(parameters, self.schedule.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _exchange(self, last: bool) -> AbstractContextManager[None]:
        """Only the last part of a batch exchanges gradients between processes."""
        if isinstance(self.parallel, nn.parallel.DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return nullcontext()

    def _refuse_divergence(self, losses: dict[str, Tensor], total: Tensor) -> None:
        if not self.world.any(not bool(torch.isfinite(total))):
            return
        values = {name: float(value.detach()) for name, value in losses.items()}
        broken = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        raise DivergedError(
            f"loss: {', '.join(broken) or 'a loss of another process'} at step {self.step}; training cannot go on. "
            f"Lower schedule.lr ({self.schedule.scaled_lr:g} now), lengthen schedule.warmup, set schedule.clip_norm, "
            f"or look for broken boxes with `dcn data check`; the state before is in {self.folder}"
        )

    def _log(self, seconds: float) -> None:
        images = self.window.steps * self.schedule.batch_size
        rate = self.schedule.scaled_lr * lr_factor(self.step - 1, self.schedule, self.steps_per_epoch)
        figures = {"lr": rate, **self.window.means()}
        speed = {"epoch": self.step / self.steps_per_epoch, "images_per_second": images / seconds}
        if self.world.device.type == "cuda":
            speed["gpu_gib"] = torch.cuda.max_memory_allocated(self.world.device) / 2**30
        if self.log is not None:
            self.log.write("train", self.step, {**figures, **speed})
        self.console.figures(self.step, {**figures, "img/s": speed["images_per_second"]})
        self.window = _Window()

    def _at_intervals(self, evaluate: Evaluate | None, stopping: bool) -> None:
        due = self._due(self.recipe.eval.every)
        if evaluate is not None and due and not stopping:
            self.figures = evaluate(self.step)
            self.parallel.train()
            if self.world.is_main:
                self._judge()
        if stopping or self._due(self.recipe.checkpoint_every or self.recipe.eval.every):
            self._save()

    def _due(self, every: float) -> bool:
        return self.step == self.total or self.step % max(1, self.schedule.in_steps(every, self.steps_per_epoch)) == 0

    def _judge(self) -> None:
        """Log the figures of an evaluation and keep the weights if they are the best so far."""
        assert self.log is not None
        self.log.write("eval", self.step, self.figures)
        name = deciding_figure(self.figures, self.recipe.eval.best)
        shown = {key: value for key, value in self.figures.items() if "/" not in key}
        self.console.say(f"eval {self.step}: " + " ".join(f"{key}={value:.4f}" for key, value in shown.items()))
        if self.figures[name] > self.best:
            self.best = self.figures[name]
            self.checkpoints.save_best(self.model, self.step)

    def _save(self) -> None:
        if not self.world.is_main:
            return
        window = {"sums": self.window.sums, "steps": self.window.steps}
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "best": self.best}
        self.checkpoints.save(self.model, self.step, {**state, "window": window})
        draw_plots(self.folder)

    def _restore(self) -> None:
        state = self.checkpoints.load(self.model)
        if state is None:
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]
        self.window = _Window(**state["window"])


def deciding_figure(figures: dict[str, float], wanted: str | None) -> str:
    """The name of the figure that decides which weights are best: the wanted one, else AP, else AP50.

    Raises:
        ValueError: there is no figure of that name.
    """
    for name in (wanted,) if wanted else ("AP", "AP50", *figures):
        if name in figures:
            return name
    raise ValueError(f"eval.best: no figure {wanted!r}; the evaluation gives {', '.join(figures) or 'nothing'}")


def autocast(amp: str, device: torch.device) -> AbstractContextManager[Any]:
    """The mixed-precision context of a recipe's ``amp``.

    Raises:
        ValueError: fp16 on a CPU, where its range is too small without a scaler that works there.
    """
    if amp == "fp16" and device.type == "cpu":
        raise ValueError("amp: fp16 needs a GPU; use amp=bf16 or amp=off on the CPU")
    dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _split(samples: list[Sample], parts: int) -> list[list[Sample]]:
    size = -(-len(samples) // parts)
    return [samples[start : start + size] for start in range(0, len(samples), size)]
