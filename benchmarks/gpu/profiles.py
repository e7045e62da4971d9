"""Profiles of our own calls: which kernels, how long each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def write_profile(run: Callable[[], object], folder: Path, name: str, device: torch.device) -> None:
    """The table of ten calls, by time on the device, as a file of that name."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize(device)
    with profile(activities=activities) as recorded:
        for _ in range(10 if device.type == "cuda" else 1):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    path = folder / f"{name.replace('/', 's')}.txt"
    path.write_text(recorded.key_averages().table(sort_by=order, row_limit=40) + "\n")
