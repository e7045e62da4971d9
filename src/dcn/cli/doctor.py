"""``dcn doctor``: what runs on this machine, and why the rest does not."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Fastest first: the order in which an operator's own table is read.
BACKENDS = ("triton", "cpu", "reference")


def add_parser(subparsers: Any) -> None:
    """Add the verb ``doctor``."""
    parser = subparsers.add_parser("doctor", help="what runs here, and why the rest does not")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    report = examine()
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    for name, value in {**report["versions"], **report["cpu_kernels"], **report["triton"]}.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        print(f"{name:<12} {shown or 'none'}")
    for device, operators in report["operators"].items():
        print(f"\noperators on {device}")
        for operator, backends in operators.items():
            print(f"  {operator:<20} {_first(backends)}")
            for backend, reason in backends.items():
                if reason is not None:
                    print(f"    not {backend}: {reason}")
    return 0


def _first(backends: dict[str, str | None]) -> str:
    return next((name for name, reason in backends.items() if reason is None), "none")


def examine() -> dict[str, Any]:
    """Versions, CPU kernels, and for each device and operator every backend with ``None`` or why it cannot run."""
    import torch

    from dcn.engine.folder import versions

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    operators = {device: _operators(torch.device(device)) for device in devices}
    return {"versions": versions(), "cpu_kernels": _cpu_kernels(), "triton": _triton(), "operators": operators}


def _triton() -> dict[str, str | None]:
    from dcn.kernels.triton import _runtime

    state = "interpreted (TRITON_INTERPRET=1)" if _runtime.interpreted() else None
    return {"triton": _runtime.version(), "triton mode": state}


def _cpu_kernels() -> dict[str, str | None]:
    from dcn.kernels.cpu import _library

    reason = _library.reason()
    state = "ready" if reason is None else f"missing: {reason}"
    isa = _library.isa() if reason is None else None
    return {
        "cpu kernels": state,
        "cpu isa": isa,
        "cpu threads": _threads(),
        "DCN_BACKEND": os.environ.get("DCN_BACKEND"),
    }


def _threads() -> str:
    """How many, and what they do while they wait: threads that spin took 5 to 8 times as long on shared cores."""
    import torch

    count, policy = torch.get_num_threads(), os.environ.get("OMP_WAIT_POLICY", "")
    if count == 1 or policy.upper() == "PASSIVE":
        return str(count)
    return f"{count}, which may spin while they wait; where cores are shared, set OMP_WAIT_POLICY=PASSIVE"


def _operators(device: torch.device) -> dict[str, dict[str, str | None]]:
    return {name: {backend: _try(call, backend) for backend in BACKENDS} for name, call in _calls(device).items()}


def _try(call: Callable[[str], Tensor], backend: str) -> str | None:
    """Run a small call; the reason if it cannot run."""
    try:
        call(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        text = str(error)
        return "this operator is not written for it" if "expected None or one of" in text else " ".join(text.split())
    return None


def _calls(device: torch.device) -> dict[str, Callable[[str], Tensor]]:
    """A smallest call of every operator."""
    import torch

    from dcn import ops

    image = torch.zeros(1, 4, 6, 6, device=device)
    weight, offset = torch.zeros(4, 4, 3, 3, device=device), torch.zeros(1, 18, 6, 6, device=device)
    boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device)
    one = torch.ones(1, device=device)
    return {
        "deform_conv2d": lambda backend: ops.deform_conv2d(image, offset, weight, padding=1, backend=backend),
        "roi_align": lambda backend: ops.roi_align(image, boxes, 2, backend=backend),
        "roi_pool": lambda backend: ops.roi_pool(image, boxes, 2, backend=backend),
        "ps_roi_align": lambda backend: ops.ps_roi_align(image, boxes, 2, backend=backend),
        "ps_roi_pool": lambda backend: ops.ps_roi_pool(image, boxes, 2, backend=backend),
        "deform_roi_pool": lambda backend: ops.deform_roi_pool(image, boxes, None, 2, backend=backend),
        "nms": lambda backend: ops.nms(boxes[:, 1:], one, 0.5, backend=backend),
    }
