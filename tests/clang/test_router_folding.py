"""What is left of a router after clang: no IPv6 where no port has it, a few instructions for a few routes."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from compiler.build import Compiled, build
from runtime.object import read_object
from runtime.spec import ProgramSpec
from schemas.manifest import Hook
from schemas.services.router import Reason
from tests.clang.lookups import lookups_in_any_map

CHAIN = """\
chain: edge
mode: {mode}
interfaces: {{a: {{device: eth0}}, b: {{device: eth1}}}}
services:
  gw:
    kind: router
    ports: {{left: {{address: {left}}}, right: {{address: {right}}}}}
    routes: {routes}
links: [[a, gw.left], [gw.right, b]]
"""
FOUR = ("10.1.0.1/24", "10.2.0.1/24", "[]")
SIX = ('"fd00:1::1/64"', '"fd00:2::1/64"', "[]")
BOTH = ('[10.1.0.1/24, "fd00:1::1/64"]', '[10.2.0.1/24, "fd00:2::1/64"]', "[{to: 0.0.0.0/0, via: 10.2.0.9}]")
MIXED = ("10.1.0.1/24", '"fd00:2::1/64"', "[]")
FOLLOWING = (*BOTH[:2], "[]\n    kernel-routes: {table: main}")
SILENT = (f"{BOTH[0]}, redirects: false", f"{BOTH[1]}, redirects: false", BOTH[2])
SLOW_PATH = 0x300  # VERDICT_SLOW_PATH
MOVE_NUMBER = (0xB4, 0xB7)  # BPF_ALU and BPF_ALU64 with BPF_MOV and BPF_K
Addresses = tuple[str, str, str]


@functools.cache
def compiled(addresses: Addresses, hook: Hook) -> Compiled:
    left, right, routes = addresses
    with TemporaryDirectory() as folder:
        file = Path(folder) / "edge.yaml"
        mode = "tc" if hook is Hook.TC else "native"
        file.write_text(CHAIN.format(left=left, right=right, routes=routes, mode=mode))
        return build(file)


def program(addresses: Addresses, hook: Hook) -> ProgramSpec:
    """What receives on `left`."""
    (chosen,) = [each for each in compiled(addresses, hook).programs if each.unit.program.name == f"gw__left__{hook}"]
    (only,) = read_object(chosen.elf).programs
    return only


def instructions(addresses: Addresses, hook: Hook) -> int:
    return len(program(addresses, hook).insns) // 8


def verdicts(addresses: Addresses, hook: Hook) -> set[int]:
    """The numbers that instructions of the program put into registers."""
    content = program(addresses, hook).insns
    insns = (content[at : at + 8] for at in range(0, len(content), 8))
    return {int.from_bytes(insn[4:], "little") for insn in insns if insn[0] in MOVE_NUMBER}


def maps(addresses: Addresses, hook: Hook) -> set[str]:
    """The maps of one IP version that instructions of the program refer to."""
    used = {reference.map.removeprefix("gw__") for reference in program(addresses, hook).maps}
    return used & {f"{name}{version}" for name in ("neighbours", "recent") for version in (4, 6)}


every_hook = pytest.mark.parametrize("hook", list(Hook), ids=str)


@every_hook
def test_a_version_that_no_port_has_leaves_nothing_behind(hook: Hook) -> None:
    assert maps(FOUR, hook) == {"neighbours4", "recent4"}
    assert maps(SIX, hook) == {"neighbours6", "recent6"}
    assert maps(BOTH, hook) == {"neighbours4", "recent4", "neighbours6", "recent6"}
    both = instructions(BOTH, hook)
    assert max(instructions(FOUR, hook), instructions(SIX, hook)) < 0.8 * both


@every_hook
def test_a_version_that_the_port_has_not_leaves_nothing_in_its_program(hook: Hook) -> None:
    assert maps(MIXED, hook) == {"neighbours4", "recent4"}


@every_hook
def test_redirects_that_are_off_leave_nothing_behind(hook: Hook) -> None:
    """Neither their map, nor what sends a copy up."""
    for addresses, redirects in ((BOTH, True), (SILENT, False)):
        named = {reference.map for reference in program(addresses, hook).maps}
        assert ("gw__redirected" in named) is redirects
    assert instructions(SILENT, hook) < instructions(BOTH, hook)


@every_hook
def test_each_lookup_is_in_one_map(hook: Hook) -> None:
    assert lookups_in_any_map(program(FOLLOWING, hook)) == []


@every_hook
@pytest.mark.parametrize("addresses", [FOUR, SIX, BOTH], ids=["IPv4", "IPv6", "both"])
def test_no_configuration_is_read_from_memory(addresses: Addresses, hook: Hook) -> None:
    for each in compiled(addresses, hook).programs:
        (only,) = read_object(each.elf).programs
        assert not only.sections, each.unit.name


@every_hook
def test_solicitations_of_routers_come_up_only_where_a_port_advertises(hook: Hook) -> None:
    """Their reason stands in the program, or it does not."""
    advertising = (f"{SIX[0]}, advertise: {{}}", *SIX[1:])
    reason = {Reason.SOLICITED, SLOW_PATH + Reason.SOLICITED}
    assert [bool(verdicts(each, hook) & reason) for each in (SIX, advertising)] == [False, True]
