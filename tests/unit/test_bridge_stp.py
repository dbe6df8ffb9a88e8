"""A bridge's spanning tree in a chain file: what the control plane is told, what is compiled, and every mistake."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from compiler.ir import ChainIR
from compiler.lower import lower
from compiler.resolve import resolve
from compiler.source import read
from compiler.verify import verify
from runtime.migrate import Table
from runtime.services.bridge import migration
from tests.unit import refused
from tests.unit.manifests import fdb

CHAIN = """\
chain: edge
interfaces: {{a: {{device: eth0}}, b: {{device: eth1}}}}
services:
  br0:
    kind: bridge
    {stp}
    ports:
      p1: {p1}
      p2: {{}}
links: [[a, br0.p1], [b, br0.p2]]
"""
DEFAULTS = {
    "cost": None,
    "priority": 128,
    "edge": None,
    "point_to_point": None,
    "bpdu_guard": False,
    "root_guard": False,
    "bpdu_filter": False,
}


def lowered(stp: str = "stp: {}", p1: str = "{}") -> ChainIR:
    return verify(lower(resolve(read("edge.yaml", CHAIN.format(stp=stp, p1=p1)))), "lower")


def control(stp: str = "stp: {}", p1: str = "{}") -> Any:
    return lowered(stp, p1).services[0].control


def printed(stp: str, p1: str = "{}") -> str:
    return refused.printed(CHAIN.format(stp=stp, p1=p1))


def test_defaults() -> None:
    assert control() == {
        "stp": {
            "rapid": True,
            "priority": 32768,
            "hello": 2,
            "max_age": 20,
            "forward_delay": 15,
            "ports": {"p1": DEFAULTS, "p2": DEFAULTS},
        },
    }


def test_everything_that_can_be_said() -> None:
    found = control(
        "stp: {protocol: stp, priority: 4096, hello: 1s, max-age: 6, forward-delay: 4s}",
        "{stp: {cost: 2000, priority: 16, edge: true, point-to-point: false, bpdu-guard: true, root-guard: true}}",
    )
    assert found == {
        "stp": {
            "rapid": False,
            "priority": 4096,
            "hello": 1,
            "max_age": 6,
            "forward_delay": 4,
            "ports": {
                "p1": {
                    "cost": 2000,
                    "priority": 16,
                    "edge": True,
                    "point_to_point": False,
                    "bpdu_guard": True,
                    "root_guard": True,
                    "bpdu_filter": False,
                },
                "p2": DEFAULTS,
            },
        },
    }


def test_an_edge_is_not_the_same_as_one_that_is_to_be_found_out() -> None:
    edges = [control(p1=f"{{stp: {{edge: {edge}}}}}") for edge in ("true", "false", "auto")]
    assert [each["stp"]["ports"]["p1"]["edge"] for each in edges] == [True, False, None]


def test_a_link_is_point_to_point_or_not_or_that_is_to_be_found_out() -> None:
    given = [control(p1=f"{{stp: {{point-to-point: {each}}}}}") for each in ("true", "false", "auto")]
    assert [each["stp"]["ports"]["p1"]["point_to_point"] for each in given] == [True, False, None]


def test_without_a_spanning_tree_nothing_is_there_for_it() -> None:
    ir = lowered(stp="fdb: {}")
    assert ir.services[0].control is None
    assert ir.services[0].slow_path_reasons == ()
    assert not {definition.name for definition in ir.maps} & {"br0__states", "br0__upcalls", "chain_slow_path"}
    assert not any(program.lowered.transmits for program in ir.programs)


def test_with_one_there_are_states_and_a_way_up() -> None:
    ir = lowered()
    assert {definition.name for definition in ir.maps} >= {"br0__states", "br0__upcalls", "chain_slow_path"}
    assert all(program.lowered.transmits for program in ir.programs)


ERRORS = {
    "C113": (
        ("stp: {forward-delay: 40s}", "{}"),
        (
            "error[C113]: `40s` is out of range\n"
            " --> edge.yaml:6:26\n"
            "  |\n"
            "6 |     stp: {forward-delay: 40s}\n"
            "  |                          ^^^ out of range\n"
            "  = note: from 2s to 30s\n"
        ),
    ),
    "C422 bridge": (
        ("stp: {priority: 5000}", "{}"),
        (
            "error[C422]: priority 5000 is no multiple of 4096\n"
            " --> edge.yaml:6:21\n"
            "  |\n"
            "6 |     stp: {priority: 5000}\n"
            "  |                     ^^^^ steps of 4096\n"
            "  = help: write `4096`\n"
        ),
    ),
    "C422 port": (
        ("stp: {}", "{stp: {priority: 100}}"),
        (
            "error[C422]: priority 100 is no multiple of 16\n"
            " --> edge.yaml:8:28\n"
            "  |\n"
            "8 |       p1: {stp: {priority: 100}}\n"
            "  |                            ^^^ steps of 16\n"
            "  = help: write `96`\n"
        ),
    ),
    "C422 time": (
        ("stp: {hello: 1500ms}", "{}"),
        (
            "error[C422]: `1500ms` is not a whole number of seconds\n"
            " --> edge.yaml:6:18\n"
            "  |\n"
            "6 |     stp: {hello: 1500ms}\n"
            "  |                  ^^^^^^ timers count seconds\n"
            "  = help: write `2s`\n"
        ),
    ),
    "C423 delay": (
        ("stp: {forward-delay: 10s}", "{}"),
        (
            "error[C423]: timers contradict each other: with a `max-age` of 20s, `forward-delay` is 11s or more\n"
            " --> edge.yaml:6:26\n"
            "  |\n"
            "6 |     stp: {forward-delay: 10s}\n"
            "  |                          ^^^ see 802.1D-2004 17.14\n"
        ),
    ),
    "C423 age": (
        ("stp: {hello: 10s}", "{}"),
        (
            "error[C423]: timers contradict each other: with a `hello` of 10s, `max-age` is 22s or more\n"
            " --> edge.yaml:6:5\n"
            "  |\n"
            "6 |     stp: {hello: 10s}\n"
            "  |     ^^^ see 802.1D-2004 17.14\n"
        ),
    ),
    "C424": (
        ("fdb: {}", "{stp: {cost: 10}}"),
        (
            "error[C424]: spanning tree of a port, but none of its bridge\n"
            " --> edge.yaml:8:12\n"
            "  |\n"
            "8 |       p1: {stp: {cost: 10}}\n"
            "  |            ^^^ means nothing without the bridge's\n"
            "  = help: write `stp: {}` at the bridge as well\n"
        ),
    ),
    "C425": (
        ("stp: {}", "{stp: {bpdu-guard: true, bpdu-filter: true}}"),
        (
            "error[C425]: `bpdu-guard` on a port that hears no BPDUs\n"
            " --> edge.yaml:8:18\n"
            "  |\n"
            "8 |       p1: {stp: {bpdu-guard: true, bpdu-filter: true}}\n"
            "  |                  ^^^^^^^^^^ never sees one\n"
            "  = note: `bpdu-filter` is at edge.yaml:8:36\n"
            "  = help: remove one of the two\n"
        ),
    ),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_mistakes_as_they_are_printed(mistake: str) -> None:
    (stp, p1), text = ERRORS[mistake]
    assert printed(stp, p1) == text


def test_states_stay_with_their_ports_and_a_new_port_is_closed() -> None:
    record = replace(fdb(), key_size=4, value_size=264, meaning="bridge states/2 a b c")
    way = migration(Table(record, ("a", "b", "c")), Table(record, ("new", "c", "a")))
    assert way
    before, after = states([2, 1, 0], [1, 2, 3]), states([0, 0, 2], [0, 3, 1])
    assert way.content({bytes(4): before + b"\x07" * 8}).entries == {bytes(4): after + b"\x07" * 8}


def test_states_of_a_version_without_a_time_of_death_are_taken_over() -> None:
    old = replace(fdb(), key_size=4, value_size=256, meaning="bridge states/1 a b")
    way = migration(
        Table(old, ("a", "b")), Table(replace(old, value_size=264, meaning="bridge states/2 a b"), ("a", "b"))
    )
    assert way
    content = states([2, 1], [1, 2])
    assert way.content({bytes(4): content}).entries == {bytes(4): content + bytes(8)}


def states(of_ports: list[int], roles: list[int]) -> bytes:
    """struct port_states, without the time."""
    return bytes(of_ports).ljust(128, b"\0") + bytes(roles).ljust(128, b"\0")
