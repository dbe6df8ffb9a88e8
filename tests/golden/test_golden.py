"""YAML in, IR text and C out: every example chain's IR, and the C of one, compared with what was read and approved."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.build import lowered
from compiler.emit import emit, units
from compiler.ir import ChainIR
from compiler.ir_text import text
from schemas.chains import examples
from tests.rig import probe

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


THREE_PROBES = """\
chain: probes
slow-path: {rate: 20000}
interfaces: {p1: {device: eth0}, p2: {device: eth1}, p3: {device: eth2, mode: tc}}
services: {first: {kind: probe}, last: {kind: probe}, other: {kind: probe}}
links:
  - [p1, first.outside]
  - [first.inside, last.outside]
  - [last.inside, p2]
  - [p3, other.outside]
  - [other.inside, host]
"""


@pytest.fixture
def probes(tmp_path: Path) -> ChainIR:
    """A chain with a slow path and ways down."""
    file = tmp_path / "probes.yaml"
    file.write_text(THREE_PROBES)
    with probe.installed():
        return lowered(file)


def test_ir_with_control_planes(probes: ChainIR, request: pytest.FixtureRequest) -> None:
    agrees(HERE / "probes.ir", text(probes), request.config.getoption("--update-golden"))


def test_c_with_control_planes(probes: ChainIR, request: pytest.FixtureRequest) -> None:
    for unit in units(probes, "VERSION"):
        if unit.name in ("first__outside__xdp.c", "other__outside__tc.c", "inject_xdp.c", "inject_tc.c"):
            agrees(HERE / f"{unit.name}.txt", unit.text, request.config.getoption("--update-golden"))


def test_c_at_tc(request: pytest.FixtureRequest) -> None:
    ir = lowered(examples()["plain-bridge"])
    produced = emit(ir, ir.programs[0], "VERSION").text
    agrees(HERE / f"{ir.programs[0].name}.c.txt", produced, request.config.getoption("--update-golden"))
