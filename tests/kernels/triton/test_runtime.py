"""When Triton can run, why not, and how it is told apart from its interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dcn.kernels.triton import _runtime
from dcn.ops import deform_conv2d
from dcn.ops._backends import choose
from dcn.ops.deform_conv import BACKENDS

CALL = (
    torch.zeros(1, 2, 3, 3),
    torch.zeros(1, 2, 3, 3),
    torch.zeros(2, 2, 1, 1),
    None,
    None,
    (1, 1),
    (0, 0),
    (1, 1),
    "v2",
)


def test_a_tensor_without_data_is_refused_with_its_device() -> None:
    why = _runtime.reason(torch.empty(1, device="meta"))
    assert why is not None
    assert "meta" in why


@pytest.mark.skipif(not _runtime.interpreted(), reason="there is a GPU, so nothing is interpreted")
def test_the_interpreter_is_never_chosen_by_itself() -> None:
    assert _runtime.reason(*CALL[:3]) is None
    assert choose(BACKENDS, None, *CALL).__name__ != "dcn.kernels.triton.deform_conv"
    assert choose(BACKENDS, "triton", *CALL).__name__ == "dcn.kernels.triton.deform_conv"


def test_without_the_interpreter_cpu_tensors_are_refused_with_a_reason() -> None:
    program = (
        "import os, torch; os.environ.pop('TRITON_INTERPRET', None)\n"
        "from dcn.ops import deform_conv2d\n"
        "try: deform_conv2d(torch.zeros(1,2,3,3), torch.zeros(1,2,3,3), torch.zeros(2,2,1,1), backend='triton')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Triton needs a GPU" in done.stdout


def test_importing_the_package_does_not_import_triton() -> None:
    program = "import sys, dcn, dcn.ops, dcn.nn; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(not _runtime.interpreted(), reason="on a card other errors come first")
def test_an_error_of_a_kernel_names_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcn.kernels.triton import deform_conv

    def broken(*_: object) -> None:
        raise RuntimeError("out of resource")

    monkeypatch.setattr(deform_conv, "_forward", broken)
    with pytest.raises(
        RuntimeError, match=r"deformable convolution, forward, of input \[1, 2, 3, 3\].*out of resource"
    ):
        deform_conv2d(*CALL[:3], backend="triton")


@pytest.mark.skipif(_runtime.interpreted(), reason="float32 has no choice under the interpreter")
def test_float32_follows_torchs_own_setting() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert _runtime.precision(torch.empty(1, device="cuda")) in ("tf32", "ieee")
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        assert _runtime.precision(torch.empty(1, device="cuda")) in ("tf32x3", "ieee")
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
