"""A C file of the bench's own in, a BPF object out, compiled as chains are."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from compiler.clang import FLAGS, find_clang
from runtime.object import read_object
from runtime.spec import ObjectSpec

_BENCH = Path(__file__).parent / "bpf"
_COMPILER = Path(__file__).parent.parent / "compiler"


def compile_unit(name: str, defines: Mapping[str, int] | None = None) -> ObjectSpec:
    """The object of `bench/bpf/NAME.c`, compiled once for each set of definitions."""
    return _compiled(name, tuple(sorted((defines or {}).items())))


@cache
def _compiled(name: str, defines: tuple[tuple[str, int], ...]) -> ObjectSpec:
    includes = [f"-I{folder}" for folder in (_BENCH, _COMPILER / "bpf", _COMPILER / "services")]
    with tempfile.TemporaryDirectory(prefix="bpfchain-bench-") as folder:
        output = Path(folder, "unit.o")
        command = [*find_clang().command, *FLAGS, *includes, *(f"-D{key}={value}" for key, value in defines)]
        subprocess.run([*command, "-c", str(_BENCH / f"{name}.c"), "-o", str(output)], check=True)  # noqa: S603
        return read_object(output.read_bytes())
