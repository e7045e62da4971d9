"""One process or many: started by ``torchrun``, joined by plain DistributedDataParallel."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """Who this process is.

    Attributes:
        device: where it computes.
        rank: its number.
        size: number of processes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on its device, exchanging gradients where there are several processes."""
        model = model.to(self.device)
        if self.size == 1:
            return model
        # A parameter without use in one step (the offsets of a pyramid level without regions) must not stall it.
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    def exchange(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        """The context of one part of a batch: only the last part exchanges gradients between processes."""
        if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
            return model.no_sync()
        return nullcontext()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all of them must call it."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean over processes of scalars that all of them have under the same names."""
        if self.size == 1:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, stacked / self.size, strict=True))

    def gather(self, value: Any) -> list[Any]:
        """The picklable ``value`` of every process in the order of ranks; all of them must call it."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered


def choose_device(name: str | None = None) -> torch.device:
    """The named device, or the GPU where there is one, else the CPU.

    Raises:
        ValueError: the named device is not a device or not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected a name such as cpu, cuda or cuda:1, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        known = f"cpu or cuda:0 to cuda:{count - 1}" if count else "cpu, because this machine has no CUDA device"
        raise ValueError(f"device: expected {known}; got {name!r}")
    return device


@contextmanager
def joined_world(device: str | None = None) -> Iterator[World]:
    """The world of this process; under ``torchrun`` it joins the others for the duration.

    Args:
        device: name of the device; with several processes on GPUs each takes the one of its local rank.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(choose_device(device))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(chosen, dist.get_rank(), size)
    finally:
        # Parallel models are parts of circles of references and are served by threads of the group. They end here: a
        # thread that asks for Python while the interpreter shuts down aborts the process.
        gc.collect()
        dist.destroy_process_group()
