"""Compiles the kernels of DCNv3 and DCNv4 for a generation of cards; prints what came out, as JSON.

`python tests/kernels/triton/compile_dcnv3.py 90 bfloat16 forward backward forward-softmax`: groups of 16 channels, 3x3.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.kernels.triton.compile_roi import KINDS

_LONG = ("scale_bits",)
_DATA = ("data", "offset", "mask", "output", "grad", "grad_offset", "grad_mask")
_ALIGNED = ("channels", "offset_row", "mask_row")


def _describe(kernel: Any, constants: dict[str, Any], kind: str) -> tuple[dict[str, str], dict[Any, Any]]:
    signature: dict[str, str] = {}
    attributes: dict[Any, Any] = {}
    types = {
        **dict.fromkeys(_DATA, KINDS[kind]),
        "shifts": "*i64",
        **dict.fromkeys(("unit", "grad_data"), KINDS["float64" if kind == "float64" else "float32"]),
    }
    for position, name in enumerate(kernel.arg_names):
        other = "i64" if name in _LONG else "i32"
        signature[name] = "constexpr" if name in constants else types.get(name, other)
        if name not in constants and (name in types or name in _ALIGNED):
            attributes[position,] = [["tt.divisibility", 16]]
    return signature, attributes


def report(name: str, capability: int, kind: str) -> dict[str, object]:
    """Registers, bytes spilled and wide loads of the compiled kernel."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dcn.kernels.triton import _dcnv3_kernels as kernels
    from dcn.kernels.triton import dcnv3 as caller
    from tests.kernels.triton.compile_deform_conv import _disassembled

    backward = name.startswith("backward")
    kernel = kernels.backward if backward else kernels.forward
    values = caller.BACKWARD_VALUES if backward else caller.FORWARD_VALUES
    constants = {"TAPS": 9, "ROOM": 16, "DEPTH": 16, "SOFTMAX": name.endswith("softmax")}
    constants |= dict(zip("PD", caller.tile_of(16, values, getattr(torch, kind)), strict=True))
    constants |= {"DATA": True, "PLACES": True} if backward else {}
    signature, attributes = _describe(kernel, constants, kind)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = _disassembled(Path(triton.__file__).parent, compiled.asm["cubin"])
    registers = [int(number) for number in re.findall(r"\bR(\d+)\b", code)]
    return {
        "registers": max(registers) + 1,
        "spills": len(re.findall(r"\bSTL\b", code)),
        "wide_loads": len(re.findall(r"LDG\S*\.(?:64|128)", code)),
        "fused": len(re.findall(r"\b[DF]FMA\b", code)),
        "atomics": sorted(set(re.findall(r"(?:RED|ATOMG)\S*", code))),
    }


if __name__ == "__main__":
    print(json.dumps([report(name, int(sys.argv[1]), sys.argv[2]) for name in sys.argv[3:]]))
