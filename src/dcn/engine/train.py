"""The training loop: batches in, losses down, and everything written so that a killed run can be resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from dcn.engine.checkpoint import Checkpoints, not_finite
from dcn.engine.config import Recipe
from dcn.engine.distributed import World
from dcn.engine.lock import locked
from dcn.engine.log import LOGGER, Console, RunLog, read_rows
from dcn.engine.memory import memory_advice
from dcn.engine.optim import check_same_kind, gradient_norm, lr_factor, make_optimizer, set_learning_rate
from dcn.engine.plots import draw_plots
from dcn.engine.stop import stop_requests
from dcn.structures import Sample
from dcn.suggest import suggest, summary_of

Batches = Callable[[int], Iterator[list[Sample]]]
"""``batches(start)``: this process's samples of step ``start``, ``start + 1``, ... without end."""

Evaluate = Callable[[int], Mapping[str, float]]
"""Evaluates the model after a number of steps; called in every process, the metrics count in the first."""

Probe = Callable[[], AbstractContextManager[Callable[[], Mapping[str, float]]]]
"""``with probe() as values: step`` watches one step; ``values()`` are numbers for the log, such as sizes of offsets."""


class DivergedError(ValueError):
    """A loss, a gradient or a weight is NaN or infinite."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        step: steps made.
        finished: whether that is all of them (else it was interrupted, and its checkpoint is saved).
        metrics: of the last evaluation.
        best: the best value of the deciding metric.
    """

    step: int
    finished: bool
    metrics: dict[str, float]
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
    metric_names: Collection[str] | None = None,
    probe: Probe | None = None,
) -> Outcome:
    """Train a model, or resume its training where the run folder has a checkpoint.

    Args:
        model: ``model(images, targets)`` gives a dict of scalar losses in training mode.
        batches: see :data:`Batches`; each list holds ``batch_size / world.size`` samples.
        steps_per_epoch: steps that show every image once.
        recipe: schedule, precision, seed and intervals.
        folder: the run folder; it exists.
        world: this process among the others.
        options: what the model was built with, for the weights files; default ``recipe.model.options``.
        evaluate: see :data:`Evaluate`.
        metric_names: names of the metrics that ``evaluate`` gives; with them ``eval.best`` is checked at the start.
        probe: see :data:`Probe`; used in the steps that the log has a row for.

    Raises:
        DivergedError: a loss, gradient or weight became NaN or infinite; the message names it, the step and the last
            good checkpoint. Nothing that is not finite is written.
        LockedError: another process trains in the run folder.
        OutOfMemoryError: the message says which keys lower the use of memory.
        ValueError: ``eval.best`` is no metric, or both checkpoints of the folder are damaged or of another model.
    """
    if metric_names is not None:
        best_metric(metric_names, recipe.eval.best)
    with locked(folder) if world.is_main else nullcontext():
        trainer = _Trainer(model, steps_per_epoch, recipe, folder, world, options)
        try:
            with stop_requests(tell=world.is_main) as stop:
                return trainer.fit(batches, evaluate, probe, stop)
        finally:
            trainer.close()


class _Trainer:
    """Everything that changes during training."""

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
        self.scaler = GradScaler(world.device.type, enabled=recipe.amp == "fp16")
        self.checkpoints = Checkpoints(folder, recipe.model.name, options or recipe.model.options, recipe.plugins)
        self.step, self.best = 0, -math.inf
        self.means, self.metrics = _RunningMeans(), dict[str, float]()
        self._restore()
        self.parallel = world.wrap(self.model)
        self.log = RunLog(folder, self.step) if world.is_main else None
        self.console = Console(self.total, self.step, show=world.is_main)

    def fit(self, batches: Batches, evaluate: Evaluate | None, probe: Probe | None, stop: list[int]) -> Outcome:
        """Run to the end, or to the first stop request."""
        if evaluate is not None and self._evaluation_is_missing():
            self._evaluate(evaluate)
        self.parallel.train()
        source = batches(self.step)
        since = time.perf_counter()
        stopping = self.world.any(bool(stop))
        while self.step < self.total and not stopping:
            logged = (self.step + 1) % self.recipe.log_every == 0 or self.step + 1 == self.total
            samples = next(source)
            with probe() if probe is not None and logged else nullcontext(dict) as watched:
                self.means.add(self._train_step(samples))
            self.step += 1
            self.console.advance()
            if logged:
                self._log(time.perf_counter() - since, watched())
                since = time.perf_counter()
            stopping = self.world.any(bool(stop))
            due = evaluate is not None and self._due(self.recipe.eval.every)
            # First the checkpoint: whatever happens in an evaluation, the training is not lost.
            if stopping or due or self._due(self.recipe.checkpoint_every or self.recipe.eval.every):
                self._save()
            if evaluate is not None and due and not (stopping and self.step < self.total):
                self._evaluate(evaluate)
                stopping = self.world.any(bool(stop))
        return Outcome(self.step, self.step >= self.total, self.metrics, self.best if self.best > -math.inf else None)

    def close(self) -> None:
        """Close log and console."""
        self.console.close()
        if self.log is not None:
            self.log.close()

    def _train_step(self, samples: list[Sample]) -> dict[str, float]:
        torch.manual_seed(step_seed(self.recipe.seed, self.step, self.world.rank))
        set_learning_rate(self.optimizer, self._learning_rate(self.step))
        height, width = (max(sample.image.shape[side] for sample in samples) for side in (1, 2))
        size = f"step {self.step} (schedule.batch_size={self.schedule.images_per_step} in schedule.accumulate="
        size += f"{self.schedule.accumulate} parts, images up to {height} x {width} pixels)"
        advice = f"raise schedule.accumulate to {2 * self.schedule.accumulate}, which trains the same, or lower "
        advice += f"schedule.batch_size or transforms.short; {self.checkpoints.what_is_there()}"
        try:
            with memory_advice(size, advice):
                return train_step(self.parallel, samples, self.optimizer, self.scaler, self.recipe, self.world)
        except DivergedError as error:
            raise self._diverged(str(error)) from None

    def _learning_rate(self, step: int) -> float:
        return self.schedule.scaled_lr * lr_factor(step, self.schedule, self.steps_per_epoch)

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"{what} at step {self.step}; training cannot continue. Lower schedule.lr ({self.schedule.lr:g} now), "
            "lengthen schedule.warmup, set schedule.clip_norm, or look for broken boxes with `dcn data check`; "
            f"{self.checkpoints.what_is_there()}"
        )

    def _log(self, seconds: float, watched: Mapping[str, float]) -> None:
        images = self.means.steps * self.schedule.images_per_step
        losses = {"lr": self._learning_rate(self.step - 1), **self.means.means()}
        speed = {"epoch": self.step / self.steps_per_epoch, "images_per_second": images / seconds}
        if self.world.device.type == "cuda":
            speed["gpu_gib"] = torch.cuda.max_memory_allocated(self.world.device) / 2**30
        if self.log is not None:
            self.log.write("train", self.step, {**losses, **watched, **speed})
        self.console.losses(self.step, {**losses, "img/s": speed["images_per_second"]})
        self.means = _RunningMeans()

    def _due(self, every: float) -> bool:
        return self.step == self.total or self.step % max(1, self.schedule.in_steps(every, self.steps_per_epoch)) == 0

    def _evaluate(self, evaluate: Evaluate) -> None:
        """Evaluate, keep the weights if they are the best so far, and log the metrics: the row marks it as done."""
        advice = f"lower eval.batch_size ({self.recipe.eval.batch_size} now) or eval.images"
        try:
            with memory_advice(f"the evaluation after step {self.step}", advice):
                self.metrics = dict(evaluate(self.step))
        except Exception:
            self.console.say(f"the evaluation after step {self.step} failed; {self.checkpoints.what_is_there()}")
            raise
        self.parallel.train()
        if self.log is None:
            return
        name = best_metric(self.metrics, self.recipe.eval.best)
        if self.metrics[name] > self.best:
            self.best = self.metrics[name]
            self.checkpoints.save_best(self.model, self.step)
        self.log.write("eval", self.step, self.metrics)
        shown = summary_of(self.metrics)
        self.console.say(f"eval {self.step}: " + " ".join(f"{key}={text}" for key, text in shown.items()))
        draw_plots(self.folder)

    def _evaluation_is_missing(self) -> bool:
        """Whether the checkpoint is of a step whose evaluation was due and did not end; else its metrics are taken."""
        missing = False
        if self.log is not None and self.step and self._due(self.recipe.eval.every):
            rows = [row for row in read_rows(self.log.path) if row["kind"] == "eval" and row["step"] == self.step]
            missing = not rows
            for row in rows[-1:]:
                del row["kind"], row["step"]
                self.metrics = {key: math.nan if value is None else value for key, value in row.items()}
                self.best = max(self.best, self.metrics[best_metric(self.metrics, self.recipe.eval.best)])
        return self.world.any(missing)

    def _save(self) -> None:
        """Write a checkpoint, unless something in it is not finite."""
        broken = self._not_finite() if self.world.is_main else []
        if self.world.any(bool(broken)):
            names = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
            raise self._diverged(
                f"weights: expected finite values, got NaN or infinite ones in {names or 'another process'}"
            )
        if not self.world.is_main:
            return
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "window": {"sums": self.means.sums, "steps": self.means.steps},
            "environment": environment(self.world),
        }
        self.checkpoints.save(self.model, self.step, state)
        draw_plots(self.folder)

    def _not_finite(self) -> list[str]:
        """Names of the parameters that are not finite, or whose state in the optimizer is not."""
        broken = not_finite(self.model.named_parameters())
        for name, parameter in self.model.named_parameters():
            values = self.optimizer.state.get(parameter, {}).values()
            broken += not_finite((f"the momentum of {name}", value) for value in values if isinstance(value, Tensor))
        return broken

    def _restore(self) -> None:
        state = self.checkpoints.load(self.model)
        if state is None:
            return
        try:
            check_same_kind(self.optimizer, state["optimizer"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self.folder}: the saved optimizer does not fit this recipe ({error}); resume without changes to "
                "schedule.optimizer, lr_multipliers, decay_bias, momentum_form, model.* and amp, or start a new run "
                f"with model.weights={self.folder}"
            ) from error
        self.step, self.best = state["step"], state["best"]
        self.means = _RunningMeans(**state["window"])
        if self.world.is_main:
            _tell_differences(state.get("environment", {}), environment(self.world))


def train_step(
    model: nn.Module, samples: list[Sample], optimizer: Optimizer, scaler: GradScaler, recipe: Recipe, world: World
) -> dict[str, float]:
    """One step: forward, losses and backward for each part of the batch, then the update of the weights.

    Args:
        model: in training mode; with several processes wrapped by :meth:`World.wrap`.
        samples: this process's share of the batch.
        optimizer: with the learning rate of this step.
        scaler: of the loss; enabled for fp16 alone.
        recipe: ``amp``, and of the schedule ``accumulate`` and ``clip_norm``.
        world: this process among the others.

    Returns:
        The mean of every loss over the whole batch, and their sum as ``loss``.

    Raises:
        DivergedError: a loss or the gradient is NaN or infinite; the weights are those before the step.
    """
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    parts = _split(samples, recipe.schedule.accumulate)
    for number, part in enumerate(parts):
        share = len(part) / len(samples)
        images = [sample.image.to(world.device, non_blocking=True) for sample in part]
        # The model moves its targets itself, after it has left out what it does not train on.
        targets = [sample.target for sample in part]
        with world.exchange(model, last=number == len(parts) - 1):
            with autocast(recipe.amp, world.device):
                losses: dict[str, Tensor] = model(images, targets)
            total = torch.stack([value.float() for value in losses.values()]).sum()
            _refuse_infinite_losses(losses, total, world)
            scaler.scale(total * share).backward()
        for name, value in {"loss": total, **losses}.items():
            sums[name] = sums.get(name, 0.0) + value.detach().float() * share
    if recipe.schedule.clip_norm is not None:
        scaler.unscale_(optimizer)
    norm = gradient_norm([p for group in optimizer.param_groups for p in group["params"]], recipe.schedule.clip_norm)
    # The scaler of fp16 skips steps whose gradient overflows.
    if not math.isfinite(norm) and not scaler.is_enabled():
        broken = not_finite((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
        raise DivergedError(
            f"gradient: expected a finite norm, got {norm:g}, NaN or infinite in {', '.join(broken[:3]) or 'the sum'}"
        )
    scaler.step(optimizer)
    scaler.update()
    return {name: float(value) for name, value in world.mean(sums).items()}


def _split(samples: list[Sample], parts: int) -> list[list[Sample]]:
    size = -(-len(samples) // parts)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _refuse_infinite_losses(losses: dict[str, Tensor], total: Tensor, world: World) -> None:
    if not world.any(not bool(torch.isfinite(total))):
        return
    values = {name: float(value.detach()) for name, value in losses.items()}
    broken = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
    raise DivergedError(f"loss: expected finite values, got {', '.join(broken) or 'others in another process'}")


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of everything random in one step: a function of these three, so that resuming needs no saved stream."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def best_metric(metrics: Collection[str], chosen: str | None) -> str:
    """The name of the metric that decides which weights are best: the chosen one, else AP, else AP50, else the first.

    Raises:
        ValueError: there is no metric of that name.
    """
    for name in (chosen,) if chosen else ("AP", "AP50", *metrics):
        if name in metrics:
            return name
    raise ValueError(f"eval.best: expected the name of a metric, got {chosen!r}; {suggest(chosen or '', metrics)}")


def autocast(amp: str, device: torch.device) -> AbstractContextManager[Any]:
    """The mixed-precision context of a recipe's ``amp``.

    Raises:
        ValueError: fp16 on a CPU, where its range is too small without a scaler that works there.
    """
    if amp == "fp16" and device.type == "cpu":
        raise ValueError("amp: expected bf16 or off on the CPU, got fp16, which needs a GPU")
    dtype = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def environment(world: World) -> dict[str, str]:
    """What equal bits depend on beside the recipe."""
    threads = str(torch.get_num_threads())
    return {
        "threads": threads,
        "processes": str(world.size),
        "device": world.device.type,
        "torch": str(torch.__version__),
    }


def _tell_differences(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    changed = [f"{key} {before[key]} before, {now[key]} now" for key in now if before.get(key, now[key]) != now[key]]
    if changed:
        LOGGER.warning(
            "resumed with %s: the result is not promised to be that of an undisturbed run, bit for bit%s",
            "; ".join(changed),
            f" (OMP_NUM_THREADS={before['threads']} sets the threads)" if "threads" in before else "",
        )


@dataclass
class _RunningMeans:
    """Losses since the last line of the log."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def means(self) -> dict[str, float]:
        return {name: value / self.steps for name, value in self.sums.items()}
