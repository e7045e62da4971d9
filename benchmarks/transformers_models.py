"""Whole models of Hugging Face transformers before and after ``dcn.compat.transformers.install()``.

    python -m benchmarks.transformers_models [--size 320 320] [--threads 2] [--repeats 21]

Deformable DETR and RT-DETR with random weights and no download, in evaluation mode, on one picture. Both ways run by
turns in one process. Prints the largest difference of the logits, which must stay below 1e-4, the medians, and how many
times faster the whole forward pass and the attention alone became. Needs transformers (5.24), which this package does
not depend on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dcn.compat import transformers as hook

LIMIT = 1e-4


def deformable_detr() -> Any:
    """Deformable DETR: a ResNet of depth 14, 4 levels, encoder and decoder of 3 layers, 300 queries."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(depths=[1, 1, 1, 1], out_features=["stage2", "stage3", "stage4"])
    config = DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        encoder_layers=3,
        decoder_layers=3,
        num_labels=80,
    )
    return DeformableDetrForObjectDetection(config)


def rt_detr() -> Any:
    """RT-DETR: its ResNet of depth 18, decoder of 6 layers, 300 queries."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(backbone_config=backbone, encoder_in_channels=[128, 256, 512], num_labels=80)
    return RTDetrForObjectDetection(config)


MODELS: dict[str, Callable[[], Any]] = {"Deformable DETR": deformable_detr, "RT-DETR": rt_detr}


def logits(model: Any, pixels: Tensor) -> Tensor:
    """``[1, Q, classes]`` of one forward pass."""
    with torch.inference_mode():
        output: Tensor = model(pixel_values=pixels).logits
    return output


class _AttentionTime:
    """Seconds spent in the modules that sample, by hooks."""

    def __init__(self, model: Any) -> None:
        self.seconds, self._start = 0.0, 0.0
        for module in model.modules():
            if type(module).__name__ == "MultiScaleDeformableAttention":
                module.register_forward_pre_hook(self._begin)
                module.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._start


def _timed(model: Any, pixels: Tensor, spent: _AttentionTime) -> tuple[float, float]:
    spent.seconds, start = 0.0, time.perf_counter()
    logits(model, pixels)
    return time.perf_counter() - start, spent.seconds


def compare(model: Any, pixels: Tensor, repeats: int) -> tuple[float, list[float]]:
    """Largest difference of the logits; medians of the whole forward pass and of the attention, before and after."""
    hook.uninstall()
    before = logits(model, pixels)
    hook.install()
    error = (logits(model, pixels) - before).abs().max().item()
    spent, seconds = _AttentionTime(model), []
    for _ in range(repeats):
        hook.uninstall()
        row = _timed(model, pixels, spent)
        hook.install()
        seconds.append((*row, *_timed(model, pixels, spent)))
    hook.uninstall()
    whole, attention, whole_here, attention_here = (statistics.median(column) for column in zip(*seconds, strict=True))
    return error, [whole, attention, whole_here, attention_here]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 1 if logits differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    failed = False
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model, pixels = build().eval(), torch.randn(1, 3, *options.size)
        error, (whole, attention, whole_here, attention_here) = compare(model, pixels, options.repeats)
        failed |= not error <= LIMIT
        print(
            f"{name}: logits differ by {error:.1e}; forward {whole * 1e3:.0f} -> {whole_here * 1e3:.0f} ms, "
            f"{whole / whole_here:.2f} times faster; attention {attention * 1e3:.1f} -> {attention_here * 1e3:.1f} ms, "
            f"{attention / attention_here:.1f} times"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
