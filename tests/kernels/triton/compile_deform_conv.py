"""Compiles one kernel of deformable convolution for a generation of cards and prints what came out, as JSON.

`python tests/kernels/triton/compile_deform_conv.py 90 forward [float32]`: bfloat16 if no type is named; two axes, 3x3,
channels-last, tiles of the table. `all` compiles every kernel, a line of JSON each; `gfx942` for 90: an AMD card.
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
_INDICES = ("lists_pointer", "sorted_pointer", "unsorted_pointer")
_FLOATS = ("offset_pointer", "grad_offset_pointer", "shares_pointer")
_CONSTANTS = {"bias_pointer": None, "span": 1, "geometry": ((3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1))}
KINDS = {"bfloat16": ("*bf16", 2), "float32": ("*fp32", 4), "float64": ("*fp64", 8)}
LISTS = ("count", "fill", "settle")


def _target(generation: str) -> Any:
    from triton.backends.compiler import GPUTarget

    return GPUTarget("hip", generation, 64) if generation.startswith("gfx") else GPUTarget("cuda", int(generation), 32)


def _kernel(name: str, generation: str, kind: str) -> tuple[Any, dict[str, object], dict[str, int]]:
    """Kernel, constants and options: ``forward``, ..., with ``-depthwise`` for groups of one channel, or of `LISTS`."""
    from dcn.kernels.triton import _deform_conv_forward_kernels as forward
    from dcn.kernels.triton import _deform_conv_input_kernels as by_input
    from dcn.kernels.triton import _deform_conv_offset_kernels as by_offset
    from dcn.kernels.triton import _deform_conv_weight_kernels as by_weight
    from dcn.kernels.triton import _tiles, deform_conv

    common: dict[str, object] = {"AXES": 2, "V1": False, "WIDE": False, "STRIP": 8}
    if name in LISTS:
        common.pop("STRIP")
        return getattr(by_input, name), {**common, "BLOCK": deform_conv._LIST_BLOCK}, {"num_warps": 4, "num_stages": 3}
    name, _, depthwise = name.partition("-")
    tile = _tiles.table(generation if generation.startswith("gfx") else f"sm_{generation}")[
        depthwise or name, KINDS[kind][1]
    ]
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    precise = "tf32x3" if kind == "float32" and not generation.startswith("gfx") else "ieee"
    common |= {"LAST": True, "EVEN": True, "EVEN_OUTPUTS": True, "MERGED": False}
    common |= {"DEPTHWISE": bool(depthwise), "PRECISION": precise}
    blocks = {"BLOCK_LOCATIONS": tile.rows, "BLOCK_CHANNELS": tile.columns, "BLOCK_OUTPUTS": tile.inner}
    if name == "input":
        patch = _tiles.patch(2, tile.rows)
        common |= {"PATCH": patch, "BLOCK_SAMPLES": _tiles.samples(patch, 2, (1, 1, 1))}
        common |= {"out_group": 1} if depthwise else {}
    if name == "forward":
        blocks = {"BLOCK_LOCATIONS": tile.rows, "BLOCK_OUTPUTS": tile.columns, "BLOCK_CHANNELS": tile.inner}
    elif name == "weight":
        blocks = {"BLOCK_OUTPUTS": tile.rows, "BLOCK_CHANNELS": tile.columns, "BLOCK_LOCATIONS": tile.inner}
        if depthwise:
            blocks["BLOCK_OUTPUTS"] = tile.columns
    kernel = {
        "forward": forward.depthwise if depthwise else forward.dense,
        "offset": by_offset.offset_and_mask,
        "input": by_input.gather,
        "weight": by_weight.depthwise if depthwise else by_weight.dense,
    }[name]
    if depthwise:
        common |= {"multiplier": 1, "out_group": 1}  # as a launch makes them constants
    taken = {key: value for key, value in {**common, **blocks}.items() if key in kernel.arg_names}
    return kernel, taken, options


def _describe(
    kernel: Any, constants: dict[str, object], pointer: str
) -> tuple[dict[str, str], dict[str, object], dict[Any, Any]]:
    """Signature, constants and alignments of a launch with tensors of many channels and no bias."""
    constants = {**constants, **{name: value for name, value in _CONSTANTS.items() if name in kernel.arg_names}}
    signature: dict[str, str] = {}
    attributes: dict[Any, Any] = {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        wide = pointer if pointer == "*fp64" else "*fp32"
        kinds = {**dict.fromkeys(_INDICES, "*i32"), **dict.fromkeys(_FLOATS, wide)}
        signature[name] = kinds.get(name, pointer) if name.endswith("_pointer") else "i32"
        if name.endswith("_pointer") or name in _NUMBERS_ALIGNED:
            attributes[position,] = _ALIGNED
    return signature, constants, attributes


def report(name: str, generation: str, kind: str = "bfloat16") -> dict[str, object]:
    """What the compiled kernel has.

    Registers, shared memory, wide loads, of them those through the first-level cache, matrix instructions; in loops:
    spills, and waits for the last product, with which a program does nothing else meanwhile.
    """
    import triton
    from triton.compiler import ASTSource

    kernel, constants, options = _kernel(name, generation, kind)
    signature, constants, attributes = _describe(kernel, constants, KINDS[kind][0])
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=_target(generation), options=options)
    actual: dict[str, object] = {"kernel": name, "generation": generation, "kind": kind}
    actual["shared"] = compiled.metadata.shared
    if generation.startswith("gfx"):
        numbers = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", compiled.asm["amdgcn"]))
        return actual | {"registers": int(numbers["vgpr_count"]), "spills": int(numbers["vgpr_spill_count"])}
    code = _disassembled(Path(triton.__file__).parent, compiled.asm["cubin"])
    return actual | {
        "registers": max(int(number) for number in re.findall(r"\bR(\d+)\b", code)) + 1,
        "spills": _in_loops(code, r"\b(STL|LDL)\b"),
        "waits": _in_loops(code, r"WARPGROUP\.DEPBAR\.LE gsb0, 0x0"),
        "cached_loads": len(re.findall(r"LDG\.\S*\.128", code)),
        "wide_loads": len(re.findall(r"LDG\S*\.128|LDGSTS\S*\.128", code)),
        "instructions": sorted(set(re.findall(r"HGMMA|HMMA|DMMA|UTC\w*MMA", code))),
    }


def _in_loops(code: str, expected: str) -> int:
    """Instructions that run in every step of some loop; a few before and after a loop cost nothing."""
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", code)]
    jumps = [(at, re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)) for at, text in lines]
    loops = [(int(jump[1], 16), at) for at, jump in jumps if jump is not None and int(jump[1], 16) < at]
    actual = [at for at, text in lines if re.search(expected, text)]
    return sum(any(first <= at <= last for first, last in loops) for at in actual)


def _disassembled(triton_folder: Path, binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(triton_folder / "backends/nvidia/bin/cuobjdump"), "-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main(generation: str, name: str, kind: str = "bfloat16") -> None:
    """Print a line for each kernel."""
    layers = [f"{kernel}{form}" for form in ("", "-depthwise") for kernel in ("forward", "offset", "input", "weight")]
    for each in [*layers, *LISTS] if name == "all" else [name]:
        print(json.dumps(report(each, generation, kind)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
