"""Who else has an address of the router: when it is asked for, what is made of a claim, when a conflict is over."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_interface

import pytest

from runtime.log import Log
from runtime.protocols import icmp6
from runtime.protocols.ethernet import read_frame
from runtime.protocols.internet import read_ipv6
from runtime.routing.conflicts import DEFENCE, OVER, PROBE_PAUSE, PROBES, REPROBE, Conflicts, announcements
from runtime.routing.ports import RouterPort
from schemas.services.router import Address
from tests.services import router_frames as frames
from tests.services.router_frames import ARP, IPV6, arp, ethernet, link_local
from tests.unit.test_router_neighbours import Recorder

LEFT, RIGHT, THIEF = "02:00:00:00:01:01", "02:00:00:00:02:01", "52:54:00:00:00:66"
PORT = RouterPort(0, "left", frames.mac(LEFT), 1500, (ip_interface("10.7.1.1/24"), ip_interface("fd00:1::1/64")))
OTHER = RouterPort(1, "right", frames.mac(RIGHT), 1500, (ip_interface("10.7.2.1/24"),))
OWN4, OWN6 = IPv4Address("10.7.1.1"), IPv6Address("fd00:1::1")
BROADCAST, NOBODY = "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"


def probe4(address: str, mac: str = LEFT) -> bytes:
    """RFC 5227 2.1.1."""
    return ethernet(mac, BROADCAST, ARP, arp(1, (mac, "0.0.0.0"), (NOBODY, address))).ljust(60, b"\0")


def probe6(address: str) -> bytes:
    """RFC 4862 5.4.2: from the unspecified address, without an option."""
    last = IPv6Address(address).packed[-3:]
    group = str(IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + last))
    packet = frames.icmp6("::", group, frames.solicitation(address, b""))
    return ethernet(LEFT, "33:33:ff:" + last.hex(":"), IPV6, packet)


@dataclass(slots=True)
class World:
    """A clock and all that `Conflicts` talks to."""

    outlet: Recorder = field(default_factory=Recorder)
    text: io.StringIO = field(default_factory=io.StringIO)
    problems: dict[str, str] = field(default_factory=dict)
    conflicts: Conflicts = field(init=False)
    now: float = 100.0

    def __post_init__(self) -> None:
        self.conflicts = Conflicts([PORT, OTHER], self.outlet, Log(to=self.text), self.problems)

    def sent(self) -> list[tuple[int, bytes]]:
        sent, self.outlet.sent = self.outlet.sent, []
        return [(port, frame.ljust(60, b"\0")) for port, frame in sent]

    def wait(self, seconds: float) -> list[tuple[int, bytes]]:
        """What is sent meanwhile."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.125, end)
            self.conflicts.tick(self.now)
        return self.sent()

    def claim(self, address: Address = OWN4, mac: str = THIEF) -> bool:
        return self.conflicts.claimed(PORT, address, frames.mac(mac), self.now)

    def logged(self) -> list[str]:
        lines = self.text.getvalue().splitlines()
        return [next(word for word in line.split() if word.startswith("event=")) for line in lines]


@pytest.fixture
def world() -> World:
    return World()


def test_each_address_is_asked_for_at_once_and_twice_more(world: World) -> None:
    asked = [(0, probe4("10.7.1.1")), (0, probe6("fd00:1::1")), (0, probe6(link_local(LEFT)))]
    world.conflicts.probe([PORT], world.now)
    assert world.sent() == asked
    assert world.wait(PROBE_PAUSE / 2) == []
    assert world.wait(PROBE_PAUSE) == asked
    assert world.wait(100) == asked, f"{PROBES} in all"


def test_a_port_without_ipv6_has_no_link_local_address_to_ask_for(world: World) -> None:
    world.conflicts.probe([OTHER], world.now)
    assert world.sent() == [(1, probe4("10.7.2.1", RIGHT))]


def test_a_claim_is_told_and_contradicted(world: World) -> None:
    assert world.claim()
    assert world.problems == {"conflict left 10.7.1.1": f"address 10.7.1.1 of port left is also that of {THIEF}"}
    assert world.logged() == ["event=address-conflict"]
    assert f"mac={THIEF}" in world.text.getvalue()


def test_one_address_is_defended_every_ten_seconds(world: World) -> None:
    """RFC 5227 2.4 c, DEFEND_INTERVAL; and told once as long as nothing is new."""
    defended = []
    for _ in range(200):
        defended += [world.now] if world.claim() else []
        world.wait(0.125)
    assert [at - defended[0] for at in defended] == [0, DEFENCE, 2 * DEFENCE]
    assert world.logged() == ["event=address-conflict"]
    assert world.claim(OWN6), "each address by itself"


def test_another_one_who_claims_it_is_told_too(world: World) -> None:
    world.claim()
    world.wait(DEFENCE)
    world.claim(mac="52:54:00:00:00:77")
    assert world.logged() == ["event=address-conflict"] * 2
    assert world.problems["conflict left 10.7.1.1"].endswith("52:54:00:00:00:77")


def test_the_router_itself_claims_nothing(world: World) -> None:
    assert not world.claim(mac=LEFT)
    assert not world.problems
    assert not world.logged()


def test_a_conflict_is_asked_about_until_it_is_over(world: World) -> None:
    world.claim()
    for _ in range(5):
        assert world.wait(REPROBE + 0.2) == [(0, probe4("10.7.1.1"))]
        world.claim()
    assert world.problems
    assert world.wait(OVER - 1).count((0, probe4("10.7.1.1"))) == 2
    assert world.problems
    world.wait(2)
    assert not world.problems
    assert world.logged() == ["event=address-conflict", "event=address-conflict-over"]
    assert world.wait(100) == []


def test_who_has_an_address_is_known_after_a_reload(world: World) -> None:
    """Ports may have other numbers then, and addresses may have gone."""
    world.claim(OWN4)
    world.claim(OWN6)
    world.conflicts.probe([PORT], world.now)
    world.sent()
    outlet = Recorder()
    moved = RouterPort(5, "left", PORT.mac, 1500, (ip_interface("fd00:1::1/64"),))
    world.conflicts.move([moved], outlet)
    assert list(world.problems) == ["conflict left fd00:1::1"]
    world.wait(PROBE_PAUSE + 0.1)
    assert world.sent() == []
    assert {port for port, _ in outlet.sent} == {5}
    assert probe4("10.7.1.1") not in [frame for _, frame in outlet.sent]
    world.wait(OVER)
    assert not world.problems


def test_announcements_tell_every_address() -> None:
    told = list(announcements([PORT, OTHER]))
    assert [index for index, _ in told] == [0, 0, 1]
    assert told[0][1].ljust(60, b"\0") == ethernet(
        LEFT, BROADCAST, ARP, arp(1, (LEFT, "10.7.1.1"), (NOBODY, "10.7.1.1"))
    ).ljust(60, b"\0")
    found = icmp6.read_discovery(read_ipv6(read_frame(told[1][1]).payload))
    assert (found.type, found.target, found.mac) == (icmp6.Type.ADVERTISEMENT, OWN6, frames.mac(LEFT))
