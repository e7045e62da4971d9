"""``schedule.batch_size=auto``: as many images as the memory holds, measured on the device before the first step."""

from __future__ import annotations

import copy
import gc
import logging
import os
from dataclasses import replace

import torch
from torch import nn
from torch.amp import GradScaler

from dcn.analysis.memory import available_bytes, peak_bytes, reset_peak, resident_bytes
from dcn.data.dataset import Dataset
from dcn.data.transforms import Compose, RandomCrop, RandomScale, Resize, resized_size
from dcn.engine.config import Recipe, TransformsConfig
from dcn.engine.distributed import World
from dcn.engine.memory import OutOfMemoryError, memory_advice
from dcn.engine.optim import make_optimizer
from dcn.engine.train import train_step
from dcn.structures import Sample

LOGGER = logging.getLogger("dcn")
AUTO = "auto"
MOST = 16
"""Images of a step where ``schedule.lr_batch_size`` names no other number: the batch of the published schedules."""
SHARE = {"cuda": 0.85, "cpu": 0.6}
"""Of the memory that is used. The rest is for images with more objects and for fragments; on a CPU for the workers too,
and because its allocator reuses memory: four images of a Faster R-CNN took 10 % more than one and two had foretold."""


def measured_batch_size(
    recipe: Recipe, model: nn.Module, dataset: Dataset, world: World, most: int | None = None
) -> int | None:
    """Images of one step over all processes and parts, such that each part fits the memory of its process.

    A copy of the model makes training steps of one and of two images, the largest of the data at their largest size.
    From the two peaks follows what an image takes. The result is a power of two for each part; all processes get the
    same.

    Args:
        recipe: its ``batch_size`` is not looked at.
        model: on any device; it is not changed.
        dataset: the training images.
        world: this process among the others; all of them must call it.
        most: upper limit of the result, which is not above the number of images either.

    Returns:
        ``None`` where the memory of the device cannot be measured.

    Raises:
        OutOfMemoryError: one image does not fit.
    """
    schedule = recipe.schedule
    unit = schedule.accumulate * world.size
    limit = max(1, min(most or schedule.lr_batch_size or MOST, len(dataset)) // unit)
    fitting = _fitting(recipe, model, dataset, world)
    counts = [count for count in world.gather(fitting) if count is not None]
    if not counts:
        return None
    per_part = min([*counts, limit])
    return 2 ** (max(per_part, 1).bit_length() - 1) * unit


def with_batch_size(recipe: Recipe, model: nn.Module, dataset: Dataset, world: World) -> Recipe:
    """The recipe with a number where it says ``schedule.batch_size=auto``; see :func:`measured_batch_size`.

    Raises:
        ValueError: the memory of the device cannot be measured, or is too small.
    """
    if recipe.schedule.batch_size != AUTO:
        return recipe
    count = measured_batch_size(recipe, model, dataset, world)
    if count is None:
        raise ValueError(
            f"schedule.batch_size: auto needs a device whose memory can be measured (Linux, CUDA), got {world.device}; "
            "give a number"
        )
    return replace(recipe, schedule=replace(recipe.schedule, batch_size=count))


def _fitting(recipe: Recipe, model: nn.Module, dataset: Dataset, world: World) -> int | None:
    """How many images fit the memory of this process at once; ``None``: not known."""
    device = world.device
    before = _taken(device)
    if before is None:
        return None
    LOGGER.info("schedule.batch_size=auto: measuring the memory of training steps")
    sample, least = largest_sample(dataset, recipe.transforms), 1
    try:
        peaks = _peaks(recipe, model, [sample], device)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # batch norm of pooled maps
            raise
        least = 2
        peaks = _peaks(recipe, model, [sample] * 2, device)
    room = _room(device, before, world)
    if len(peaks) == 1:  # one more did not fit
        return least
    image = max(peaks[1] - peaks[0], 1)
    exchanged = sum(p.numel() * p.element_size() for p in model.parameters()) if world.size > 1 else 0
    fixed = peaks[0] - least * image + exchanged
    count = max(least, int((room * SHARE[device.type] - fixed) / image))
    LOGGER.info(
        "schedule.batch_size=auto: %.2f GiB and %.2f GiB for each image, %.1f GiB there",
        fixed / 2**30, image / 2**30, room / 2**30,
    )  # fmt: skip
    return count


def largest_sample(dataset: Dataset, sizes: TransformsConfig) -> Sample:
    """The image that has the most pixels after the transforms, at its largest size."""
    short = max(sizes.short)
    areas = [h * w for h, w in (resized_size(*size, short, sizes.long)[:2] for size in dataset.sizes)]
    steps: list[Resize | RandomScale | RandomCrop] = [Resize((short,), sizes.long)]
    if sizes.scale is not None:
        steps.append(RandomScale(sizes.scale[1], sizes.scale[1]))
    if sizes.crop is not None:
        steps.append(RandomCrop(sizes.crop))
    return Compose(tuple(steps))(dataset[areas.index(max(areas))], torch.Generator().manual_seed(0))


def _peaks(recipe: Recipe, model: nn.Module, samples: list[Sample], device: torch.device) -> list[int]:
    """Peak memory of a training step of these samples and, if it fits, of one more."""
    # A rate of nearly nothing: only the memory of the step matters.
    schedule = replace(
        recipe.schedule, batch_size=1, accumulate=1, lr=1e-12, lr_batch_size=None, clip_norm=None, lr_multipliers={}
    )
    alone, trial = World(device), replace(recipe, schedule=schedule)
    work = copy.deepcopy(model).to(device).train()
    optimizer = make_optimizer(work, schedule)
    scaler = GradScaler(device.type, enabled=recipe.amp == "fp16")
    state = torch.random.get_rng_state()
    peaks: list[int] = []
    try:
        for batch in (samples, samples, [*samples, samples[0]]):  # the first step makes the state of the optimizer
            _reset(device)
            size = f"a training step of {len(batch)} images of {' x '.join(map(str, batch[0].image.shape[1:]))} pixels"
            with memory_advice(size, "lower transforms.short or transforms.long, or choose a smaller model"):
                train_step(work, batch, optimizer, scaler, trial, alone)
            peaks.append(_peak(device))
    except OutOfMemoryError:
        if len(peaks) < 2:
            raise
    finally:
        torch.random.set_rng_state(state)
        del work, optimizer
        _reset(device)
    return peaks[1:]


def _reset(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes() or 0


def _taken(device: torch.device) -> int | None:
    """Memory that this process has of the device; ``None`` where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type != "cpu" or available_bytes() is None:
        return None
    try:
        reset_peak()
    except OSError:  # some containers forbid it
        return None
    return resident_bytes()


def _room(device: torch.device, taken: int, world: World) -> int:
    """Memory that this process may have in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    return (available_bytes() or 0) // max(local, 1) + taken
