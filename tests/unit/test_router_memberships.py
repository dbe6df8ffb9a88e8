"""What a router tells of its groups: which ones, as bytes; when it is new, asked for, or long ago; in which version."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_interface

import pytest

from runtime.protocols import mld
from runtime.protocols.membership import Join, Query
from runtime.routing.memberships import OLDER_QUERIER, REPEATED, UNSOLICITED, Memberships, groups
from runtime.routing.ports import Ports, RouterPort
from schemas.services.router import NextHopRecord
from tests.services import router_frames as frames
from tests.services.router_frames import checksum, link_local, packed
from tests.unit.test_router_neighbours import Recorder

LEFT, RIGHT, SWITCH = "02:00:00:00:01:01", "02:00:00:00:02:01", "52:54:00:00:00:01"
ADDRESSES = ("10.7.1.1/24", "fd00:1::1/64", "fd00:1::2:1/64", "2001:db8::17/127")
LEFT_PORT = RouterPort(0, "left", frames.mac(LEFT), 1500, tuple(ip_interface(each) for each in ADDRESSES))
RIGHT_PORT = RouterPort(1, "right", frames.mac(RIGHT), 1500, (ip_interface("10.7.2.1/24"),))
GROUPS = ["ff02::2", "ff02::1:ff00:101", "ff02::1:ff00:1", "ff02::1:ff02:1", "ff02::1:ff00:17", "ff02::1:ff00:0"]
CHANGE, CURRENT = 4, 2  # record types (RFC 3810 5.2.12)


class Desk:
    """A router's memberships, of which `left` has some. Chance always takes half."""

    def __init__(self) -> None:
        self.outlet = Recorder()
        ports = Ports((LEFT_PORT, RIGHT_PORT), (), lambda _index: NextHopRecord.unpacked(bytes(32)))
        self.memberships = Memberships(ports, self.outlet, lambda: 0.5)

    def told(self) -> list[bytes]:
        said, self.outlet.sent[:] = list(self.outlet.sent), []
        assert {port for port, _ in said} <= {0}
        return [frame for _, frame in said]

    def until(self, now: float, since: float) -> list[tuple[float, int]]:
        """When reports come, in steps of a tenth of a second, and the type of their records."""
        found = []
        for step in range(int((now - since) * 10)):
            self.memberships.tick(since + step / 10)
            found += [(since + step / 10, frame[70]) for frame in self.told()]
        return found


@pytest.fixture
def desk() -> Desk:
    return Desk()


def report(kind: int) -> bytes:
    """RFC 3810 5.2, put together here."""
    records = b"".join(struct.pack("!BBH", kind, 0, 0) + packed(group) for group in GROUPS)
    message = bytes((143, 0, 0, 0)) + struct.pack("!HH", 0, len(GROUPS)) + records
    me = link_local(LEFT)
    total = checksum(packed(me) + packed("ff02::16") + struct.pack("!II", len(message), 58) + message)
    alert = bytes.fromhex("3a00050200000100")
    whole = alert + message[:2] + total.to_bytes(2, "big") + message[4:]
    packet = frames.ipv6(me, "ff02::16", whole, protocol=0, hop_limit=1)
    return frames.ethernet(LEFT, "33:33:00:00:00:16", frames.IPV6, packet)


def query(version: int, seconds: float = 10.0) -> bytes:
    """A general query, as a switch sends it."""
    if version == 2:
        asked = Query(IPv6Address("fe80::99"), None, seconds, robustness=2, interval_s=125)
        return mld.query(frames.mac(SWITCH), asked).payload
    message = struct.pack("!BBHHH16s", 130, 0, 0, int(seconds * 1000), 0, bytes(16))
    total = checksum(packed("fe80::99") + packed("ff02::1") + struct.pack("!II", 24, 58) + message)
    whole = bytes.fromhex("3a00050200000100") + message[:2] + total.to_bytes(2, "big") + message[4:]
    return frames.ipv6("fe80::99", "ff02::1", whole, protocol=0, hop_limit=1)


def test_the_groups_in_which_its_addresses_are_asked_for() -> None:
    """RFC 4291 2.8: each address, the link-local one, those of all routers of a subnet; on a /127 there is none."""
    assert list(groups(LEFT_PORT)) == [IPv6Address(group) for group in GROUPS]
    assert groups(RIGHT_PORT) == ()


def test_what_is_new_is_told_twice_and_then_from_time_to_time(desk: Desk) -> None:
    desk.memberships.join(0, 0.0)
    desk.memberships.join(1, 0.0)
    assert desk.told() == [report(CHANGE)]
    assert desk.until(301.5, 0.0) == [
        (UNSOLICITED, CHANGE),
        *((UNSOLICITED + times * REPEATED, CURRENT) for times in (1, 2, 3)),
    ]


def test_who_asks_is_answered_in_time(desk: Desk) -> None:
    desk.memberships.join(0, 0.0)
    assert desk.until(10.0, 0.0)
    desk.told()
    desk.memberships.asked(0, query(2, 10.0), 20.0)
    desk.memberships.asked(0, query(2, 4.0), 20.0)
    desk.memberships.asked(1, query(2), 20.0)
    assert desk.until(30.0, 20.0) == [(22.0, CURRENT)]


def test_who_knows_the_older_version_alone_is_told_in_it(desk: Desk) -> None:
    desk.memberships.join(0, 0.0)
    assert desk.until(10.0, 0.0)
    desk.told()
    desk.memberships.asked(0, query(1, 0.0), 20.0)
    desk.memberships.tick(20.0)
    newer, *older = desk.told()
    assert newer == report(CURRENT)
    assert [mld.read(frame[14:]) for frame in older] == [(Join(IPv6Address(group)),) for group in GROUPS]
    assert [frame[:6] for frame in older] == [b"\x33\x33" + packed(group)[12:] for group in GROUPS]
    desk.memberships.tick(20.0 + OLDER_QUERIER + REPEATED)
    assert len(desk.told()) == 1


def test_what_is_no_query_is_not_answered(desk: Desk) -> None:
    desk.memberships.join(0, 0.0)
    assert desk.until(10.0, 0.0)
    desk.told()
    desk.memberships.asked(0, report(CURRENT)[14:], 20.0)
    with pytest.raises(ValueError, match="not of this link"):
        desk.memberships.asked(0, query(2)[:7] + b"\x40" + query(2)[8:], 20.0)
    assert desk.until(30.0, 20.0) == []
