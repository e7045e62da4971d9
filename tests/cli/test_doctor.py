from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dcn.threads
from dcn.cli import doctor
from dcn.cli.doctor import examine, first, verdict
from dcn.cli.main import main
from dcn.kernels.cpu import _library
from dcn.ops._backends import choose


def test_the_doctor_agrees_with_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    reason = _library.reason()
    assert report["cpu_kernels"]["cpu kernels"] == ("ready" if reason is None else f"missing: {reason}")
    operators = report["operators"]["cpu"]
    assert {"deform_conv2d", "roi_align", "nms"} <= operators.keys()
    assert all(backends["reference"] is None for backends in operators.values())
    assert (operators["deform_conv2d"]["cpu"] is None) == (reason is None)


def test_the_text_is_one_verdict_and_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    verdict, empty, *table = capsys.readouterr().out.splitlines()
    assert verdict.startswith(("ready: ", "works, but slowly"))
    assert empty == ""
    columns = {line.split("  ")[0]: line.index(line.split("  ", 1)[1].lstrip()) for line in table}
    assert len(set(columns.values())) == 1
    backends = examine()["operators"]["cpu"]["nms"]
    assert f"{doctor.KERNELS[first(backends)]} on cpu" in next(line for line in table if line.startswith("nms "))
    assert {"torch", "threads", "extra train", "cpu kernels"} <= columns.keys()


def test_every_public_operator_is_tried() -> None:
    import dcn.ops

    # One kernel serves several functions.
    served = {
        "deform_conv1d": "deform_conv2d",
        "deform_conv3d": "deform_conv2d",
        **{f"deform_conv_transpose{axes}d": "deform_conv2d" for axes in (1, 2, 3)},
        "deform_ps_roi_pool": "deform_roi_pool",
        "nms_keep": "nms",
        "soft_nms": "nms",
        "box_voting": "nms",
    }
    assert {served.get(name, name) for name in dcn.ops.__all__} == examine()["operators"]["cpu"].keys()


@pytest.mark.parametrize(
    ("threads", "policy", "load", "advice"),
    [
        *((1, "", 3.0, False), (2, "", 3.0, True), (2, "active", 3.0, True)),
        *((2, "active", 0.5, False), (2, "passive", 3.0, False), (2, "", None, False)),
    ],
    ids=["one", "unset", "active", "alone", "passive", "unknown"],
)
def test_an_active_wait_under_load_is_named(
    threads: int, policy: str, load: float | None, advice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(dcn.threads, "load_per_core", lambda: load)
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    actual = doctor._threads()
    assert (actual["advice"] is not None) == advice
    report = {"operators": {"cpu": {"nms": {"cpu": None}}}, "threads": actual}
    assert verdict(report).startswith(
        "works, but slowly while other programs run: 2 threads spin" if advice else "ready"
    )


def test_the_verdict_names_the_first_thing_to_do() -> None:
    backends = {"triton": None, "cpu": "no compiler was found", "reference": None}
    report = {"operators": {"cpu": {"nms": backends}}, "threads": {"advice": None}}
    assert verdict(report) == "works, but slowly on cpu: the cpu kernels do not run: no compiler was found"


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert doctor._extras()["export"] == 'missing: onnx; pip install "deformable-convnets[export]" installs it'
    assert doctor._extras()["train"] == "installed"


def test_a_reason_is_that_of_the_backend() -> None:
    module: Any = SimpleNamespace(unsupported=lambda: "the tensors are on cpu (not on a GPU)")

    def call(backend: str) -> torch.Tensor:
        choose((("cpu", module),), backend)
        return torch.zeros(0)

    assert doctor._try(call, "cpu") == "the tensors are on cpu (not on a GPU)"
    assert doctor._try(call, "triton") == doctor.NOT_WRITTEN
