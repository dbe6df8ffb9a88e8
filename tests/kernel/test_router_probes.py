"""A router's questions and a real stack's answers: a neighbour that is used stays known."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import cast

import pytest

from runtime.control import Context, Packet, Port
from runtime.log import Log
from runtime.protocols import icmp6
from runtime.protocols.ethernet import ETH_P_ARP, ETH_P_IPV6, read_frame
from runtime.protocols.internet import read_ipv6
from runtime.routing.advertising import Advertising
from runtime.routing.answers import Answers
from runtime.routing.conflicts import Conflicts
from runtime.routing.limit import ErrorLimit
from runtime.routing.memberships import Memberships
from runtime.routing.neighbours import REACHABLE, Held, Key, Neighbours, State
from runtime.routing.ports import Ports, RouterPort
from runtime.services.router import Router
from schemas.manifest import Hook
from schemas.services.router import Address, Kind, NextHopRecord
from tests.rig.frames import Wire
from tests.rig.lab import Device, Lab
from tests.rig.waiting import eventually
from tests.unit.test_router_neighbours import Table

pytestmark = pytest.mark.kernel

NEIGHBOURS = (IPv4Address("10.7.1.10"), IPv6Address("fd00:1::10"))
HELD = Held(0, b"a packet")


class WireOutlet:
    """Sends onto a cable; what is injected is remembered."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.injected = wire, list[Held]()

    def send(self, _port: int, frame: bytes) -> None:
        self.wire.send(frame)

    def inject(self, port: int, frame: bytes) -> None:
        self.injected.append(Held(port, frame))


@pytest.mark.parametrize("address", NEIGHBOURS, ids=str)
def test_a_stack_that_is_asked_alone_stays_known(address: Address) -> None:
    """Linux leaves its MAC out of an advertisement that answers a unicast solicitation (RFC 4861 4.4 allows that)."""
    with Lab() as lab:
        cable = lab.cable((lab.namespace("dut"), "left"), (lab.namespace("far"), "eth0"))
        lab.address(cable.station, "10.7.1.10/24")
        lab.address(cable.station, "fd00:1::10/64")
        eventually(lambda: _is_up(cable.station), True)
        own = (ip_interface("10.7.1.1/24"), ip_interface("fd00:1::1/64"))
        port = RouterPort(0, "left", cable.port.mac_bytes, 1500, own)
        ports = Ports((port,), (), lambda _index: NextHopRecord(Kind.NONE))
        table, key, now = Table(), Key(0, address), 0.0
        with Wire(cable.port) as wire:
            outlet = WireOutlet(wire)
            answers = Answers(ports, outlet, ErrorLimit(1, 1, now))
            neighbours = Neighbours(ports, table, outlet, lambda _held: None, now)
            conflicts = Conflicts((port,), outlet, Log(), {})
            memberships, advertising = Memberships(ports, outlet), Advertising(ports, {}, outlet)
            router = Router(
                cast("Context", None), ports, outlet, neighbours, answers, conflicts, memberships, advertising
            )
            neighbours.resolve(key, HELD, now)
            _hear(router, wire, now)
            assert outlet.injected == [HELD]
            for _ in range(3):
                table.use(key)
                while neighbours[key].state is State.REACHABLE:
                    now += REACHABLE / 10
                    neighbours.tick(now)
                assert neighbours[key].state is State.PROBE
                _hear(router, wire, now)
                assert neighbours[key].state is State.REACHABLE, "its answer was not understood"
        assert table.content[key].mac == cable.station.mac_bytes


def _is_up(station: Device) -> bool:
    """Whether the kernel has noticed the carrier, without which it hears nothing that is sent to a group."""
    shown = ["ip", "-n", station.namespace.name, "-oneline", "link", "show", "dev", station.name]
    return " state UP " in subprocess.run(shown, capture_output=True, text=True, check=True).stdout


def _hear(router: Router, wire: Wire, now: float) -> None:
    """Hands what the stack says to the router, until it has answered."""
    for _ in range(10):
        frame = wire.receive(2)
        assert frame is not None, "the stack does not answer"
        reason = {ETH_P_ARP: "arp", ETH_P_IPV6: "nd"}[read_frame(frame).ethertype]
        if reason == "nd" and read_ipv6(read_frame(frame).payload).payload[0] != icmp6.Type.ADVERTISEMENT:
            continue
        router.packet(Packet(Port("left", 0, "interface left"), reason, frame, 0, 0, len(frame), Hook.XDP), now)
        return
    raise AssertionError("the stack says something else all the time")
