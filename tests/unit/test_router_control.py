"""What a router's control plane makes of packets that come up: reasons, stale notes, conflicts, reports."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import cast

import pytest

from runtime.control import Context, Packet, Port
from runtime.log import Log
from runtime.routing.advertising import Advertising
from runtime.routing.answers import Answers
from runtime.routing.conflicts import DEFENCE, Conflicts
from runtime.routing.limit import ErrorLimit
from runtime.routing.memberships import Memberships
from runtime.routing.neighbours import Neighbours
from runtime.routing.ports import Ports, RouterPort
from runtime.services.router import REPORT, Router
from schemas.manifest import Hook
from schemas.services.router import Kind, NextHopRecord
from tests.services import router_frames as frames
from tests.services.router_frames import ARP, IPV4, arp, ethernet, ipv4, packed
from tests.unit.test_router_neighbours import Recorder, Table

LEFT, RIGHT, HOST = "02:00:00:00:01:01", "02:00:00:00:02:01", "52:54:00:00:00:01"
PORTS = (
    RouterPort(0, "left", frames.mac(LEFT), 1500, (ip_interface("10.7.1.1/24"),)),
    RouterPort(1, "right", frames.mac(RIGHT), 1500, (ip_interface("10.7.2.1/24"),)),
)
NEXTHOPS = {
    1: NextHopRecord(Kind.CONNECTED, 1),
    2: NextHopRecord(Kind.VIA, 1, gateway=packed("10.7.2.254")),
    3: NextHopRecord(Kind.UNREACHABLE),
    4: NextHopRecord(Kind.GROUP, first=1, members=2),
    5: NextHopRecord(Kind.NONE),
    6: NextHopRecord(Kind.CONNECTED, 0),
    7: NextHopRecord(Kind.VIA, 0, gateway=packed("10.7.1.9")),
}


@dataclass(slots=True)
class Logging:
    """As much of a context as these need."""

    text: io.StringIO = field(default_factory=io.StringIO)
    log: Log = field(init=False)
    problems: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = Log(to=self.text)

    def told(self, event: str) -> list[str]:
        return [line for line in self.text.getvalue().splitlines() if f"event={event} " in line]


class Desk:
    """A router without programs."""

    def __init__(self) -> None:
        self.context, self.outlet = Logging(), Recorder()
        ports = Ports(PORTS, (), lambda index: NEXTHOPS[index])
        answers = Answers(ports, self.outlet, ErrorLimit(10, 10, 0.0))
        neighbours = Neighbours(ports, Table(), self.outlet, lambda _held: None, 0.0)
        conflicts = Conflicts(PORTS, self.outlet, self.context.log, self.context.problems)
        memberships, advertising = Memberships(ports, self.outlet), Advertising(ports, {}, self.outlet)
        self.router = Router(
            cast("Context", self.context), ports, self.outlet, neighbours, answers, conflicts, memberships, advertising
        )

    def packet(
        self, reason: str, frame: bytes, note: int = 0, *, port: int = 0, now: float = 0.0, cut: int = 0
    ) -> None:
        arrived = Port(PORTS[port].name, port, "")
        self.router.packet(Packet(arrived, reason, frame, note, 0, len(frame) + cut, Hook.TC), now)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(("note", "asked"), [(1, "10.7.2.20"), (2, "10.7.2.254"), (3, ""), (4, ""), (5, "")])
def test_only_next_hops_that_have_a_neighbour_are_asked_for(desk: Desk, note: int, asked: str) -> None:
    """The place of a next hop that a program noted may have been given to another one since then."""
    desk.packet("resolve", ethernet(HOST, LEFT, IPV4, ipv4("10.7.1.10", "10.7.2.20")), note)
    assert [(port, frame[38:42]) for port, frame in desk.outlet.sent] == ([(1, packed(asked))] if asked else [])


def test_a_frame_whose_end_is_missing_is_not_injected(desk: Desk) -> None:
    desk.packet("resolve", ethernet(HOST, LEFT, IPV4, ipv4("10.7.1.10", "10.7.2.20")), 1, cut=400)
    assert len(desk.outlet.sent) == 1
    reply = arp(2, ("52:54:00:00:00:02", "10.7.2.20"), (RIGHT, "10.7.2.1"))
    desk.packet("arp", ethernet("52:54:00:00:00:02", RIGHT, ARP, reply), port=1)
    assert not desk.outlet.injected


@pytest.mark.parametrize(("note", "target"), [(6, "10.7.1.20"), (7, "10.7.1.9"), (1, ""), (2, ""), (3, ""), (5, "")])
def test_a_sender_is_redirected_to_next_hops_on_its_own_link_only(desk: Desk, note: int, target: str) -> None:
    """The place of a next hop that a program noted may have been given to another one since then."""
    desk.packet("redirect", ethernet(HOST, LEFT, IPV4, ipv4("10.7.1.10", "10.7.1.20")), note)
    said = [(port, frame[34:36], frame[38:42]) for port, frame in desk.outlet.injected]
    assert said == ([(0, b"\5\1", packed(target))] if target else [])


def test_each_port_defends_its_own_addresses(desk: Desk) -> None:
    for port, (mac, address) in enumerate(((LEFT, "10.7.1.1"), (RIGHT, "10.7.2.1"))):
        claim = ethernet(HOST, "ff:ff:ff:ff:ff:ff", ARP, arp(1, (HOST, address), (mac, address)))
        for now in (0.0, DEFENCE / 2, DEFENCE + 1):
            desk.packet("arp", claim, port=port, now=now)
    assert [port for port, _ in desk.outlet.sent] == [0, 0, 1, 1]


def test_what_is_lost_is_reported_when_there_is_more_of_it(desk: Desk) -> None:
    desk.router.report(0.0)
    assert not desk.context.told("packets-lost")
    for now in range(int(3 * REPORT)):
        if now < 2 * REPORT:
            desk.router.neighbours.counts.no_room += 1
        desk.router.report(float(now))
    first, second, third = desk.context.told("packets-lost")
    assert "neighbours_without_room=1" in first
    assert f"neighbours_without_room={int(REPORT) + 1}" in second
    assert f"neighbours_without_room={int(2 * REPORT)} senseless=0" in third
