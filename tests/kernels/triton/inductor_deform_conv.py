"""Lets Inductor write its programs around the kernels of deformable convolution, and compiles those for an sm_90.

`python -m tests.kernels.triton.inductor_deform_conv` needs no card and runs nothing on one: the tensors are on the CPU,
Triton is told of an sm_90, and Inductor's source of every kernel that we launch goes through Triton's compiler. Prints
a JSON line: the bytes of shared memory of each, in the order in which Inductor makes them, forward and backward.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._inductor.runtime.triton_heuristics as heuristics
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import async_compile
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table

from dcn.ops import deform_conv2d
from tests.kernels.triton import trace_deform_conv


def sources() -> list[tuple[str, str]]:
    """Name and source of every Triton kernel that Inductor hands to Triton for a layer and its gradients."""
    actual: list[tuple[str, str]] = []

    def keep(self: Any, name: str, source: str, device_str: str = "cuda") -> None:
        actual.append((name, source))

    async_compile.AsyncCompile.triton = keep  # type: ignore[method-assign,assignment]
    torch._inductor.config.force_disable_caches = True

    def write(module: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        compile_fx_inner(module, inputs)
        return trace_deform_conv.instead(module)

    compiler = aot_autograd(
        fw_compiler=write,
        bw_compiler=write,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    tensors = trace_deform_conv.layer_tensors(channels_last=True)

    def layer(*given: torch.Tensor) -> torch.Tensor:
        x, offset, weight, bias, mask = given
        return deform_conv2d(x * 2, offset, weight, bias, 1, 1, 1, mask).relu()

    torch.compile(layer, backend=compiler, fullgraph=True)(*tensors).sum().backward()
    return actual


def compiled(source: str) -> int:
    """Bytes of shared memory of one of these sources, compiled as Inductor asks for it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    asked: dict[str, Any] = {}

    def keep(**options: Any) -> Callable[[Any], Any]:
        asked.update(options)
        return lambda function: function

    heuristics.user_autotune = keep  # type: ignore[assignment]
    actual = re.search(r"@triton_heuristics.user_autotune\(.*?\n\)\n@triton.jit\ndef (\w+)\(", source, re.DOTALL)
    assert actual is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.py")
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("kernel", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        meta, config = asked["triton_meta"], asked["configs"][0]
        kernel = ASTSource(
            fn=getattr(module, actual[1]),
            signature=meta["signature"],
            constexprs=dict(meta["constants"]),
            attrs=meta["configs"][0],
        )
        options = {"num_warps": config["num_warps"], "num_stages": config["num_stages"]}
        return int(triton.compile(kernel, target=GPUTarget("cuda", 90, 32), options=options).metadata.shared)


if __name__ == "__main__":
    trace_deform_conv.pretend()
    ours = [(name, source) for name, source in sources() if "user_autotune" in source]
    print(json.dumps([[name, compiled(source)] for name, source in ours]))
