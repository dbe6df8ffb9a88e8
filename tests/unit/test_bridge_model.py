"""A bridge's part of a chain file: what becomes of its VLANs, and every mistake of meaning as it is printed."""

from __future__ import annotations

import pytest

from compiler.ir import InMap
from compiler.lower import lower
from compiler.resolve import resolve
from compiler.services.bridge.model import BridgeModel
from compiler.services.bridge.vlans import PortVlans
from compiler.source import read
from compiler.verify import verify
from tests.unit import refused

CHAIN = """\
chain: edge
interfaces: {{a: {{device: eth0}}, b: {{device: eth1}}}}
services:
  br0:
    kind: bridge
    fdb: {fdb}
    ports:
      p1: {p1}
      p2: {p2}
links: [[a, br0.p1], [b, br0.p2]]
"""


def text(p1: str = "{}", p2: str = "{}", fdb: str = "{}") -> str:
    return CHAIN.format(p1=p1, p2=p2, fdb=fdb)


def model(p1: str = "{}", p2: str = "{}", fdb: str = "{}") -> BridgeModel:
    config = resolve(read("edge.yaml", text(p1, p2, fdb))).service("br0").config
    assert isinstance(config, BridgeModel)
    return config


def printed(p1: str = "{}", p2: str = "{}", fdb: str = "{}") -> str:
    return refused.printed(text(p1, p2, fdb))


def vlans(p1: str) -> PortVlans:
    return model(p1).vlans["p1"]


def test_without_vlans_there_are_none() -> None:
    assert model().vlans == {}


def test_access() -> None:
    found = vlans("{vlan: {access: 10}}")
    assert (found.access, found.pvid, found.tagged, found.untagged, found.text) == (True, 10, (), 10, "access 10")
    assert [vlan for vlan in range(4096) if found.has(vlan)] == [10]


def test_a_port_that_says_nothing_beside_one_that_does_is_in_vlan_1() -> None:
    assert model("{vlan: {access: 10}}").vlans["p2"].text == "access 1"


def test_trunk() -> None:
    found = vlans("{vlan: {trunk: [10, 20, 100-199]}}")
    assert (found.access, found.pvid, found.untagged) == (False, 0, 0)
    assert found.tagged == ((10, 10), (20, 20), (100, 199))
    assert found.text == "trunk 10, 20, 100-199"
    assert [vlan for vlan in range(4096) if found.has(vlan)] == [10, 20, *range(100, 200)]


@pytest.mark.parametrize(
    ("trunk", "tagged"),
    [
        ("[10], native: 1", ((10, 10),)),
        ("[10, 20], native: 10", ((20, 20),)),
        ("[10-20], native: 10", ((11, 20),)),
        ("[10-20], native: 20", ((10, 19),)),
        ("[10-20], native: 15", ((10, 14), (16, 20))),
        ("[10-20], native: 15, native-tagged: false", ((10, 14), (16, 20))),
        ("[10-20], native: 15, native-tagged: true", ((10, 14), (16, 20), (15, 15))),
    ],
)
def test_native(trunk: str, tagged: tuple[tuple[int, int], ...]) -> None:
    """The native VLAN is a member whether the list has it or not, and leaves tagged only where the file says so."""
    found = vlans(f"{{vlan: {{trunk: {trunk}}}}}")
    native = int(trunk.split("native: ")[1].split(",")[0])
    assert (found.pvid, found.tagged) == (native, tagged)
    assert found.untagged == (0 if "true" in trunk else native)
    assert found.has(native)


def test_static_entries_have_a_vlan() -> None:
    """That of their access port, or the one that they say; one address may be in several."""
    found = model(
        "{vlan: {access: 10}}",
        "{vlan: {trunk: [10, 20]}}",
        "{static: [{mac: 02:00:00:00:00:01, port: p1}, {mac: 02:00:00:00:00:01, port: p2, vlan: 20}]}",
    )
    assert [(entry.vlan, entry.text) for entry in found.static] == [
        (10, "02:00:00:00:00:01 vlan 10"),
        (20, "02:00:00:00:00:01 vlan 20"),
    ]
    assert [hex(entry.key) for entry in found.static] == ["0xa010000000002", "0x14010000000002"]


def test_without_vlans_the_program_knows_nothing_of_them() -> None:
    ir = verify(lower(resolve(read("edge.yaml", text()))), "lower")
    port = ir.programs[0].lowered
    fields = [c.home.field for c in port.constants if not isinstance(c.home, InMap)]
    assert (fields, port.functions, port.transmits) == (["port", "aging_s", *fields[2:]], (), False)
    assert not {"vlan_aware", "admit_tagged", "pvid"} & set(fields)
    assert not any(program.egress for program in ir.programs)
    assert not any(slot.program for slot in ir.device_slots)


def test_storm_limits() -> None:
    found = model("{storm: {broadcast: 1000/s, unknown: 5}}").storms
    assert {sort: (limit.rate, limit.burst) for sort, limit in found["p1"].items()} == {
        "broadcast": (1000, 100),
        "unknown": (5, 1),
    }
    assert found.keys() == {"p1"}


ERRORS = {
    "C411": (
        {"fdb": "{aging: 1500ms}"},
        (
            "error[C411]: ageing time `1500ms` is not a whole number of seconds\n"
            " --> edge.yaml:6:18\n"
            "  |\n"
            "6 |     fdb: {aging: 1500ms}\n"
            "  |                  ^^^^^^ stations age by the second\n"
            "  = help: write `2s`\n"
        ),
    ),
    "C412": (
        {"fdb": "{static: [{mac: 02:00:00:00:00:01, port: p1}, {mac: 02:00:00:00:00:01, port: p2}]}"},
        (
            "error[C412]: static entry for `02:00:00:00:00:01` is there twice\n"
            " --> edge.yaml:6:62\n"
            "  |\n"
            "6 |     fdb: {static: [{mac: 02:00:00:00:00:01, port: p1}, {mac: 02:00:00:00:00:01, port: p2}]}\n"
            "  |                                                              ^^^^^^^^^^^^^^^^^ the second one\n"
            "  = note: the first one is at edge.yaml:6:26\n"
            "  = help: remove one of the two\n"
        ),
    ),
    "C413": (
        {"fdb": "{static: [{mac: 02:00:00:00:00:01, port: p3}]}"},
        (
            "error[C413]: static entry leads to unknown port `p3`\n"
            " --> edge.yaml:6:51\n"
            "  |\n"
            "6 |     fdb: {static: [{mac: 02:00:00:00:00:01, port: p3}]}\n"
            "  |                                                   ^^ no port of this bridge has this name\n"
            "  = note: ports here: p1, p2\n"
        ),
    ),
    "C414": (
        {"fdb": "{static: [{mac: 03:00:00:00:00:01, port: p1}]}"},
        (
            "error[C414]: `03:00:00:00:00:01` is not the address of one station\n"
            " --> edge.yaml:6:26\n"
            "  |\n"
            "6 |     fdb: {static: [{mac: 03:00:00:00:00:01, port: p1}]}\n"
            "  |                          ^^^^^^^^^^^^^^^^^ a group address, or zero\n"
            "  = note: group addresses are flooded, never looked up\n"
        ),
    ),
    "C415 reserved": (
        {"p1": "{vlan: {access: 4095}}"},
        (
            "error[C415]: 4095 is no VLAN\n"
            " --> edge.yaml:8:27\n"
            "  |\n"
            "8 |       p1: {vlan: {access: 4095}}\n"
            "  |                           ^^^^ VLANs are 1 to 4094\n"
            "  = note: 4095 is reserved\n"
        ),
    ),
    "C415 priority": (
        {"p1": "{vlan: {trunk: [10], native: 0}}"},
        (
            "error[C415]: 0 is no VLAN\n"
            " --> edge.yaml:8:40\n"
            "  |\n"
            "8 |       p1: {vlan: {trunk: [10], native: 0}}\n"
            "  |                                        ^ VLANs are 1 to 4094\n"
            "  = note: 0 tags a priority and no VLAN\n"
        ),
    ),
    "C415 in a range": (
        {"p1": "{vlan: {trunk: [4000-5000]}}"},
        (
            "error[C415]: 5000 is no VLAN\n"
            " --> edge.yaml:8:27\n"
            "  |\n"
            "8 |       p1: {vlan: {trunk: [4000-5000]}}\n"
            "  |                           ^^^^^^^^^ VLANs are 1 to 4094\n"
        ),
    ),
    "C416 word": (
        {"p1": "{vlan: {trunk: [ten]}}"},
        (
            "error[C416]: `ten` is neither a VLAN nor a range\n"
            " --> edge.yaml:8:27\n"
            "  |\n"
            "8 |       p1: {vlan: {trunk: [ten]}}\n"
            "  |                           ^^^\n"
            "  = help: for example `10`, or `100-199`\n"
        ),
    ),
    "C416 backwards": (
        {"p1": "{vlan: {trunk: [20-10]}}"},
        (
            "error[C416]: range `20-10` is empty\n"
            " --> edge.yaml:8:27\n"
            "  |\n"
            "8 |       p1: {vlan: {trunk: [20-10]}}\n"
            "  |                           ^^^^^ it ends before it begins\n"
            "  = help: write `10-20`\n"
        ),
    ),
    "C417": (
        {"p1": "{vlan: {trunk: [10-20, 15-30]}}"},
        (
            "error[C417]: VLAN 15 is listed twice\n"
            " --> edge.yaml:8:34\n"
            "  |\n"
            "8 |       p1: {vlan: {trunk: [10-20, 15-30]}}\n"
            "  |                                  ^^^^^ listed already\n"
            "  = note: first at edge.yaml:8:27\n"
            "  = help: leave this one out, or shorten one of the ranges\n"
        ),
    ),
    "C418 both": (
        {"p1": "{vlan: {access: 10, trunk: [20]}}"},
        (
            "error[C418]: a port is either an access port or a trunk\n"
            " --> edge.yaml:8:12\n"
            "  |\n"
            "8 |       p1: {vlan: {access: 10, trunk: [20]}}\n"
            "  |            ^^^^ `access` and `trunk`\n"
            "  = help: for example `{access: 10}`, or `{trunk: [10, 20, 100-199], native: 1}`\n"
        ),
    ),
    "C418 neither": (
        {"p1": "{vlan: {}}"},
        (
            "error[C418]: neither `access` nor `trunk`\n"
            " --> edge.yaml:8:12\n"
            "  |\n"
            "8 |       p1: {vlan: {}}\n"
            "  |            ^^^^ which VLANs?\n"
            "  = help: for example `{access: 10}`, or `{trunk: [10, 20, 100-199], native: 1}`\n"
        ),
    ),
    "C419 access": (
        {"p1": "{vlan: {access: 10, native: 20}}"},
        (
            "error[C419]: an access port has no `native`\n"
            " --> edge.yaml:8:31\n"
            "  |\n"
            "8 |       p1: {vlan: {access: 10, native: 20}}\n"
            "  |                               ^^^^^^ only of a trunk\n"
            "  = help: write `trunk`, or remove it\n"
        ),
    ),
    "C419 trunk": (
        {"p1": "{vlan: {trunk: [10], native-tagged: true}}"},
        (
            "error[C419]: `native-tagged` without `native`\n"
            " --> edge.yaml:8:32\n"
            "  |\n"
            "8 |       p1: {vlan: {trunk: [10], native-tagged: true}}\n"
            "  |                                ^^^^^^^^^^^^^ no VLAN that it is said of\n"
            "  = help: write `native`, or remove it\n"
        ),
    ),
    "C420 no VLANs": (
        {"fdb": "{static: [{mac: 02:00:00:00:00:01, port: p1, vlan: 10}]}"},
        (
            "error[C420]: this bridge has no VLANs\n"
            " --> edge.yaml:6:55\n"
            "  |\n"
            "6 |     fdb: {static: [{mac: 02:00:00:00:00:01, port: p1, vlan: 10}]}\n"
            "  |                                                       ^^^^ no frame belongs to one\n"
            "  = help: give its ports a `vlan`, or remove this\n"
        ),
    ),
    "C420 trunk": (
        {"p1": "{vlan: {trunk: [10, 20]}}", "fdb": "{static: [{mac: 02:00:00:00:00:01, port: p1}]}"},
        (
            "error[C420]: the static entry does not say in which VLAN, and `p1` is a trunk\n"
            " --> edge.yaml:6:20\n"
            "  |\n"
            "6 |     fdb: {static: [{mac: 02:00:00:00:00:01, port: p1}]}\n"
            "  |                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ which VLAN?\n"
            "  = help: add a `vlan`\n"
        ),
    ),
    "C426 word": (
        {"p1": "{storm: {broadcast: fast}}"},
        (
            "error[C426]: `fast` is no rate of frames\n"
            " --> edge.yaml:8:31\n"
            "  |\n"
            "8 |       p1: {storm: {broadcast: fast}}\n"
            "  |                               ^^^^\n"
            "  = note: 1 to 100,000,000 frames a second\n"
            "  = help: for example `1000/s`\n"
        ),
    ),
    "C426 zero": (
        {"p1": "{storm: {unknown: 0/s}}"},
        (
            "error[C426]: `0/s` is no rate of frames\n"
            " --> edge.yaml:8:29\n"
            "  |\n"
            "8 |       p1: {storm: {unknown: 0/s}}\n"
            "  |                             ^^^\n"
            "  = note: 1 to 100,000,000 frames a second\n"
            "  = help: for example `1000/s`\n"
        ),
    ),
    "C421": (
        {"p1": "{vlan: {trunk: [10, 20]}}", "fdb": "{static: [{mac: 02:00:00:00:00:01, port: p1, vlan: 30}]}"},
        (
            "error[C421]: port `p1` is no member of VLAN 30\n"
            " --> edge.yaml:6:61\n"
            "  |\n"
            "6 |     fdb: {static: [{mac: 02:00:00:00:00:01, port: p1, vlan: 30}]}\n"
            "  |                                                             ^^ no frame of it leaves by that port\n"
            "  = note: `p1`: trunk 10, 20\n"
        ),
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_told(case: str) -> None:
    given, expected = ERRORS[case]
    assert printed(**given) == expected
