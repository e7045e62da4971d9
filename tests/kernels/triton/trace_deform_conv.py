"""Traces deformable convolution for a compiler as on a GPU and prints what its graphs hold, as JSON.

`python tests/kernels/triton/trace_deform_conv.py static dynamic reference export` needs no card: the kernels are
taken to fit CPU tensors, Triton is told that the card is an sm_90, and nothing is run; a graph returns tensors of the
right shapes. `dynamic`: batch, height and width are symbols.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional

from dcn.kernels.triton import _runtime
from dcn.ops import deform_conv2d


class Card:
    """What tracing asks of Triton's driver."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0


def pretend() -> None:
    """Let the kernels count as fit to run."""
    from triton.runtime import driver

    driver.set_active(Card())
    replaced: dict[str, Callable[..., Any]] = {
        "_reason": lambda device: None,
        "_generation": lambda index: "sm_90",
        "_multiprocessors": lambda index: 132,
    }
    for name, function in replaced.items():
        setattr(_runtime, name, function)


def _describe(node: torch.fx.Node) -> dict[str, object]:
    if node.target is not triton_kernel_wrapper_functional:
        return {"operator": str(node.target)}
    kernel: Any = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])  # type: ignore[arg-type]
    grid: Any = node.kwargs["grid"]
    changed: Any = node.kwargs["tensors_to_clone"]
    return {"kernel": kernel.fn.__name__, "changes": sorted(changed), "symbolic": not isinstance(grid[0][0], int)}


def _number(value: Any) -> int:
    return int(value.node.hint) if isinstance(value, torch.SymInt) else int(value)


def _stand_in(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None if value is None else _number(value)
    size, stride = ([_number(n) for n in numbers] for numbers in (value.shape, value.stride()))
    return torch.zeros(1, dtype=value.dtype).as_strided(size, [0] * len(stride)).contiguous().as_strided(size, stride)


def instead(module: torch.fx.GraphModule) -> Callable[..., Any]:
    """What runs for a graph: it returns tensors of the right shapes."""
    (output,) = module.graph.find_nodes(op="output")
    values = [None if node is None else node.meta["val"] for node in output.args[0]]

    def run(inputs: list[Any]) -> list[Any]:
        return [_stand_in(value) for value in values]

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def layer_tensors(channels_last: bool) -> list[Tensor]:
    """Input, offset, weight, bias and mask of a layer, which want gradients."""
    # As many images as the gradient of the weight needs for more than one share of the locations.
    shapes = ((32, 64, 20, 24), (32, 18, 20, 24), (128, 64, 3, 3), (128,), (32, 9, 20, 24))
    tensors = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    if channels_last:
        tensors[0] = tensors[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    return tensors


def trace(dynamic: bool, channels_last: bool = True, backend: str | None = None) -> dict[str, list[dict[str, object]]]:
    """The calls of kernels and of operators of ours, and writes to inputs, in both graphs."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(module: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(module)
        return instead(module)

    def layer(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return deform_conv2d(x * 2, offset, weight, bias, 1, 1, 1, mask, backend=backend).relu()

    compiler = aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
    torch._dynamo.reset()
    output = torch.compile(layer, backend=compiler, dynamic=dynamic, fullgraph=True)(*layer_tensors(channels_last))
    output.sum().backward()
    expected = ("triton_kernel_wrapper", "dcn.", "copy_.")
    return {
        direction: [_describe(node) for node in graph.graph.nodes if any(word in str(node.target) for word in expected)]
        for direction, graph in zip(("forward", "backward"), graphs, strict=True)
    }


def export() -> list[str]:
    """The operators of an exported layer."""

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
            return deform_conv2d(x, offset, weight)

    tensors = (torch.zeros(1, 16, 6, 6), torch.zeros(1, 18, 4, 4), torch.zeros(16, 16, 3, 3))
    program = torch.export.export(Layer(), tensors)
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


if __name__ == "__main__":
    pretend()
    modes = {"static": lambda: trace(False), "dynamic": lambda: trace(True), "export": export}
    modes["reference"] = lambda: trace(False, backend="reference")
    print(json.dumps({name: modes[name]() for name in sys.argv[1:]}))
