"""Chains on real veths in all three modes: which neighbour receives a frame, and its bytes on the wire."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import bpfchain
from schemas.counters import Count
from schemas.manifest import Mode
from tests.rig.network import Network, network, running

pytestmark = [pytest.mark.kernel, pytest.mark.parametrize("mode", [mode.value for mode in Mode])]

A, B, C, D = (bytes.fromhex(f"02aa0000000{digit}") for digit in "abcd")
BROADCAST = b"\xff" * 6
LLDP = bytes.fromhex("0180c200000e")
BLOCK = {"sources": ["198.51.100.0/24", "2001:db8:bad::/48"]}


def ethernet(source: bytes, destination: bytes, payload: bytes = bytes(46), ethertype: bytes = b"\x88\xb5") -> bytes:
    return destination + source + ethertype + payload


def udp(source: str, destination: str, tags: bytes = b"", length: int = 18) -> bytes:
    """A UDP frame from A to B, IPv4 or IPv6 by its addresses; checksums are not looked at by anything here."""
    sender, receiver = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    datagram = struct.pack("!HHHH", 4000, 9000, 8 + length, 0) + bytes(range(256))[:length]
    if sender.version == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 7, 0, 64, 17, 0)
        ethertype = b"\x08\x00"
    else:
        header = struct.pack("!IHBB", 6 << 28, len(datagram), 17, 64)
        ethertype = b"\x86\xdd"
    return ethernet(A, B, header + sender.packed + receiver.packed + datagram, tags + ethertype)


def bridge(*ports: str, **fdb: Any) -> dict[str, Any]:
    return {"kind": "bridge", **({"fdb": fdb} if fdb else {}), "ports": {port: {} for port in ports}}


def interfaces(*names: str) -> dict[str, Any]:
    return {name: {"device": name} for name in names}


def chain(mode: str, names: tuple[str, ...], services: Mapping[str, Any], links: list[list[str]]) -> dict[str, Any]:
    return {"mode": mode, "interfaces": interfaces(*names), "services": dict(services), "links": links}


def three_port_bridge(mode: str, **fdb: Any) -> dict[str, Any]:
    ports = ("p1", "p2", "p3")
    return chain(mode, ports, {"br0": bridge(*ports, **fdb)}, [[f"br0.{port}", port] for port in ports])


def guarded_bridge(mode: str) -> dict[str, Any]:
    """Two ports of a bridge lead to p1 and p2, the third through a guard to `street`."""
    services = {"br0": bridge("p1", "p2", "up"), "guard": {"kind": "ddos", "block": BLOCK}}
    links = [["br0.p1", "p1"], ["br0.p2", "p2"], ["br0.up", "guard.inside"], ["guard.outside", "street"]]
    return chain(mode, ("p1", "p2", "street"), services, links)


def deliver(net: Network, port: str, frame: bytes, *receivers: str) -> None:
    """Sends a frame; it must arrive unchanged, once, at these neighbours and nowhere else."""
    net.send(port, frame)
    assert net.arrivals(**dict.fromkeys(receivers, 1)) == {receiver: [frame] for receiver in receivers}


def test_bridge(mode: str, tmp_path: Path) -> None:
    with network("p1", "p2", "p3") as net, running(net.dut, three_port_bridge(mode), tmp_path):
        deliver(net, "p1", ethernet(A, B), "p2", "p3")
        deliver(net, "p2", ethernet(B, A), "p1")
        deliver(net, "p1", ethernet(A, B), "p2")
        deliver(net, "p3", ethernet(C, BROADCAST), "p1", "p2")
        deliver(net, "p1", ethernet(A, C, bytes(range(250)) * 6), "p3")
        deliver(net, "p1", ethernet(D, A))
        deliver(net, "p1", ethernet(A, LLDP))
        deliver(net, "p1", ethernet(BROADCAST, B))
        deliver(net, "p3", ethernet(A, B), "p2")
        deliver(net, "p2", ethernet(B, A), "p3")


def test_bridge_keeps_tags(mode: str, tmp_path: Path) -> None:
    tags = {"802.1Q": "81002064", "priority": "8100e000", "802.1ad": "88a80064", "QinQ": "88a8006481002064"}
    with network("p1", "p2", "p3") as net, running(net.dut, three_port_bridge(mode), tmp_path):
        for tag in tags.values():
            tagged = bytes.fromhex(tag) + b"\x88\xb5"
            deliver(net, "p1", ethernet(A, BROADCAST, ethertype=tagged), "p2", "p3")
            deliver(net, "p2", ethernet(B, A, ethertype=tagged), "p1")


def test_bridge_forgets_a_silent_station(mode: str, tmp_path: Path) -> None:
    with network("p1", "p2", "p3") as net, running(net.dut, three_port_bridge(mode, aging="1s"), tmp_path):
        net.send("p1", ethernet(A, BROADCAST))
        net.send("p3", ethernet(C, A))
        assert net.arrivals(p1=1, p2=1, p3=1)["p1"] == [ethernet(C, A)]
        time.sleep(1.4)
        deliver(net, "p3", ethernet(C, A), "p1", "p2")


def test_bridge_in_a_burst(mode: str, tmp_path: Path) -> None:
    """Frames in one batch keep their order and their bytes, known and flooded ones mixed."""
    frames = [ethernet(A, (B, BROADCAST)[number % 2], number.to_bytes(2, "big") * 30) for number in range(64)]
    with network("p1", "p2", "p3") as net, running(net.dut, three_port_bridge(mode), tmp_path):
        deliver(net, "p2", ethernet(B, A), "p1", "p3")
        net.send("p1", *frames)
        assert net.arrivals(p2=64, p3=32) == {"p2": frames, "p3": frames[1::2]}


def test_guard(mode: str, tmp_path: Path) -> None:
    guard = {"guard": {"kind": "ddos", "block": BLOCK}}
    links = [["wan", "guard.outside"], ["guard.inside", "lan"]]
    tag, double = bytes.fromhex("81000064"), bytes.fromhex("88a8006481000064")
    with network("wan", "lan") as net, running(net.dut, chain(mode, ("wan", "lan"), guard, links), tmp_path):
        for tags in (b"", tag, double):
            deliver(net, "wan", udp("198.51.100.7", "10.0.0.1", tags))
            deliver(net, "wan", udp("198.51.101.7", "10.0.0.1", tags), "lan")
            deliver(net, "wan", udp("2001:db8:bad::7", "fd00::1", tags))
            deliver(net, "wan", udp("2001:db8:bae::7", "fd00::1", tags), "lan")
        deliver(net, "lan", udp("198.51.100.7", "10.0.0.1"), "wan")
        deliver(net, "wan", ethernet(A, BROADCAST, bytes(1500)), "lan")
        deliver(net, "wan", udp("198.51.100.7", "10.0.0.1", length=200))


def test_guard_before_a_bridge(mode: str, tmp_path: Path) -> None:
    """Floods leave through the guard, too, and what the guard lets in is learned and flooded."""
    with network("p1", "p2", "street") as net, running(net.dut, guarded_bridge(mode), tmp_path):
        deliver(net, "p1", ethernet(B, BROADCAST), "p2", "street")
        deliver(net, "street", udp("198.51.100.7", "10.0.0.1"))
        deliver(net, "street", udp("203.0.113.7", "10.0.0.1"), "p1")
        deliver(net, "p1", ethernet(B, A), "street")
        deliver(net, "street", ethernet(A, BROADCAST), "p1", "p2")
        deliver(net, "p2", udp("198.51.100.7", "10.0.0.1"), "p1")
        deliver(net, "p2", ethernet(A, C), "p1", "street")


def test_what_is_counted_is_what_was_on_the_wire(mode: str, tmp_path: Path) -> None:
    frames = {
        "flood": ethernet(B, BROADCAST, bytes(100)),
        "in": udp("203.0.113.7", "10.0.0.1", bytes.fromhex("81000064")),
        "blocked": udp("198.51.100.7", "10.0.0.1", bytes.fromhex("81000064")),
        "out": ethernet(B, A, bytes(200)),
    }
    size = {name: len(frame) for name, frame in frames.items()}
    with network("p1", "p2", "street") as net, running(net.dut, guarded_bridge(mode), tmp_path) as compiled:
        deliver(net, "p1", frames["flood"], "p2", "street")
        deliver(net, "street", frames["in"], "p1")
        for _ in range(3):
            deliver(net, "street", frames["blocked"])
        deliver(net, "p1", frames["out"], "street")
        status = bpfchain.status(compiled.chain.manifest.chain)
    guard, br0 = status.service("guard"), status.service("br0")
    blocked = Count(3, 3 * size["blocked"])
    assert guard.drops == {"blocked-source": blocked}
    assert guard.labelled["block.sources 198.51.100.0/24"] == blocked
    assert guard.port("outside").received == Count(4, size["in"] + 3 * size["blocked"])
    assert guard.port("outside").sent == guard.port("inside").received == Count(2, size["flood"] + size["out"])
    assert br0.port("up").received == guard.port("inside").sent == Count(1, size["in"])
    assert br0.port("p1").received == br0.port("up").sent == Count(2, size["flood"] + size["out"])
    assert (br0.port("p1").sent, br0.port("p2").sent) == (Count(1, size["in"]), Count(1, size["flood"]))
    assert br0.drops == {}


def test_bridge_of_bridges(mode: str, tmp_path: Path) -> None:
    """A flood crosses two more bridges and reaches everybody once; what is learned on the way holds on all of them."""
    services = {"left": bridge("a", "b", "up"), "right": bridge("a", "b", "up"), "root": bridge("l", "r", "street")}
    links = [["left.a", "la"], ["left.b", "lb"], ["right.a", "ra"], ["right.b", "rb"]]
    links += [["left.up", "root.l"], ["right.up", "root.r"], ["root.street", "wan"]]
    names = ("la", "lb", "ra", "rb", "wan")
    with network(*names) as net, running(net.dut, chain(mode, names, services, links), tmp_path):
        deliver(net, "la", ethernet(A, BROADCAST), "lb", "ra", "rb", "wan")
        deliver(net, "wan", ethernet(D, BROADCAST), "la", "lb", "ra", "rb")
        deliver(net, "rb", ethernet(B, A), "la")
        deliver(net, "la", ethernet(A, B), "rb")
        deliver(net, "lb", ethernet(C, D), "wan")
        deliver(net, "la", ethernet(B, C), "lb")
        deliver(net, "wan", ethernet(D, B), "rb")  # the root has not heard of B's move, of which it saw nothing
        deliver(net, "la", ethernet(B, BROADCAST), "lb", "ra", "rb", "wan")
        deliver(net, "wan", ethernet(D, B), "la")


def test_two_ports_of_one_bridge_through_guards(mode: str, tmp_path: Path) -> None:
    """A flood that must enter two other services at once."""
    services = {
        "br0": bridge("p1", "g1", "g2"),
        "first": {"kind": "ddos", "block": BLOCK},
        "second": {"kind": "ddos", "block": BLOCK},
    }
    links = [["br0.p1", "p1"], ["br0.g1", "first.inside"], ["br0.g2", "second.inside"]]
    links += [["first.outside", "w1"], ["second.outside", "w2"]]
    names = ("p1", "w1", "w2")
    with network(*names) as net, running(net.dut, chain(mode, names, services, links), tmp_path):
        deliver(net, "p1", ethernet(A, BROADCAST), "w1", "w2")
        deliver(net, "w1", ethernet(B, BROADCAST), "p1", "w2")
        deliver(net, "w2", ethernet(C, B), "w1")
        deliver(net, "w2", udp("198.51.100.7", "10.0.0.1"))
