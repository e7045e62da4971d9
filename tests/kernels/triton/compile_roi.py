"""Compiles kernels of the RoI poolings and of suppression for a generation of cards; prints what came out, as JSON.

`python tests/kernels/triton/compile_roi.py 90 bfloat16 align`: maps in that type, channels-last with 256 channels for
`align`, contiguous with a channel per bin and class for `parts`; names ending in `-backward` compute all gradients.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_STRIDES = ("by_image", "by_row", "by_column", "to_image", "to_row", "to_column")
_LONG = ("scale_bits", "gamma_bits", "threshold_bits", "sigma_bits", "least_bits")
KINDS = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32", "float64": "*fp64"}
_POINTERS = {
    **dict.fromkeys(("data", "offset", "mask", "output", "grad"), "data"),
    **dict.fromkeys(("unit", "grad_data", "grad_shift", "grad_mask", "boxes", "left", "values"), "sums"),
    **dict.fromkeys(("bits", "labels", "dropped", "ends", "chosen"), "*i64"),
    **dict.fromkeys(("valid", "keep"), "*i1"),
}
_PARTS = {"FORM": 4, "P": 7, "Q": 7, "GH": 7, "GW": 7, "CLASSES": 81, "OFFSET": True, "MASK": False}
_ALIGN = {"FORM": 1, "P": 7, "Q": 7, "GH": 1, "GW": 1, "CLASSES": 1, "OFFSET": True, "MASK": True}


def _tile(constants: dict[str, Any], depth: int, backward: bool) -> dict[str, int]:
    from dcn.kernels.roi_grid import RoiRule
    from dcn.kernels.triton import roi_mean as caller

    values = caller._BACKWARD_VALUES if backward else caller._FORWARD_VALUES
    rule = RoiRule("parts", (constants["P"], constants["Q"]), (constants["GH"], constants["GW"]), 1.0, 0, 0.0)
    return dict(zip("BTC", caller.tile_of(rule, depth, constants["CLASSES"], values), strict=True))


def _kernel(name: str) -> tuple[Any, dict[str, Any]]:
    """The kernel and its constants; a stride or count of 1 is one as well."""
    from dcn.kernels.triton import _nms_kernels as suppression
    from dcn.kernels.triton import _roi_max_kernels as most
    from dcn.kernels.triton import _roi_mean_kernels as mean
    from dcn.kernels.triton import nms, soft_nms

    gradients = {"DATA": True, "SHIFT": True, "FACTOR": "align" in name}
    backward = name.endswith("backward")
    if name.startswith("align"):
        constants = {**_ALIGN, **_tile(_ALIGN, 256, backward), "by_channel": 1}
        return (mean.backward, {**constants, **gradients, "to_channel": 1}) if backward else (mean.forward, constants)
    if name.startswith("parts"):
        constants = {**_PARTS, **_tile(_PARTS, 1, backward), "depth": 1, "by_column": 1}
        return (mean.backward, {**constants, **gradients, "to_column": 1}) if backward else (mean.forward, constants)
    if name.startswith("max"):
        return most.largest, {"P": 7, "Q": 7, "BACKWARD": backward, "B": 4, "C": 256, "by_channel": 1}
    if name == "bits":
        return suppression.overlap_bits, {"LABELS": True, "VALID": True, "EQUAL": False, "ROWS": nms._ROWS}
    if name == "scan":
        return suppression.scan, {"LABELS": True, "VALID": True, "LIMITED": False, "CHUNK": nms._CHUNKS[-1]}
    return suppression.soft, {"GAUSSIAN": True, "CHUNK": soft_nms._CHUNK}


def _describe(kernel: Any, constants: dict[str, Any], kind: str) -> tuple[dict[str, str], dict[Any, Any]]:
    signature, attributes = {}, {}
    types = {"data": KINDS[kind], "sums": "*fp64" if kind == "float64" else "*fp32"}
    for position, name in enumerate(kernel.arg_names):
        actual = _POINTERS.get(name, "i64" if name in _LONG else "i32")
        signature[name] = "constexpr" if name in constants else types.get(actual, actual)
        last = constants.get("by_channel") == 1 and name in (*_STRIDES, "depth", "channels")
        if name not in constants and (name in _POINTERS or last):
            attributes[position,] = [["tt.divisibility", 16]]
    return signature, attributes


def report(name: str, capability: int, kind: str) -> dict[str, object]:
    """Registers, bytes spilled, shared memory and wide loads of the compiled kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tests.kernels.triton.compile_deform_conv import _disassembled

    kernel, constants = _kernel(name)
    signature, attributes = _describe(kernel, constants, kind)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = _disassembled(Path(triton.__file__).parent, compiled.asm["cubin"])
    registers = [int(number) for number in re.findall(r"\bR(\d+)\b", code)]
    return {
        "registers": max(registers) + 1,
        "spills": len(re.findall(r"\bSTL\b", code)),
        "shared": compiled.metadata.shared,
        "wide_loads": len(re.findall(r"LDG\S*\.128", code)),
        "fused": len(re.findall(r"\bFFMA\b", code)),
        "barriers": len(re.findall(r"\bBAR\b", code)),
        "atomics": sorted(set(re.findall(r"(?:RED|ATOMG)\S*", code))),
    }


if __name__ == "__main__":
    print(json.dumps([report(name, int(sys.argv[1]), sys.argv[2]) for name in sys.argv[3:]]))
