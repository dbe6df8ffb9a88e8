"""VLANs between real network stacks: two bridges with a trunk between them, hosts of three VLANs on each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import bpfchain
from schemas.counters import Count
from schemas.manifest import Mode
from tests.kernel.live import bridge as plain_bridge
from tests.kernel.live import host
from tests.rig.lab import Lab, Namespace
from tests.rig.network import network, running
from tests.rig.traffic import iperf, ping, tcp_exchange

pytestmark = pytest.mark.kernel

every_mode = pytest.mark.parametrize("mode", [mode.value for mode in Mode])

VLANS = {"red": 10, "green": 20, "blue": 150}
CONTENT = bytes(range(256)) * 2000
BULK = 20_000_000  # bytes; some of them are in buffers when iperf3 stops


def switch(mode: str, **trunk: Any) -> dict[str, Any]:
    """A bridge with an access port for each VLAN, and a trunk."""
    ports = {name: {"vlan": {"access": vlan}} for name, vlan in VLANS.items()} | {"up": {"vlan": trunk}}
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": {"kind": "bridge", "ports": ports}},
        "links": [[f"br0.{port}", port] for port in ports],
    }


@contextmanager
def two_switches(mode: str, folder: Path, **trunk: Any) -> Iterator[dict[tuple[str, str], tuple[Namespace, str]]]:
    """Hosts by (bridge, VLAN), each a namespace and its address: all of them in one subnet, so only VLANs part them."""
    with Lab() as lab, ExitStack() as chains:
        machines = {name: lab.namespace(name) for name in ("left", "right")}
        lab.cable((machines["left"], "up"), (machines["right"], "up"))
        hosts = {}
        for number, (bridge, vlan) in enumerate(itertools.product(machines, VLANS), start=1):
            stack = lab.namespace(f"{bridge}-{vlan}")
            lab.cable((machines[bridge], vlan), (stack, "eth0"), (f"10.0.0.{number}/24",))
            hosts[bridge, vlan] = (stack, f"10.0.0.{number}")
        for name, machine in machines.items():
            place = folder / name
            place.mkdir()
            chains.enter_context(running(machine, switch(mode, **trunk), place))
        yield hosts


@every_mode
@pytest.mark.parametrize(
    "trunk",
    [{"trunk": [10, "20-29", 150]}, {"trunk": ["1-200"], "native": 20}],
    ids=["tagged", "native"],
)
def test_two_bridges_three_vlans_six_hosts(mode: str, trunk: dict[str, Any], tmp_path: Path) -> None:
    with two_switches(mode, tmp_path, **trunk) as hosts:
        for (here, stack), (there, other) in itertools.permutations(hosts.items(), 2):
            if here[1] == there[1]:
                assert ping(stack[0], other[1], count=2).lost == 0, (here, there)
            elif here < there:
                assert ping(stack[0], other[1], count=1, timeout=0.1).lost == 1, (here, there)
        for vlan in VLANS:
            (client, _), (server, address) = hosts["left", vlan], hosts["right", vlan]
            assert tcp_exchange(client, server, address, CONTENT) == CONTENT
            assert iperf(client, server, address, size=BULK) > BULK / 10, vlan
        (client, _), (server, address) = hosts["left", "red"], hosts["right", "blue"]
        with pytest.raises(ConnectionError):
            iperf(client, server, address, size=BULK, timeout=0.3)


@every_mode
def test_a_trunk_that_lacks_a_vlan_does_not_carry_it(mode: str, tmp_path: Path) -> None:
    with two_switches(mode, tmp_path, trunk=[10, 150]) as hosts:
        for vlan, lost in (("red", 0), ("blue", 0), ("green", 1)):
            (stack, _), (_, address) = hosts["left", vlan], hosts["right", vlan]
            assert ping(stack, address, count=1, timeout=1.0 if not lost else 0.2).lost == lost, vlan


@every_mode
def test_copies_are_counted_where_they_leave(mode: str, tmp_path: Path) -> None:
    """A flood in one VLAN is sent by its members only, and the counters say so."""
    chain = switch(mode, trunk=[10, 20])
    untagged = b"\xff" * 6 + bytes.fromhex("02aa00000001") + b"\x88\xb5" + bytes(46)
    tagged = untagged[:12] + bytes.fromhex("8100000a") + untagged[12:]
    with network("red", "green", "blue", "up") as net, running(net.dut, chain, tmp_path) as compiled:
        net.send("red", untagged)
        assert net.arrivals(up=1) == {"up": [tagged]}
        net.send("up", tagged, tagged)
        assert net.arrivals(red=2) == {"red": [untagged, untagged]}
        net.send("blue", untagged)
        assert net.arrivals() == {}
        found = bpfchain.status(compiled.chain.manifest.chain).service("br0")
    sent = {port.name: port.sent for port in found.ports}
    received = {port.name: port.received for port in found.ports}
    assert sent == {"red": Count(2, 120), "green": Count(), "blue": Count(), "up": Count(1, 64)}
    assert received == {"red": Count(1, 60), "green": Count(), "blue": Count(1, 60), "up": Count(2, 128)}


@every_mode
def test_vlans_can_be_switched_on_and_off_again_while_it_runs(mode: str, tmp_path: Path) -> None:
    """From a bridge that ignores tags to one that does not and back: plain, then parted, then plain again."""
    frame = b"\xff" * 6 + bytes.fromhex("02aa00000001") + b"\x88\xb5" + bytes(46)
    names = (*VLANS, "up")
    with network(*names) as net, host(net.dut, tmp_path) as machine:
        for wanted in (plain_bridge(mode, names), switch(mode, trunk=[10]), plain_bridge(mode, names)):
            machine.apply(wanted, accept_state_loss=True)
            net.send("red", frame)
            plain = "vlan" not in str(wanted)
            tagged = frame[:12] + bytes.fromhex("8100000a") + frame[12:]
            others = {"green": [frame], "blue": [frame], "up": [frame]} if plain else {"up": [tagged]}
            assert net.arrivals(**dict.fromkeys(others, 1)) == others
            assert not machine.plan(wanted)


# --- interfaces that are VLANs of a device ---------------------------------------------------------------------------


def sharing(mode: str, others: str | None = None, *, whole: bool = True) -> dict[str, Any]:
    """Device `trunk` as interfaces of VLANs 10 and 20 (and what has none), each bridged to a device of its own."""
    said = {"others": others} if others else {}
    interfaces = {"office": {"device": "trunk", "vlan": 10, **said}, "lab": {"device": "trunk", "vlan": 20}}
    interfaces |= {"rest": {"device": "trunk"}} if whole else {}
    names = tuple(interfaces)
    services = {f"br-{name}": {"kind": "bridge", "ports": {"in": {}, "out": {}}} for name in names}
    links = [[name, f"br-{name}.in"] for name in names] + [[f"br-{name}.out", f"to-{name}"] for name in names]
    return {
        "mode": mode,
        "interfaces": interfaces | {f"to-{name}": {"device": name} for name in names},
        "services": services,
        "links": links,
    }


def tagged(frame: bytes, tag: str) -> bytes:
    return frame[:12] + bytes.fromhex(tag) + frame[12:]


FRAME = b"\xff" * 6 + bytes.fromhex("02aa00000001") + b"\x88\xb5" + bytes(range(46))
DOUBLE = tagged(FRAME, "81000014")


@every_mode
def test_interfaces_share_a_device(mode: str, tmp_path: Path) -> None:
    """The tag goes on the way in and comes on the way out; PCP of what comes in is not kept, an inner tag is."""
    with network("trunk", "office", "lab", "rest") as net, running(net.dut, sharing(mode), tmp_path):
        for sent, port, arrived in (
            (tagged(FRAME, "8100000a"), "office", FRAME),
            (tagged(FRAME, "8100e00a"), "office", FRAME),
            (tagged(FRAME, "81000014"), "lab", FRAME),
            (tagged(DOUBLE, "8100000a"), "office", DOUBLE),
            (FRAME, "rest", FRAME),
            (tagged(FRAME, "8100a000"), "rest", tagged(FRAME, "8100a000")),
            (tagged(FRAME, "88a8000a"), "rest", tagged(FRAME, "88a8000a")),
        ):
            net.send("trunk", sent)
            assert net.arrivals(**{port: 1}) == {port: [arrived]}
        for sent in (tagged(FRAME, "8100001e"), tagged(FRAME, "81000fff")):
            net.send("trunk", sent)
            assert net.arrivals() == {}
        back = bytes.fromhex("02bb00000001") + bytes.fromhex("02bb00000002") + FRAME[12:]
        for port, arrived in (("office", tagged(back, "8100000a")), ("lab", tagged(back, "81000014")), ("rest", back)):
            net.send(port, back)
            assert net.arrivals(trunk=1) == {"trunk": [arrived]}
        net.send("office", tagged(back, "81000014"))
        assert net.arrivals(trunk=1) == {"trunk": [tagged(tagged(back, "81000014"), "8100000a")]}


@every_mode
@pytest.mark.parametrize("others", ["rest", "host", "drop"])
def test_frames_of_other_vlans_go_where_they_are_told(mode: str, others: str, tmp_path: Path) -> None:
    foreign = tagged(FRAME, "8100001e")
    with (
        network("trunk", "office", "lab", "rest") as net,
        running(net.dut, sharing(mode, others), tmp_path) as compiled,
    ):
        net.send("trunk", foreign)
        assert net.arrivals(**{"rest": 1} if others == "rest" else {}) == (
            {"rest": [foreign]} if others == "rest" else {}
        )
        wire = bpfchain.status(compiled.chain.manifest.chain).service("trunk").port("wire")
    assert wire.received == Count(1, 64)
    assert wire.to_host == (Count(1, 64) if others == "host" else Count())
    assert wire.drops == ({"vlan": Count(1, 64)} if others == "drop" else {})


@every_mode
def test_without_an_interface_of_their_own_untagged_frames_are_others(mode: str, tmp_path: Path) -> None:
    with network("trunk", "office", "lab") as net, running(net.dut, sharing(mode, whole=False), tmp_path) as compiled:
        net.send("trunk", FRAME)
        assert net.arrivals() == {}
        drops = bpfchain.status(compiled.chain.manifest.chain).service("trunk").drops
    assert drops == {"vlan": Count(1, 60)}


@every_mode
def test_two_vlans_of_one_device_bridged_to_each_other(mode: str, tmp_path: Path) -> None:
    """A bridge on a stick: what comes in with one tag goes out with the other, floods as well."""
    chain = {
        "mode": mode,
        "interfaces": {
            "red": {"device": "trunk", "vlan": 10},
            "green": {"device": "trunk", "vlan": 20},
            "side": {"device": "side"},
        },
        "services": {"br0": {"kind": "bridge", "ports": {"red": {}, "green": {}, "side": {}}}},
        "links": [["red", "br0.red"], ["green", "br0.green"], ["side", "br0.side"]],
    }
    answer = FRAME[6:12] + bytes.fromhex("02bb00000001") + FRAME[12:]
    with network("trunk", "side") as net, running(net.dut, chain, tmp_path):
        net.send("trunk", tagged(FRAME, "8100000a"))
        assert net.arrivals(trunk=1, side=1) == {"trunk": [tagged(FRAME, "81000014")], "side": [FRAME]}
        net.send("trunk", tagged(answer, "81000014"))
        assert net.arrivals(trunk=1) == {"trunk": [tagged(answer, "8100000a")]}
        net.send("side", FRAME[:6] + bytes.fromhex("02cc00000001") + FRAME[12:])
        flood = FRAME[:6] + bytes.fromhex("02cc00000001") + FRAME[12:]
        arrived = net.arrivals(trunk=2)
        assert {port: sorted(frames) for port, frames in arrived.items()} == {
            "trunk": [tagged(flood, "8100000a"), tagged(flood, "81000014")]
        }


@every_mode
@pytest.mark.parametrize(("vlan", "form"), [({"access": 10}, FRAME), ({"trunk": [10, 20]}, tagged(FRAME, "8100000a"))])
def test_a_port_that_leads_to_another_service(mode: str, vlan: dict[str, Any], form: bytes, tmp_path: Path) -> None:
    """Floods and known stations alike enter the service behind the port in the port's own form, and come back in it."""
    services = {
        "br0": {"kind": "bridge", "ports": {"p1": {"vlan": {"access": 10}}, "p2": {}, "up": {"vlan": vlan}}},
        "guard": {"kind": "ddos", "block": {"sources": ["198.51.100.0/24"]}},
    }
    chain = {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ("p1", "p2", "street")},
        "services": services,
        "links": [["br0.p1", "p1"], ["br0.p2", "p2"], ["br0.up", "guard.inside"], ["guard.outside", "street"]],
    }
    here, there = FRAME[6:12], bytes.fromhex("02bb00000001")
    back, forth = here + there + FRAME[12:], there + here + FRAME[12:]
    tag = form[12 : -len(FRAME[12:])]
    with network("p1", "p2", "street") as net, running(net.dut, chain, tmp_path):
        net.send("p1", FRAME)
        assert net.arrivals(street=1) == {"street": [form]}
        net.send("street", back[:12] + tag + back[12:])
        assert net.arrivals(p1=1) == {"p1": [back]}
        net.send("p1", forth)
        assert net.arrivals(street=1) == {"street": [forth[:12] + tag + forth[12:]]}
        net.send("p2", FRAME)
        assert net.arrivals() == {}, "VLAN 1 has no other member"
