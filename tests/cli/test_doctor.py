from __future__ import annotations

import json

import pytest
import torch

from dcn.cli import doctor
from dcn.cli.doctor import examine
from dcn.cli.main import main
from dcn.kernels.cpu import _library


def test_the_doctor_agrees_with_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    reason = _library.reason()
    assert report["cpu_kernels"]["cpu kernels"] == ("ready" if reason is None else f"missing: {reason}")
    operators = report["operators"]["cpu"]
    assert {"deform_conv2d", "roi_align", "nms"} <= operators.keys()
    assert all(backends["reference"] is None for backends in operators.values())
    assert (operators["deform_conv2d"]["cpu"] is None) == (reason is None)


def test_the_text_names_the_backend_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    backends = examine()["operators"]["cpu"]["nms"]
    first = next(name for name, reason in backends.items() if reason is None)
    assert ["nms", first] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("threads", "policy", "advice"),
    [(1, "", False), (2, "", True), (2, "active", True), (2, "passive", False)],
    ids=["one", "unset", "active", "passive"],
)
def test_waiting_threads(threads: int, policy: str, advice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    found = doctor._threads()
    assert found.startswith(str(threads))
    assert ("OMP_WAIT_POLICY=PASSIVE" in found) == advice
