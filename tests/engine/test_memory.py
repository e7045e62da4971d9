from __future__ import annotations

import pytest
import torch

from dcn.engine.memory import OutOfMemoryError, memory_advice


def _huge() -> None:
    torch.empty(1 << 50)


def _gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _python() -> None:
    raise MemoryError


@pytest.mark.parametrize("fail", [_huge, _gpu, _python], ids=["cpu-allocator", "gpu", "python"])
def test_the_error_says_what_to_change(fail: object) -> None:
    assert callable(fail)
    with (
        pytest.raises(OutOfMemoryError, match="memory ran out in step 3; lower it"),
        memory_advice("step 3", "lower it"),
    ):
        fail()


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_advice("step 3", "lower it"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
