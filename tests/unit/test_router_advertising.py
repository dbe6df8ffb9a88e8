"""What a router advertises, as bytes, and when: at first, from time to time, to those who ask, at the end."""

from __future__ import annotations

import struct
from ipaddress import ip_interface
from typing import Any

import pytest

from runtime.routing.advertising import INITIAL_INTERVAL, LEAST_PAUSE, Advertising
from runtime.routing.ports import Ports, RouterPort
from schemas.services.router import NextHopRecord
from tests.services import router_frames as frames
from tests.services.router_frames import IPV6, ethernet, icmp6, link_local, option, packed
from tests.unit.test_router_neighbours import Recorder

LEFT, RIGHT, HOST = "02:00:00:00:01:01", "02:00:00:00:02:01", "52:54:00:00:00:01"
PORTS = Ports(
    (
        RouterPort(0, "left", frames.mac(LEFT), 1500, (ip_interface("fd00:1::1/64"),)),
        RouterPort(1, "right", frames.mac(RIGHT), 1500, (ip_interface("fd00:2::1/64"),)),
    ),
    (),
    lambda _index: NextHopRecord.unpacked(bytes(32)),
)
INTERVAL = 600.0
ALL_ROUTERS_MAC = "33:33:00:00:00:02"


def described(**changes: Any) -> dict[str, Any]:
    """What the compiler says of a port that advertises."""
    prefix = {"prefix": "fd00:1::/64", "valid": 86400, "preferred": 14400, "on_link": True, "autonomous": True}
    said = {
        "interval": INTERVAL,
        "lifetime": 1800,
        "hop_limit": 64,
        "managed": False,
        "other_config": False,
        "preference": "medium",
        "mtu": None,
        "prefixes": [prefix],
        "dns": {"servers": [], "search": [], "lifetime": 1800},
    }
    return said | changes


def expected(lifetime: int = 1800, flags: int = 0, options: bytes = b"", hop_limit: int = 64) -> bytes:
    """The frame with an advertisement of `left`, put together here (RFC 4861 4.2)."""
    head = struct.pack("!BBHBBHII", 134, 0, 0, hop_limit, flags, lifetime, 0, 0)
    packet = icmp6(link_local(LEFT), "ff02::1", head + option(1, LEFT) + options)
    return ethernet(LEFT, "33:33:00:00:00:01", IPV6, packet)


def prefix(text: str, flags: int, valid: int = 86400, preferred: int = 14400) -> bytes:
    network, length = text.split("/")
    return struct.pack("!BBBBIII", 3, 4, int(length), flags, valid, preferred, 0) + packed(network)


OWN = prefix("fd00:1::/64", 0xC0)


class Desk:
    """Advertising on `left`; chance always takes the longest."""

    def __init__(self, **changes: Any) -> None:
        self.outlet = Recorder()
        self.advertising = Advertising(PORTS, {0: described(**changes)}, self.outlet, lambda _least, most: most)

    def said(self) -> list[bytes]:
        sent, self.outlet.sent[:] = list(self.outlet.sent), []
        assert {port for port, _ in sent} <= {0}
        return [frame for _, frame in sent]

    def when(self, since: float, until: float) -> list[float]:
        """At which tenths of a second it advertises."""
        found = []
        for step in range(round(since * 10), round(until * 10)):
            self.advertising.tick(step / 10)
            found += [step / 10 for _ in self.said()]
        return found

    def ask(self, now: float, message: bytes = bytes((133, 0)) + bytes(6), **packet: Any) -> None:
        asked = icmp6(packet.pop("source", "fe80::10"), "ff02::2", message, **packet)
        self.advertising.solicited(packet.get("port", 0), ethernet(HOST, ALL_ROUTERS_MAC, IPV6, asked), now)


@pytest.mark.parametrize(
    ("changes", "frame"),
    [
        ({}, expected(options=OWN)),
        ({"lifetime": 0, "preference": "high"}, expected(lifetime=0, options=OWN)),
        ({"preference": "high", "managed": True}, expected(flags=0x88, options=OWN)),
        ({"preference": "low", "other_config": True, "hop_limit": 0}, expected(flags=0x58, options=OWN, hop_limit=0)),
        ({"mtu": 1400}, expected(options=struct.pack("!BBHI", 5, 1, 0, 1400) + OWN)),
        ({"prefixes": []}, expected()),
        (
            {"prefixes": [described()["prefixes"][0] | {"prefix": "fd00:9::/48", "autonomous": False, "valid": 7}]},
            expected(options=prefix("fd00:9::/48", 0x80, valid=7)),
        ),
        (
            {"prefixes": [described()["prefixes"][0] | {"on_link": False}]},
            expected(options=prefix("fd00:1::/64", 0x40)),
        ),
        (
            {"dns": {"servers": ["fd00::53", "fd00::54"], "search": ["example.org", "a.b."], "lifetime": 90}},
            expected(
                options=OWN
                + struct.pack("!BBHI", 25, 5, 0, 90)
                + packed("fd00::53")
                + packed("fd00::54")
                + struct.pack("!BBHI", 31, 4, 0, 90)
                + b"\7example\3org\0\1a\1b\0".ljust(24, b"\0")
            ),
        ),
    ],
    ids=["plain", "no router", "high, managed", "low, other", "MTU", "no prefix", "not /64", "not on link", "DNS"],
)
def test_bytes(changes: dict[str, Any], frame: bytes) -> None:
    """RFC 4861 4.2 and 4.6, RFC 4191 2.2, RFC 8106 5."""
    desk = Desk(**changes)
    desk.advertising.tick(1.0)
    assert desk.said() == [frame]


def test_more_often_at_first_and_then_from_time_to_time() -> None:
    second, third = 1 + INITIAL_INTERVAL, 1 + 2 * INITIAL_INTERVAL
    assert Desk().when(1.0, 1300.0) == [1.0, second, third, third + INTERVAL, third + 2 * INTERVAL]


def test_who_asks_is_answered() -> None:
    """RFC 4861 6.2.6: all who ask within half a second together, and no more often than every three seconds."""
    desk = Desk()
    desk.when(1.0, 40.0)
    for now in (100.0, 100.2, 100.4):
        desk.ask(now)
    assert desk.when(100.0, 110.0) == [100.5]
    desk.ask(110.0, option(1, HOST).join((bytes((133, 0)) + bytes(6), b"")))
    assert desk.when(110.0, 111.0) == [110.5]
    desk.ask(111.0)
    assert desk.when(111.0, 120.0) == [110.5 + LEAST_PAUSE + 0.5]
    desk.ask(120.0, source="::")
    assert desk.when(120.0, 140.0) == [120.5]


@pytest.mark.parametrize(
    "packet",
    [
        {"hop_limit": 64},
        {"wrong_checksum": 1},
        {"message": bytes((133, 1)) + bytes(6)},
        {"message": bytes((133, 0)) + bytes(5)},
        {"message": bytes((133, 0)) + bytes(6) + b"\1\0" + bytes(6)},
        {"message": bytes((133, 0)) + bytes(6) + option(1, HOST), "source": "::"},
        {"message": bytes((135, 0)) + bytes(22)},
    ],
    ids=str,
)
def test_what_is_no_solicitation(packet: dict[str, Any]) -> None:
    """RFC 4861 6.1.1."""
    desk = Desk()
    desk.when(1.0, 40.0)
    with pytest.raises(ValueError, match=r"."):
        desk.ask(100.0, **packet)
    assert desk.when(100.0, 110.0) == []


def test_a_link_that_comes_up_is_told_anew() -> None:
    desk = Desk()
    desk.when(1.0, 40.0)
    desk.advertising.begin(0, 100.0)
    desk.advertising.begin(1, 100.0)
    assert desk.when(100.0, 140.0) == [100.0, 100.0 + INITIAL_INTERVAL, 100.0 + 2 * INITIAL_INTERVAL]


def test_a_new_generation_knows_when_the_last_one_was() -> None:
    before, after = Desk(), Desk()
    assert before.when(1.0, 2.0) == [1.0]
    after.advertising.take_over(before.advertising)
    assert after.when(2.0, 10.0) == [1.0 + LEAST_PAUSE]


def test_the_last_word() -> None:
    """RFC 4861 6.2.5: who has said that it is a default router takes that back."""
    desk = Desk()
    desk.advertising.end(frozenset({"right"}))
    assert desk.said() == []
    desk.advertising.end(frozenset({"left"}))
    assert desk.said() == [expected(lifetime=0, options=OWN)]
    other = Desk(lifetime=0)
    other.advertising.end(frozenset({"left"}))
    assert other.said() == []
