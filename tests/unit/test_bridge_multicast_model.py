"""Multicast of a bridge in a chain file: what the control plane is told, what is compiled, and every mistake."""

from __future__ import annotations

from typing import Any

import pytest

from compiler.ir import ChainIR
from compiler.lower import lower
from compiler.resolve import resolve
from compiler.source import read
from compiler.verify import verify
from tests.unit import refused

CHAIN = """\
chain: edge
interfaces: {{a: {{device: eth0}}, b: {{device: eth1}}}}
services:
  br0:
    kind: bridge
    {multicast}
    ports:
      p1: {p1}
      p2: {p2}
links: [[a, br0.p1], [b, br0.p2]]
"""


def lowered(multicast: str = "multicast: {}", p1: str = "{}", p2: str = "{}") -> ChainIR:
    return verify(lower(resolve(read("edge.yaml", CHAIN.format(multicast=multicast, p1=p1, p2=p2)))), "lower")


def control(multicast: str = "multicast: {}", p1: str = "{}", p2: str = "{}") -> dict[str, Any]:
    found = lowered(multicast, p1, p2).services[0].control
    assert found
    told: dict[str, Any] = found["multicast"]
    return told


def printed(multicast: str, p1: str = "{}", p2: str = "{}") -> str:
    return refused.printed(CHAIN.format(multicast=multicast, p1=p1, p2=p2))


def test_defaults() -> None:
    assert control() == {
        "querier": False,
        "address": "0.0.0.0",
        "query_interval": 125,
        "max_response": 10,
        "groups": 1024,
        "flood_unregistered": False,
        "static": [],
        "stp": False,
        "ports": {"p1": {"router": None, "fast_leave": False}, "p2": {"router": None, "fast_leave": False}},
    }


def test_everything_that_can_be_said() -> None:
    found = control(
        "multicast: {querier: true, querier-address: 192.0.2.1, query-interval: 1m, max-response: 5s, groups: 7,"
        " unregistered: flood, static: [{group: 239.1.1.1, port: p1}, {group: 'ff05::1', port: p2, vlan: 20}]}",
        "{vlan: {access: 10}, multicast: {router: true, fast-leave: true}}",
        "{vlan: {trunk: [10, 20-29], native: 7}, multicast: {router: false}}",
    )
    assert found == {
        "querier": True,
        "address": "192.0.2.1",
        "query_interval": 60,
        "max_response": 5,
        "groups": 7,
        "flood_unregistered": True,
        "static": [["239.1.1.1", "p1", 10], ["ff05::1", "p2", 20]],
        "stp": False,
        "ports": {
            "p1": {"router": True, "fast_leave": True, "untagged": 10, "tagged": []},
            "p2": {"router": False, "fast_leave": False, "untagged": 7, "tagged": [[10, 10], [20, 29]]},
        },
    }


@pytest.mark.parametrize(
    ("parts", "reasons"),
    [("multicast: {}", {"multicast"}), ("stp: {}", {"bpdu"}), ("multicast: {}\n    stp: {}", {"bpdu", "multicast"})],
)
def test_only_what_is_asked_for_goes_up(parts: str, reasons: set[str]) -> None:
    assert {name for _, name in lowered(parts).services[0].slow_path_reasons} == reasons


def test_with_a_spanning_tree_both_are_told() -> None:
    found = lowered("multicast: {}\n    stp: {}").services[0].control
    assert found
    assert found.keys() == {"stp", "multicast"}
    assert found["multicast"]["stp"] is True


@pytest.mark.parametrize("off", ["fdb: {}", "multicast: {snooping: false, querier: true}"])
def test_where_it_is_off_nothing_is_there_for_it(off: str) -> None:
    ir = lowered(off)
    assert ir.services[0].control is None
    assert not {definition.name for definition in ir.maps} & {"br0__mdb", "br0__mdb_kept_until", "chain_slow_path"}
    assert not any(program.lowered.transmits for program in ir.programs)


@pytest.mark.parametrize(
    ("multicast", "p2", "entries"),
    [
        ("multicast: {groups: 10}", "{}", 12),
        ("multicast: {groups: 10, static: [{group: 239.1.1.1, port: p1}]}", "{}", 13),
        ("multicast: {groups: 10}", "{vlan: {trunk: [1, 20-29], native: 7}}", 10 + 2 * 12),
    ],
)
def test_there_is_room_for_all_groups_and_vlans(multicast: str, p2: str, entries: int) -> None:
    (mdb,) = [definition for definition in lowered(multicast, p2=p2).maps if definition.name == "br0__mdb"]
    assert mdb.max_entries == entries


ERRORS = {
    "C113": (
        ("multicast: {query-interval: 2h}", "{}"),
        (
            "error[C113]: `2h` is out of range\n"
            " --> edge.yaml:6:33\n"
            "  |\n"
            "6 |     multicast: {query-interval: 2h}\n"
            "  |                                 ^^ out of range\n"
            "  = note: from 1s to 1h\n"
        ),
    ),
    "C413": (
        ("multicast: {static: [{group: 239.1.1.1, port: p3}]}", "{}"),
        (
            "error[C413]: static group for unknown port `p3`\n"
            " --> edge.yaml:6:51\n"
            "  |\n"
            "6 |     multicast: {static: [{group: 239.1.1.1, port: p3}]}\n"
            "  |                                                   ^^ no port of this bridge has this name\n"
            "  = note: ports here: p1, p2\n"
        ),
    ),
    "C420": (
        ("multicast: {static: [{group: 239.1.1.1, port: p1}]}", "{vlan: {trunk: [10]}}"),
        (
            "error[C420]: the static entry does not say in which VLAN, and `p1` is a trunk\n"
            " --> edge.yaml:6:26\n"
            "  |\n"
            "6 |     multicast: {static: [{group: 239.1.1.1, port: p1}]}\n"
            "  |                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ which VLAN?\n"
            "  = help: add a `vlan`\n"
        ),
    ),
    "C440 local": (
        ("multicast: {static: [{group: 224.0.0.251, port: p1}]}", "{}"),
        (
            "error[C440]: `224.0.0.251` is no group that snooping holds back\n"
            " --> edge.yaml:6:34\n"
            "  |\n"
            "6 |     multicast: {static: [{group: 224.0.0.251, port: p1}]}\n"
            "  |                                  ^^^^^^^^^^^ flooded in any case\n"
            "  = note: never held back: 224.0.0.0/24, ff02::1\n"
        ),
    ),
    "C440 host": (
        ("multicast: {static: [{group: 10.1.1.1, port: p1}]}", "{}"),
        (
            "error[C440]: `10.1.1.1` is no group that snooping holds back\n"
            " --> edge.yaml:6:34\n"
            "  |\n"
            "6 |     multicast: {static: [{group: 10.1.1.1, port: p1}]}\n"
            "  |                                  ^^^^^^^^ the address of a host, not of a group\n"
            "  = note: never held back: 224.0.0.0/24, ff02::1\n"
        ),
    ),
    "C441": (
        ("multicast: {querier: true, querier-address: 239.1.1.1}", "{}"),
        (
            "error[C441]: `239.1.1.1` is no address that a querier can have\n"
            " --> edge.yaml:6:49\n"
            "  |\n"
            "6 |     multicast: {querier: true, querier-address: 239.1.1.1}\n"
            "  |                                                 ^^^^^^^^^ an IPv4 address of one host\n"
            "  = note: MLD queries come from a link-local address that is made of the bridge's MAC address\n"
        ),
    ),
    "C442": (
        ("multicast: {querier: true, query-interval: 10s}", "{}"),
        (
            "error[C442]: answers may take 10s, and the next query comes after 10s\n"
            " --> edge.yaml:6:48\n"
            "  |\n"
            "6 |     multicast: {querier: true, query-interval: 10s}\n"
            "  |                                                ^^^ `max-response` is less than `query-interval`\n"
        ),
    ),
    "C443": (
        ("fdb: {}", "{multicast: {router: true}}"),
        (
            "error[C443]: multicast of a port, but none of its bridge\n"
            " --> edge.yaml:8:12\n"
            "  |\n"
            "8 |       p1: {multicast: {router: true}}\n"
            "  |            ^^^^^^^^^ means nothing without the bridge's\n"
            "  = help: write `multicast: {}` at the bridge as well\n"
        ),
    ),
    "C444": (
        ("multicast: {static: [{group: 'ff05::1', port: p1}, {group: 'ff05:0::1', port: p1}]}", "{}"),
        (
            "error[C444]: `p1` is given `ff05::1` twice\n"
            " --> edge.yaml:6:64\n"
            "  |\n"
            "6 |     multicast: {static: [{group: 'ff05::1', port: p1}, {group: 'ff05:0::1', port: p1}]}\n"
            "  |                                                                ^^^^^^^^^^^ the second one\n"
            "  = note: the first one is at edge.yaml:6:34\n"
            "  = help: remove one of the two\n"
        ),
    ),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_mistakes_as_they_are_printed(mistake: str) -> None:
    (multicast, p1), text = ERRORS[mistake]
    assert printed(multicast, p1) == text
