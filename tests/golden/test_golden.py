"""YAML in, IR text and C out: every example chain's IR, and the C of one, compared with what was read and approved."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.build import lowered
from compiler.emit import emit
from compiler.ir_text import text
from schemas.chains import examples

HERE = Path(__file__).parent


def agrees(golden: Path, produced: str, update: bool) -> None:
    if update:
        golden.write_text(produced)
    assert produced == golden.read_text(), (
        f"{golden.name} differs; if it should: pytest --update-golden, and read the diff"
    )


@pytest.mark.parametrize("chain", sorted(examples()))
def test_ir(chain: str, request: pytest.FixtureRequest) -> None:
    produced = text(lowered(examples()[chain]))
    agrees(HERE / f"{chain}.ir", produced, request.config.getoption("--update-golden"))


@pytest.mark.parametrize("program", ["guard__outside__xdp", "br0__desk1__xdp"])
def test_c_at_xdp(program: str, request: pytest.FixtureRequest) -> None:
    ir = lowered(examples()["guarded-bridge"])
    produced = emit(ir, ir.program(program), "VERSION").text
    agrees(HERE / f"{program}.c.txt", produced, request.config.getoption("--update-golden"))


def test_c_at_tc(request: pytest.FixtureRequest) -> None:
    ir = lowered(examples()["plain-bridge"])
    produced = emit(ir, ir.programs[0], "VERSION").text
    agrees(HERE / f"{ir.programs[0].name}.c.txt", produced, request.config.getoption("--update-golden"))
