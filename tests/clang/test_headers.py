"""Every header of ours compiles alone, at every warning: it includes what it needs, and nothing of the system's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import compiler
from compiler.clang import FLAGS, find_clang

COMPILER = Path(compiler.__file__).parent
HEADERS = sorted(COMPILER.rglob("*.h"))


FROM_PROGRAMS = "-Wno-undefined-internal"
"""Headers declare what every program defines (slow_path_copy), and may call it."""


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: str(header.relative_to(COMPILER)))
def test_compiles_alone(header: Path) -> None:
    options = [*FLAGS, FROM_PROGRAMS, "-nostdinc", f"-I{COMPILER / 'bpf'}", "-fsyntax-only", "-x", "c", "-"]
    command = [*find_clang().command, *options]
    ran = subprocess.run(command, input=f'#include "{header}"\n', capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_finds_the_headers() -> None:
    assert {"packet.h", "verdict.h"} <= {header.name for header in HEADERS}
