"""What is left of snooping after clang: without `multicast`, not one instruction of it, at every hook."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from compiler.build import build
from runtime.object import read_object
from runtime.spec import ProgramSpec
from schemas.manifest import Hook

CHAIN = """\
chain: edge
mode: {mode}
interfaces: {{a: {{device: eth0}}, b: {{device: eth1}}, c: {{device: eth2}}}}
services: {{br0: {{kind: bridge, {bridge}, ports: {{p1: {port}, p2: {port}, p3: {port}}}}}}}
links: [[a, br0.p1], [b, br0.p2], [c, br0.p3]]
"""
NOTHING, OFF, ON = "fdb: {}", "multicast: {snooping: false}", "multicast: {}"
PLAIN, TRUNK, STP = "{}", "{vlan: {trunk: [10, 20]}}", "{stp: {edge: true}}"

every_hook = pytest.mark.parametrize("hook", list(Hook), ids=str)


@functools.cache
def programs(bridge: str, port: str, hook: Hook) -> Mapping[str, ProgramSpec]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "edge.yaml"
        bridge = f"{bridge}, stp: {{}}" if port == STP else bridge
        file.write_text(CHAIN.format(bridge=bridge, port=port, mode="tc" if hook is Hook.TC else "native"))
        compiled = build(file).programs
        return {each.unit.program.name: read_object(each.elf).programs[0] for each in compiled}


@every_hook
@pytest.mark.parametrize("port", [PLAIN, TRUNK, STP], ids=["plain", "trunk", "stp"])
def test_off_is_the_same_as_not_there(port: str, hook: Hook) -> None:
    nothing, off = programs(NOTHING, port, hook), programs(OFF, port, hook)
    assert {name: spec.insns for name, spec in off.items()} == {name: spec.insns for name, spec in nothing.items()}


@every_hook
@pytest.mark.parametrize("port", [PLAIN, TRUNK, STP], ids=["plain", "trunk", "stp"])
def test_off_nothing_refers_to_its_maps(port: str, hook: Hook) -> None:
    """And on, every program does: those that receive, and at XDP those that a copy leaves by."""
    for bridge, wanted in ((OFF, set()), (ON, {"br0__mdb", "br0__mdb_kept_until"})):
        for name, spec in programs(bridge, port, hook).items():
            found = {reference.map for reference in spec.maps if "mdb" in reference.map}
            assert found == wanted, name
    assert any("egress" in name for name in programs(ON, port, hook)) is (hook is Hook.XDP)


@every_hook
@pytest.mark.parametrize("port", [PLAIN, TRUNK, STP], ids=["plain", "trunk", "stp"])
def test_no_configuration_is_read_from_memory(port: str, hook: Hook) -> None:
    for name, spec in programs(ON, port, hook).items():
        assert not spec.sections, name
