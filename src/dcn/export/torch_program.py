"""Whole models as programs of torch: ``torch.export`` programs, and packages of compiled code (AOTInductor).

Both are files ``.pt2``. They hold no Python of this package's models; ``import dcn`` registers the operators that they
call (``dcn::deform_conv``, ``dcn::nms_keep``, ...). A package holds machine code, which runs when it is loaded.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcn import ops
from dcn.export.metadata import KEY, Metadata, read_metadata
from dcn.export.runtime import Runner
from dcn.export.trace import Function, quiet, written

_COMPILED = "/data/aotinductor/"
_PROGRAM = "/models/"
"""Folders within the two kinds of archives."""

assert ops is not None  # imported for its operators


def _program(function: Function) -> Any:
    with torch.no_grad(), quiet():
        return torch.export.export(function.network, function.example, dynamic_shapes=function.shapes)


def export_program(function: Function, path: Path) -> Metadata:
    """Write a function of a model as a program that ``torch.export.load`` reads; inputs as for ONNX.

    Args:
        function: see :func:`dcn.export.trace.function_of`.
        path: the file, which is written whole or not at all.

    Returns:
        The record, which is the extra file ``dcn`` of the archive.
    """
    program = _program(function)
    with written(path) as temporary, quiet():
        torch.export.save(program, temporary, extra_files={KEY: function.metadata.to_json()})
    return function.metadata


def check_compiler() -> None:
    """Check that AOTInductor can compile here.

    Raises:
        ValueError: there is no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError(
            "--format aoti: needs a C++ compiler, none was found; install g++ or clang, or name one with the variable "
            "CXX, or export with --format torch, which needs none"
        ) from error


def export_compiled(function: Function, path: Path) -> Metadata:
    """Compile a function of a model and write the package, which ``torch._inductor.aoti_load_package`` loads.

    Args:
        function: see :func:`dcn.export.trace.function_of`.
        path: the file, which is written whole or not at all.

    Returns:
        The record, which is the entry ``dcn`` of the package's metadata.

    Raises:
        ValueError: there is no C++ compiler.
    """
    from torch._inductor import aoti_compile_and_package

    check_compiler()
    program = _program(function)
    record = {"aot_inductor.metadata": {KEY: function.metadata.to_json()}}
    with written(path) as temporary, quiet():
        aoti_compile_and_package(program, package_path=str(temporary), inductor_configs=record)
    return function.metadata


class ProgramRunner(Runner):
    """A program or a package, run by torch on the CPU.

    Args:
        function: what it holds.
        metadata: the record in the file.
        where: what runs it, in words.
    """

    def __init__(self, function: Any, metadata: Metadata, where: str) -> None:
        super().__init__(metadata)
        self._function, self.where = function, where

    @torch.no_grad()
    def call(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs."""
        outputs: Sequence[Tensor] = self._function(*inputs)
        return outputs


def open_program(path: Path) -> ProgramRunner:
    """What runs a file ``.pt2`` of ``dcn export``; open only files that you trust, as loading one may run code.

    Raises:
        ValueError: not such a file, or one of another program, which is not loaded.
    """
    kind, record = _look(path)
    metadata = read_metadata(record, str(path))
    try:
        with quiet():
            if kind == _COMPILED:
                from torch._inductor import aoti_load_package

                return ProgramRunner(aoti_load_package(str(path)), metadata, "AOTInductor")
            # Its guards tell maps of one row from others, which compute the same.
            module = torch.export.load(path).module(check_guards=False)
            return ProgramRunner(module, metadata, "torch.export")
    except Exception as error:  # torch's errors about archives have no common class
        raise ValueError(f"{path}: expected a file that this torch ({torch.__version__}) can load: {error}") from error


def _look(path: Path) -> tuple[str, str | None]:
    """Which of the two kinds an archive is, and its record; nothing is loaded."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            kind = next((folder for folder in (_COMPILED, _PROGRAM) if any(folder in name for name in names)), None)
            if kind is None:
                raise ValueError(
                    f"{path}: expected a torch.export program or an AOTInductor package, got another archive"
                )
            for name in names:
                if kind == _PROGRAM and name.endswith(f"/extra/{KEY}"):
                    return kind, archive.read(name).decode()
                if kind == _COMPILED and name.endswith(".wrapper_metadata.json"):
                    return kind, json.loads(archive.read(name)).get(KEY)
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected a file .pt2 of `dcn export`, got a damaged one ({error})") from error
    return kind, None
