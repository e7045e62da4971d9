"""What the compiler behind ``torch.compile`` sees of an operator: launches of Triton kernels where these would run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

from dcn.kernels.triton._runtime import record


def show_kernels(
    custom: CustomOpDef, compute: Callable[..., Any], recordable: Callable[[tuple[Any, ...]], bool]
) -> None:
    """Let a compiler launch the kernels itself: the operator in its graph gives way to what ``compute`` does.

    That happens where AOTAutograd makes a graph functional, below autograd and autocast, and not for ``torch.export``,
    whose programs shall run elsewhere. ``torch.library.triton_op`` does the same, but for every device.

    Args:
        custom: the registration of a forward or of a backward pass.
        compute: what it does, with the arguments of ``custom``.
        recordable: ``args -> bool``: whether that can be traced down to launches.
    """

    def trace(mode: Any, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        foreign = any(not issubclass(t, FakeTensor) and t not in (Tensor, FunctionalTensor) for t in types)
        exported = not getattr(torch._functorch.config, "decompose_custom_triton_ops", False)
        if foreign or exported or kwargs or not recordable(args):
            return mode.__torch_dispatch__(func, types, args, kwargs)
        with mode, record():
            return compute(*args)

    custom.register_torch_dispatch(FunctionalTensorMode, trace)
