"""Wrong calls are ValueErrors that name the argument; backends are chosen as asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dcn.ops import deform_conv2d
from tests.ops.cases import AWKWARD, call, make


def _arguments() -> dict[str, Any]:
    return {
        "input": torch.zeros(2, 4, 6, 5),
        "offset": torch.zeros(2, 18, 6, 5),
        "weight": torch.zeros(6, 2, 3, 3),
        "bias": torch.zeros(6),
        "mask": torch.ones(2, 9, 6, 5),
        "padding": 1,
    }


WRONG: dict[str, tuple[str, Any]] = {
    "input-3d": ("input", torch.zeros(4, 6, 5)),
    "input-int": ("input", torch.zeros(2, 4, 6, 5, dtype=torch.int64)),
    "input-list": ("input", [1.0]),
    "input-sparse": ("input", torch.zeros(2, 4, 6, 5).to_sparse()),
    "mask-opaque": ("mask", torch.ones(2, 9, 6, 5).to_mkldnn()),
    "weight-complex": ("weight", torch.zeros(6, 2, 3, 3, dtype=torch.complex64)),
    "stride-bool": ("stride", True),
    "padding-word": ("padding", "same"),
    "dilation-huge": ("dilation", 2**40),
    "boundary-list": ("boundary", ["v2"]),
    "input-no-channels": ("input", torch.zeros(2, 0, 6, 5)),
    "offset-3d": ("offset", torch.zeros(18, 6, 5)),
    "offset-list": ("offset", [0.0]),
    "offset-size": ("offset", torch.zeros(2, 18, 4, 3)),
    "offset-channels": ("offset", torch.zeros(2, 17, 6, 5)),
    "offset-no-channels": ("offset", torch.zeros(2, 0, 6, 5)),
    "offset-groups": ("offset", torch.zeros(2, 54, 6, 5)),
    "offset-batch": ("offset", torch.zeros(3, 18, 6, 5)),
    "offset-double": ("offset", torch.zeros(2, 18, 6, 5, dtype=torch.float64)),
    "offset-meta": ("offset", torch.zeros(2, 18, 6, 5, device="meta")),
    "weight-2d": ("weight", torch.zeros(6, 2)),
    "weight-channels": ("weight", torch.zeros(6, 3, 3, 3)),
    "weight-outputs": ("weight", torch.zeros(5, 2, 3, 3)),
    "weight-empty": ("weight", torch.zeros(0, 2, 3, 3)),
    "weight-half": ("weight", torch.zeros(6, 2, 3, 3, dtype=torch.float16)),
    "bias-size": ("bias", torch.zeros(5)),
    "bias-2d": ("bias", torch.zeros(6, 1)),
    "bias-double": ("bias", torch.zeros(6, dtype=torch.float64)),
    "mask-channels": ("mask", torch.ones(2, 18, 6, 5)),
    "mask-size": ("mask", torch.ones(2, 9, 6, 6)),
    "mask-half": ("mask", torch.ones(2, 9, 6, 5, dtype=torch.bfloat16)),
    "stride-numpy-bool": ("stride", np.True_),
    "stride-numpy-float": ("stride", np.float64(1)),
    "stride-zero": ("stride", 0),
    "stride-negative": ("stride", (1, -1)),
    "stride-three": ("stride", (1, 1, 1)),
    "stride-float": ("stride", 1.5),
    "padding-negative": ("padding", -1),
    "dilation-zero": ("dilation", (0, 1)),
    "boundary": ("boundary", "v3"),
    "backend": ("backend", "gpu"),
}


@pytest.mark.parametrize(("name", "value"), WRONG.values(), ids=WRONG.keys())
def test_wrong_call_names_the_argument(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected .* got ") as error:
        deform_conv2d(**{**_arguments(), name: value})
    assert len(str(error.value)) < 400


def test_output_without_locations_names_the_sizes() -> None:
    arguments = {**_arguments(), "dilation": 5}
    with pytest.raises(ValueError, match=r"^input: .*size \[6, 5\] with kernel \[3, 3\].*dilation \[5, 5\]"):
        deform_conv2d(**arguments)


@pytest.mark.parametrize(("name", "value"), [WRONG["offset-size"], WRONG["mask-channels"]], ids=["offset", "mask"])
def test_meta_tensors_are_checked_too(name: str, value: torch.Tensor) -> None:
    arguments = {**_arguments(), name: value}
    meta: dict[str, Any] = {key: v.to("meta") if isinstance(v, torch.Tensor) else v for key, v in arguments.items()}
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        deform_conv2d(**meta)


def test_direct_call_of_the_registered_operator_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^offset: expected"):
        torch.ops.dcn.deform_conv(
            torch.zeros(1, 1, 4, 4), torch.zeros(1, 18, 9, 9), torch.zeros(1, 1, 3, 3), None, None,
            [1, 1], [1, 1], [1, 1], "v2", None,
        )  # fmt: skip


def test_environment_names_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    args = make(AWKWARD)
    expected = call(AWKWARD, args.tensors, "v2", "reference")
    monkeypatch.setenv("DCN_BACKEND", "reference")
    assert torch.equal(call(AWKWARD, args.tensors, "v2"), expected)
    monkeypatch.setenv("DCN_BACKEND", "abacus")
    with pytest.raises(ValueError, match=r"^DCN_BACKEND: expected one of .* got 'abacus'"):
        call(AWKWARD, args.tensors, "v2")


def test_named_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcn.kernels.cpu.deform_conv.unsupported", lambda *_: "it is switched off")
    args = make(AWKWARD)
    with pytest.raises(
        ValueError, match=r"backend: expected one that can compute this call, got 'cpu' \(cpu: it is switched off\)"
    ):
        call(AWKWARD, args.tensors, "v2", "cpu")
    automatic = call(AWKWARD, args.tensors, "v2")
    assert torch.equal(automatic, call(AWKWARD, args.tensors, "v2", "reference"))


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32], ids=lambda kind: kind.__name__)
def test_integers_of_numpy_are_integers(kind: Any) -> None:
    arguments = {**_arguments(), "input": torch.rand(2, 4, 6, 5), "weight": torch.rand(6, 2, 3, 3)}
    numpy = {"padding": kind(1), "stride": (kind(1), kind(1)), "dilation": kind(1)}
    assert torch.equal(deform_conv2d(**{**arguments, **numpy}), deform_conv2d(**arguments))
