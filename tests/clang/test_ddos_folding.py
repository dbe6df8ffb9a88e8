"""What is left of a ddos service after clang: with a feature off, no instruction, no map and no helper call of it."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from compiler.build import build
from runtime.object import read_object
from runtime.spec import ObjectSpec, ProgramSpec
from schemas.manifest import Hook

CHAIN = """\
chain: edge
mode: {mode}
interfaces: {{wan: {{device: eth0}}, lan: {{device: eth1}}}}
services:
  guard:
    kind: ddos
    {keys}
links: [[wan, guard.outside], [guard.inside, lan]]
"""
LOOKUP, KTIME, COARSE, REDIRECT, REDIRECT_MAP, PULL_DATA = 1, 5, 160, 23, 51, 39
LIST = ", ".join(f"10.{number // 250}.{number % 250}.1" for number in range(300))
SOURCES = "block: {sources: [198.51.100.0/24]}"
EVERYTHING = (
    "block: {sources: [198.51.100.0/24, 'fd00::/8', 10.0.0.1, 10.0.0.2, 10.0.0.3], destinations: [192.0.2.7], "
    "protocols: [gre], ports: [tcp/23], source-ports: [udp/53]}\n    rate: {per-source: 1000, burst: 500}"
)


@functools.cache
def compiled(keys: str, hook: Hook, port: str = "outside") -> ObjectSpec:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "edge.yaml"
        file.write_text(CHAIN.format(keys=keys, mode="tc" if hook is Hook.TC else "native"))
        programs = build(file).programs
    (chosen,) = [each for each in programs if each.unit.program.port == port]
    return read_object(chosen.elf)


def program(spec: ObjectSpec) -> ProgramSpec:
    (only,) = spec.programs
    return only


def instructions(spec: ObjectSpec) -> int:
    return len(program(spec).insns) // 8


def helpers(spec: ObjectSpec) -> Counter[int]:
    """How often each helper is called: opcode BPF_CALL with source register 0, its number in `imm`."""
    code = program(spec).insns
    slots = [code[at : at + 8] for at in range(0, len(code), 8)]
    return Counter(int.from_bytes(slot[4:], "little") for slot in slots if slot[0] == 0x85 and slot[1] >> 4 == 0)


def glue(hook: Hook) -> set[str]:
    return {"guard__counters", "guard__tx"} if hook is Hook.XDP else {"guard__counters"}


def used_maps(spec: ObjectSpec) -> set[str]:
    return {reference.map for reference in program(spec).maps}


@pytest.mark.parametrize("hook", list(Hook), ids=str)
@pytest.mark.parametrize(("keys", "port"), [("", "outside"), (EVERYTHING, "inside")], ids=["off", "inside"])
def test_everything_off_leaves_the_glue(hook: Hook, keys: str, port: str) -> None:
    spec = compiled(keys, hook, port)
    assert {each.name for each in spec.maps} == used_maps(spec) == glue(hook)
    assert set(helpers(spec)) == ({LOOKUP, REDIRECT_MAP} if hook is Hook.XDP else {LOOKUP, PULL_DATA, REDIRECT})
    assert helpers(spec)[LOOKUP] == 1, "the counters"
    assert instructions(spec) < 60


@pytest.mark.parametrize("hook", list(Hook), ids=str)
@pytest.mark.parametrize(
    ("keys", "own_maps", "own_helpers"),
    [
        (SOURCES, {"guard__blocked"}, {}),
        ("block: {destinations: [192.0.2.7]}", {"guard__blocked"}, {}),
        ("block: {protocols: [gre]}", {"guard__blocked"}, {}),
        ("block: {ports: [tcp/23]}", {"guard__blocked"}, {}),
        ("block: {source-ports: [udp/53]}", {"guard__blocked"}, {}),
        (f"block: {{sources: [{LIST}]}}", {"guard__sources4", "guard__near_sources4"}, {}),
        (f"block: {{destinations: [{LIST}]}}", {"guard__destinations4", "guard__near_destinations4"}, {}),
        ("rate: {per-source: 1000, burst: 500}", {"guard__buckets4", "guard__buckets6"}, {COARSE}),
        ("rate: {per-source: 1000, burst: 5}", {"guard__buckets4", "guard__buckets6"}, {KTIME}),
    ],
    ids=["sources", "destinations", "protocols", "ports", "source-ports", "trie", "trie2", "coarse rate", "fine rate"],
)
def test_one_feature_on_brings_its_own_and_no_other(
    hook: Hook, keys: str, own_maps: set[str], own_helpers: set[int]
) -> None:
    spec = compiled(keys, hook)
    assert {each.name for each in spec.maps} == used_maps(spec) == glue(hook) | own_maps
    assert set(helpers(spec)) == set(helpers(compiled("", hook))) | set(own_helpers)


@pytest.mark.parametrize("hook", list(Hook), ids=str)
def test_configuration_is_folded(hook: Hook) -> None:
    """No instruction reads a configuration; .rodata has only a list's table of bits, where there is one."""
    for keys, tables in ((EVERYTHING, 1), (SOURCES, 0), ("rate: {per-source: 1000}", 0), ("", 0)):
        assert len(program(compiled(keys, hook)).sections) == tables


@pytest.mark.parametrize("hook", list(Hook), ids=str)
def test_one_version_leaves_nothing_of_the_other(hook: Hook) -> None:
    both = instructions(compiled("block: {sources: [198.51.100.0/24, 'fd00::/8']}", hook))
    ipv4 = instructions(compiled(SOURCES, hook))
    ipv6 = instructions(compiled("block: {sources: ['fd00::/8']}", hook))
    nothing = instructions(compiled("", hook))
    assert nothing < min(ipv4, ipv6)
    assert max(ipv4, ipv6) + 20 < both


def test_addresses_only_parse_no_deeper_than_addresses() -> None:
    deep = instructions(compiled("block: {protocols: [gre]}", Hook.XDP))
    assert instructions(compiled(SOURCES, Hook.XDP)) + 60 < deep
