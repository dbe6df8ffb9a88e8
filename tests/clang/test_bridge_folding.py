"""What is left of a bridge after clang: with VLANs off, no instruction, program or helper call of them."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from compiler.build import Compiled, build
from runtime.object import read_object
from runtime.spec import ProgramSpec
from schemas.manifest import Hook

CHAIN = """\
chain: edge
mode: {mode}
interfaces: {{a: {{device: eth0}}, b: {{device: eth1}}, c: {{device: eth2}}}}
services: {{br0: {{kind: bridge, ports: {{p1: {p1}, p2: {p2}, p3: {p3}}}}}}}
links: [[a, br0.p1], [b, br0.p2], [c, br0.p3]]
"""
PLAIN = ("{}", "{}", "{}")
ACCESS = ("{vlan: {access: 10}}",) * 3
TRUNK = ("{vlan: {trunk: [10, 20, 100-199]}}",) * 3
MIXED = (TRUNK[0], ACCESS[0], "{vlan: {trunk: [10, 20], native: 1}}")
VLAN_PUSH, VLAN_POP, ADJUST_HEAD = 18, 19, 44
OF_VLANS = {VLAN_PUSH, VLAN_POP, ADJUST_HEAD}

# Offsets in the packet and in struct __sk_buff at which only VLANs are looked for.
ETHERTYPE = 12
SKB_VLAN = {20, 24, 28}  # vlan_present, vlan_tci, vlan_proto

_CALL, _LOAD, _HALF = 0x85, 0x61, 0x69


@functools.cache
def compiled(ports: tuple[str, str, str], hook: Hook) -> Compiled:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "edge.yaml"
        p1, p2, p3 = ports
        file.write_text(CHAIN.format(p1=p1, p2=p2, p3=p3, mode="tc" if hook is Hook.TC else "native"))
        return build(file)


def program(ports: tuple[str, str, str], hook: Hook) -> ProgramSpec:
    """What receives on p1."""
    (chosen,) = [each for each in compiled(ports, hook).programs if each.unit.program.name == f"br0__p1__{hook}"]
    (only,) = read_object(chosen.elf).programs
    return only


def slots(spec: ProgramSpec) -> list[bytes]:
    return [spec.insns[at : at + 8] for at in range(0, len(spec.insns), 8)]


def helpers(spec: ProgramSpec) -> Counter[int]:
    return Counter(int.from_bytes(s[4:], "little") for s in slots(spec) if s[0] == _CALL and s[1] >> 4 == 0)


def loads(spec: ProgramSpec, opcode: int) -> set[int]:
    """Offsets that are read with an opcode, whatever from."""
    return {int.from_bytes(slot[2:4], "little") for slot in slots(spec) if slot[0] == opcode}


def has_egress_programs(ports: tuple[str, str, str], hook: Hook) -> bool:
    return any(program.egress for program in compiled(ports, hook).manifest.programs)


every_hook = pytest.mark.parametrize("hook", list(Hook), ids=str)


@every_hook
def test_without_vlans_nothing_of_them_is_left(hook: Hook) -> None:
    plain = program(PLAIN, hook)
    assert not OF_VLANS & helpers(plain).keys()
    assert ETHERTYPE not in loads(plain, _HALF)
    assert not {24, 28} & loads(plain, _LOAD) or hook is Hook.XDP
    assert not has_egress_programs(PLAIN, hook)


@every_hook
def test_with_vlans_it_is_there(hook: Hook) -> None:
    """So that the test above does not pass because it looks for the wrong thing."""
    mixed = program(MIXED, hook)
    assert OF_VLANS & helpers(mixed).keys() == ({ADJUST_HEAD} if hook is Hook.XDP else {VLAN_PUSH, VLAN_POP})
    assert ETHERTYPE in loads(mixed, _HALF) if hook is Hook.XDP else loads(mixed, _LOAD) >= SKB_VLAN
    assert has_egress_programs(MIXED, hook) is (hook is Hook.XDP)


@every_hook
def test_between_trunks_no_tag_is_put_on_or_taken_off(hook: Hook) -> None:
    """All frames are tagged on all ports: then code that would change a tag is not there."""
    trunk = program(TRUNK, hook)
    assert not OF_VLANS & helpers(trunk).keys()
    assert ETHERTYPE in loads(trunk, _HALF) if hook is Hook.XDP else loads(trunk, _LOAD) >= SKB_VLAN


@every_hook
@pytest.mark.parametrize("ports", [PLAIN, ACCESS, TRUNK, MIXED], ids=["plain", "access", "trunk", "mixed"])
def test_no_configuration_is_read_from_memory(ports: tuple[str, str, str], hook: Hook) -> None:
    for each in compiled(ports, hook).programs:
        (only,) = read_object(each.elf).programs
        assert not only.sections, each.unit.name
