"""Compiles one kernel of deformable convolution for a generation of cards and prints what came out, as JSON.

`python tests/kernels/triton/compile_deform_conv.py 90 forward`: bfloat16, two axes, channels-last, tiles of the table.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_ALIGNED = [["tt.divisibility", 16]]
_NUMBERS_ALIGNED = ("channels", "outputs", "in_group", "out_group", "in_offset_group")
_INDICES = ("lists_pointer", "sorted_pointer")
_FLOATS = ("offset_pointer", "grad_offset_pointer", "shares_pointer")
# The geometry of a 3x3 convolution as the launcher sees it: ones become constants.
_GEOMETRY = (("i32", "i32"), ("constexpr",) * 3, ("i32", "constexpr", "constexpr"), ("constexpr",) * 3)
_ONES = [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]


def _kernel(name: str, generation: str) -> tuple[Any, dict[str, object], Any]:
    from dcn.kernels.triton import _deform_conv_forward_kernels as forward
    from dcn.kernels.triton import _deform_conv_input_kernels as by_input
    from dcn.kernels.triton import _deform_conv_offset_kernels as by_offset
    from dcn.kernels.triton import _deform_conv_weight_kernels as by_weight
    from dcn.kernels.triton import _tiles

    tile = _tiles.table(generation)[name, 2]
    common = {"AXES": 2, "V1": False, "LAST": True, "WIDE": False, "PRECISION": "ieee"}
    even = {"EVEN": True, "EVEN_OUTPUTS": True}
    blocks = {"BLOCK_PLACES": tile.rows, "BLOCK_CHANNELS": tile.columns, "BLOCK_OUTPUTS": tile.inner}
    if name == "forward":
        blocks = {"BLOCK_PLACES": tile.rows, "BLOCK_OUTPUTS": tile.columns, "BLOCK_CHANNELS": tile.inner}
        return forward.dense, {**common, **blocks, "EVEN": True, "MERGED": False}, tile
    if name == "offset":
        return by_offset.offset_and_mask, {**common, **even, **blocks, "DEPTHWISE": False}, tile
    if name == "input":
        return by_input.gather, {**common, **blocks, "EVEN_OUTPUTS": True, "DEPTHWISE": False}, tile
    blocks = {"BLOCK_OUTPUTS": tile.rows, "BLOCK_CHANNELS": tile.columns, "BLOCK_PLACES": tile.inner}
    return by_weight.dense, {**common, **even, **blocks}, tile


def _describe(kernel: Any, constants: dict[Any, object]) -> tuple[dict[str, object], dict[Any, object], dict[Any, Any]]:
    """Signature, constants and alignments of a launch with tensors of many channels and no bias."""
    signature: dict[str, object] = {}
    attributes: dict[Any, Any] = {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("bias_pointer", "span"):
            signature[name] = "constexpr"
            constants = {**constants, name: None if name == "bias_pointer" else 1}
        elif name.endswith("_pointer"):
            signature[name] = "*i32" if name in _INDICES else "*fp32" if name in _FLOATS else "*bf16"
            attributes[position,] = _ALIGNED
        elif name == "geometry":
            signature[name] = _GEOMETRY
            constants = {**constants, **{(position, *at): 1 for at in _ONES}}
        else:
            signature[name] = "i32"
            if name in _NUMBERS_ALIGNED:
                attributes[position,] = _ALIGNED
    return signature, constants, attributes


def report(name: str, capability: int) -> dict[str, object]:
    """Shared memory, spills, wide loads and matrix instructions of the compiled kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, constants, tile = _kernel(name, f"sm_{capability}")
    signature, constants, attributes = _describe(kernel, constants)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = _disassembled(Path(triton.__file__).parent, compiled.asm["cubin"])
    return {
        "shared": compiled.metadata.shared,
        "spills": len(re.findall(r"\bSTL\b", code)),
        "wide_loads": len(re.findall(r"LDG\S*\.128|LDGSTS\S*\.128", code)),
        "instructions": sorted(set(re.findall(r"\bH?G?MMA\b|HGMMA|HMMA|DMMA", code))),
    }


def _disassembled(triton_folder: Path, binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(triton_folder / "backends/nvidia/bin/cuobjdump"), "-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(json.dumps(report(sys.argv[2], int(sys.argv[1]))))
