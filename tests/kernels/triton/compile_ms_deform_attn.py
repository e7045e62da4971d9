"""Compiles the kernels of multi-scale deformable attention for a generation of cards; prints what came out, as JSON.

`python tests/kernels/triton/compile_ms_deform_attn.py 90 bfloat16 forward backward`: heads of 32 channels.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.kernels.triton.compile_roi import KINDS

_DATA = ("value", "output", "grad", "weights")
_SUMS = ("locations", "grad_value", "grad_locations", "grad_weights", "unit")
_INDICES = ("shapes", "starts")


def _constants(name: str, kind: str) -> dict[str, Any]:
    import triton.language as tl

    from dcn.kernels.triton import ms_deform_attn as caller

    values = caller._BACKWARD_VALUES if name == "backward" else caller._FORWARD_VALUES
    own = {"VALUE": True, "SAMPLES": True} if name == "backward" else {}
    sums = tl.float64 if kind == "float64" else tl.float32
    return {"SUMS": sums, **own, "EVEN": True, "B": values // (64 if kind == "float64" else 32), "C": 32}


def report(name: str, capability: int, kind: str) -> dict[str, object]:
    """Registers, words spilled and wide loads of the compiled kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dcn.kernels.triton import _ms_deform_attn_kernels as kernels
    from tests.kernels.triton.compile_deform_conv import _disassembled

    kernel, constants = getattr(kernels, name), _constants(name, kind)
    sums = "*fp64" if kind == "float64" else "*fp32"
    types = {**dict.fromkeys(_DATA, KINDS[kind]), **dict.fromkeys(_SUMS, sums), **dict.fromkeys(_INDICES, "*i64")}
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    even = (*types, "channels", "heads")  # torch's memory, 32 channels; 8 heads are no multiple of 16
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, n in enumerate(kernel.arg_names)
        if n in even and n not in constants and n != "heads"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = _disassembled(Path(triton.__file__).parent, compiled.asm["cubin"])
    return {
        "registers": max(int(number) for number in re.findall(r"\bR(\d+)\b", code)) + 1,
        "spills": len(re.findall(r"\bSTL\b", code)),
        "wide_loads": len(re.findall(r"LDG\S*\.(?:64|128)", code)),
        "atomics": sorted(set(re.findall(r"(?:RED|ATOMG)\S*", code))),
    }


if __name__ == "__main__":
    print(json.dumps([report(name, int(sys.argv[1]), sys.argv[2]) for name in sys.argv[3:]]))
