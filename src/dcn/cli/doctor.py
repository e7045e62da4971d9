"""``dcn doctor``: what runs on this machine, and why the rest does not; one verdict, one table."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dcn import threads
from dcn.extras import DISTRIBUTION, EXTRAS, is_installed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Fastest first: the order in which an operator's own table is read.
BACKENDS = ("triton", "cpu", "reference")
KERNELS = {"triton": "Triton kernels", "cpu": "compiled kernels", "reference": "reference (slow)", "none": "nothing"}
NOT_WRITTEN = "this operator is not written for it"
SHARED_LOAD = 1.2
"""Programs per core from which cores count as shared; this program itself is one of them for a part of the time."""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``doctor``."""
    parser = subparsers.add_parser("doctor", help="show which backends run here, and why the others do not")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.engine.log import two_columns

    report = examine()
    if arguments.json:
        print(json.dumps({"verdict": verdict(report), **report}, indent=2))
        return 0
    print(f"{verdict(report)}\n")
    print(two_columns(rows(report)))
    return 0


def examine() -> dict[str, Any]:
    """Versions, extras, threads, and for each device and operator every backend with ``None`` or why it cannot run."""
    import torch

    from dcn.engine.folder import versions

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return {
        "versions": versions(),
        "extras": _extras(),
        "threads": _threads(),
        "cpu_kernels": _cpu_kernels(),
        "triton": _triton(),
        "operators": {device: _operators(torch.device(device)) for device in devices},
    }


def verdict(report: Mapping[str, Any]) -> str:
    """One line: whether everything runs as fast as it can here, and if not, the first thing to do."""
    for device, operators in report["operators"].items():
        fastest = "triton" if device.startswith("cuda") else "cpu"
        reasons = {backends[fastest] for backends in operators.values()} - {None, NOT_WRITTEN}
        if reasons:
            return f"works, but slowly on {device}: the {fastest} kernels do not run: {sorted(map(str, reasons))[0]}"
    if report["threads"]["advice"]:
        return f"works, but slowly while other programs run: {report['threads']['advice']}"
    return f"ready: every operator has its compiled kernels on {', '.join(report['operators'])}"


def rows(report: Mapping[str, Any]) -> dict[str, str]:
    """The table: name and value."""
    table = {name: value for name, value in report["versions"].items() if name != "threads"}
    table |= {f"extra {name}": state for name, state in report["extras"].items()}
    table |= {"threads": _threads_row(report["threads"]), **report["cpu_kernels"], **report["triton"]}
    for operator in report["operators"]["cpu"]:
        backends = {device: first(operators[operator]) for device, operators in report["operators"].items()}
        table[operator] = ", ".join(f"{KERNELS[backend]} on {device}" for device, backend in backends.items())
    for device, operators in report["operators"].items():
        for backend in BACKENDS:
            reasons = [backends[backend] for backends in operators.values() if backends[backend] is not None]
            for reason in sorted(set(reasons)):
                count = f"{reasons.count(reason)} of {len(operators)} operators"
                key = f"no {backend} on {device}"
                table[key] = f"{table[key]}; {count}: {reason}" if key in table else f"{count}: {reason}"
    return {name: _shown(value) for name, value in table.items()}


def first(backends: Mapping[str, str | None]) -> str:
    """The fastest backend that runs."""
    return next((name for name, reason in backends.items() if reason is None), "none")


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value or "none")


def _extras() -> dict[str, str]:
    """For each extra what is missing, with the command that brings it."""
    states = {}
    for extra in dict.fromkeys(EXTRAS.values()):
        names = [name for name, own in EXTRAS.items() if own == extra]
        missing = [name for name in names if not is_installed(name)]
        command = f'pip install "{DISTRIBUTION}[{extra}]"'
        states[extra] = f"missing: {', '.join(missing)}; {command} installs it" if missing else "installed"
    return states


def _threads() -> dict[str, Any]:
    """How many, what they do while they wait, and whether other programs want the cores too."""
    import torch

    load = threads.load_per_core()
    state: dict[str, Any] = {
        "count": torch.get_num_threads(),
        "cores": threads.available_cores(),
        "wait": "active" if threads.waits_actively() else "passive",
        "load_per_core": None if load is None else round(load, 2),
        "advice": None,
    }
    if state["count"] > 1 and state["wait"] == "active" and load is not None and load > SHARED_LOAD:
        state["advice"] = (
            f"{state['count']} threads spin while they wait, and {load:.1f} programs want each core; "
            "set OMP_WAIT_POLICY=PASSIVE before torch is imported"
        )
    return state


def _threads_row(state: Mapping[str, Any]) -> str:
    load = "unknown" if state["load_per_core"] is None else f"{state['load_per_core']:.1f}"
    line = f"{state['count']} on {state['cores']} cores, {state['wait']} wait, {load} programs per core"
    if state["wait"] == "passive":
        line += " (set by dcn; in a program of your own set OMP_WAIT_POLICY=PASSIVE before torch is imported)"
    return line


def _triton() -> dict[str, str | None]:
    from dcn.kernels.triton import _runtime

    state = "interpreted (TRITON_INTERPRET=1)" if _runtime.interpreted() else None
    return {"triton": _runtime.version(), "triton mode": state}


def _cpu_kernels() -> dict[str, str | None]:
    from dcn.kernels.cpu import _library

    reason = _library.reason()
    state = "ready" if reason is None else f"missing: {reason}"
    isa = _library.isa() if reason is None else None
    return {"cpu kernels": state, "cpu isa": isa, "DCN_BACKEND": os.environ.get("DCN_BACKEND")}


def _operators(device: torch.device) -> dict[str, dict[str, str | None]]:
    return {name: {backend: _try(call, backend) for backend in BACKENDS} for name, call in _calls(device).items()}


def _try(call: Callable[[str], Tensor], backend: str) -> str | None:
    """Run a small call; the reason if it cannot run."""
    try:
        call(backend)
    except (ValueError, RuntimeError, ImportError, AttributeError) as error:
        # A library of another version lacks functions, which is an AttributeError.
        text = str(error)
        return NOT_WRITTEN if "expected None or one of" in text else _reason(" ".join(text.split()), backend)
    return None


def _reason(text: str, backend: str) -> str:
    """The backend's own words, without those of the operator that was called with its name."""
    start = f"backend: expected one that can compute this call, got {backend!r} ({backend}: "
    return text[len(start) :].rpartition("); backend=None")[0] if text.startswith(start) else text


def _calls(device: torch.device) -> dict[str, Callable[[str], Tensor]]:
    """A smallest call of every operator."""
    import torch

    from dcn import ops

    image = torch.zeros(1, 4, 6, 6, device=device)
    weight, offset = torch.zeros(4, 4, 3, 3, device=device), torch.zeros(1, 18, 6, 6, device=device)
    last, taps = torch.zeros(1, 6, 6, 4, device=device), torch.zeros(1, 6, 6, 27, device=device)
    value, shapes = torch.zeros(1, 36, 1, 4, device=device), torch.tensor([[6, 6]], device=device)
    locations, attention = torch.zeros(1, 1, 1, 1, 2, 2, device=device), torch.zeros(1, 1, 1, 1, 2, device=device)
    boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device)
    one = torch.ones(1, device=device)
    return {
        "deform_conv2d": lambda backend: ops.deform_conv2d(image, offset, weight, padding=1, backend=backend),
        "dcnv3": lambda backend: ops.dcnv3(last, taps[..., :18], taps[..., 18:], 3, padding=1, backend=backend),
        "dcnv4": lambda backend: ops.dcnv4(last, taps, 3, padding=1, backend=backend),
        "ms_deform_attn": lambda backend: ops.ms_deform_attn(
            value, shapes, None, locations, attention, backend=backend
        ),
        "roi_align": lambda backend: ops.roi_align(image, boxes, 2, backend=backend),
        "roi_pool": lambda backend: ops.roi_pool(image, boxes, 2, backend=backend),
        "ps_roi_align": lambda backend: ops.ps_roi_align(image, boxes, 2, backend=backend),
        "ps_roi_pool": lambda backend: ops.ps_roi_pool(image, boxes, 2, backend=backend),
        "deform_roi_pool": lambda backend: ops.deform_roi_pool(image, boxes, None, 2, backend=backend),
        "nms": lambda backend: ops.nms(boxes[:, 1:], one, 0.5, backend=backend),
    }
