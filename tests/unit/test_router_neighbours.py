"""A router's neighbours over time: asked for, waited for, kept, moved, forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_interface

import pytest

from runtime.protocols import arp, icmp6
from runtime.protocols.ethernet import BROADCAST, read_frame
from runtime.protocols.internet import read_ipv6
from runtime.routing.neighbours import (
    FORGOTTEN,
    HELD,
    REACHABLE,
    REFUSED,
    RETRANSMIT,
    TRIES,
    WAITING,
    WAITING_BYTES,
    Entry,
    Held,
    Key,
    Neighbours,
    State,
)
from runtime.routing.ports import Ports, RouterPort
from schemas.services.router import Kind, NextHopRecord

MAC, HIS, NEW = (bytes.fromhex(text) for text in ("020000000101", "525400000001", "525400000009"))
PORT = RouterPort(0, "left", MAC, 1500, (ip_interface("10.7.1.1/24"), ip_interface("fd00:1::1/64")))
OTHER = RouterPort(1, "right", bytes.fromhex("020000000201"), 1500, (ip_interface("10.7.2.1/24"),))
HIS_ADDRESS = IPv4Address("10.7.1.10")
HIM, HIM6 = Key(0, HIS_ADDRESS), Key(0, IPv6Address("fd00:1::10"))


@dataclass(slots=True)
class Recorder:
    """An outlet that remembers."""

    sent: list[tuple[int, bytes]] = field(default_factory=list)
    injected: list[Held] = field(default_factory=list)

    def send(self, port: int, frame: bytes) -> None:
        self.sent.append((port, frame))

    def inject(self, port: int, frame: bytes) -> None:
        self.injected.append(Held(port, frame))


@dataclass(slots=True)
class Table:
    """The programs' map."""

    content: dict[Key, Entry] = field(default_factory=dict)
    room: int = 1000
    used_while_read: Key | None = None

    def entries(self) -> Mapping[Key, Entry]:
        return dict(self.content)

    def get(self, key: Key) -> Entry | None:
        found = self.content.get(key)
        if key == self.used_while_read:
            self.use(key)
        return found

    def use(self, key: Key) -> None:
        self.content[key] = self.content[key]._replace(used=self.content[key].used + 1)

    def add(self, key: Key, mac: bytes) -> bool:
        if key not in self.content and len(self.content) >= self.room:
            return False
        self.content[key] = Entry(mac, 0)
        return True

    def take(self, key: Key) -> Entry | None:
        return self.content.pop(key, None)


class World:
    """Neighbours with everything around them, and a clock."""

    def __init__(self, table: Table | None = None) -> None:
        self.outlet, self.table, self.now = Recorder(), table or Table(), 1000.0
        self.gone: list[Held] = []
        ports = Ports((PORT, OTHER), (), lambda index: NextHopRecord(Kind.NONE))
        self.neighbours = Neighbours(ports, self.table, self.outlet, self.gone.append, self.now)

    def packet(self, number: int, key: Key = HIM) -> Held:
        held = Held(1, b"packet %d" % number)
        self.neighbours.resolve(key, held, self.now)
        return held

    def later(self, seconds: float, step: float = 0.1) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self.neighbours.tick(self.now)

    def asked(self) -> Iterator[tuple[bytes, arp.Arp]]:
        """The ARP requests so far: destination MAC and content."""
        for port, frame in self.outlet.sent:
            assert port == 0
            parsed = read_frame(frame)
            yield parsed.destination, arp.read_arp(parsed.payload)


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_packet_asks_and_is_delivered_once(world: World) -> None:
    held = world.packet(1)
    assert list(world.asked()) == [
        (BROADCAST, arp.Arp(arp.REQUEST, MAC, IPv4Address("10.7.1.1"), bytes(6), HIS_ADDRESS))
    ]
    assert not world.outlet.injected
    world.neighbours.learn(HIM, HIS, world.now)
    world.neighbours.learn(HIM, HIS, world.now)
    world.later(0.5)
    assert world.outlet.injected == [held]
    assert world.table.content == {HIM: Entry(HIS, 0)}


def test_packets_that_wait_leave_in_their_order_and_ask_no_more(world: World) -> None:
    held = [world.packet(number) for number in range(5)]
    world.neighbours.learn(HIM, HIS, world.now)
    assert world.outlet.injected == held
    assert len(world.outlet.sent) == 1


def test_the_oldest_gives_way(world: World) -> None:
    held = [world.packet(number) for number in range(HELD + 3)]
    world.neighbours.learn(HIM, HIS, world.now)
    assert world.outlet.injected == held[3:]
    assert world.neighbours.counts.overflowed == 3
    assert not world.gone


def test_who_does_not_answer_is_asked_three_times_a_second_apart(world: World) -> None:
    held = [world.packet(1), world.packet(2)]
    world.later(RETRANSMIT * 0.9)
    assert len(world.outlet.sent) == 1
    world.later(RETRANSMIT * TRIES - RETRANSMIT)
    assert len(world.outlet.sent) == TRIES
    assert not world.gone
    world.later(RETRANSMIT * 1.2)
    assert world.gone == held
    assert len(world.outlet.sent) == TRIES
    assert not world.outlet.injected


def test_who_did_not_answer_is_not_asked_again_at_once(world: World) -> None:
    world.packet(1)
    world.later(RETRANSMIT * TRIES + 0.2)
    refused = world.packet(2)
    assert world.gone[-1] == refused
    assert len(world.outlet.sent) == TRIES
    world.later(REFUSED)
    world.packet(3)
    assert len(world.outlet.sent) == TRIES + 1


def test_a_used_neighbour_is_asked_while_packets_go_on(world: World) -> None:
    world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    for _ in range(5):
        world.table.use(HIM)
        sent = len(world.outlet.sent)
        while len(world.outlet.sent) == sent:
            world.later(0.1)
        assert world.neighbours[HIM].state is State.PROBE
        assert HIM in world.table.content, "it was forgotten while it was used"
        to, question = list(world.asked())[sent]
        assert (to, question.target) == (HIS, HIM.address)
        world.neighbours.learn(HIM, HIS, world.now)
    assert world.neighbours[HIM].state is State.REACHABLE


def test_a_used_neighbour_that_has_gone_is_forgotten(world: World) -> None:
    world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    world.table.use(HIM)
    world.later(REACHABLE * 1.5 + RETRANSMIT * TRIES + 1)
    assert HIM not in world.table.content
    assert [to for to, _ in world.asked()] == [BROADCAST, HIS, HIS, HIS]
    world.packet(2)
    assert [to for to, _ in world.asked()][-1] == BROADCAST


def test_a_neighbour_that_nobody_uses_is_left_alone_and_then_forgotten(world: World) -> None:
    world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    world.later(FORGOTTEN - 1, step=1)
    assert HIM in world.table.content
    assert len(world.outlet.sent) == 1
    world.later(2 * REACHABLE, step=1)
    assert HIM not in world.table.content


def test_what_a_program_uses_at_that_very_moment_is_not_forgotten(world: World) -> None:
    """The entry is read as old, and used before it is deleted."""
    world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    neighbour = world.neighbours[HIM]
    neighbour.idle_since = world.now - FORGOTTEN
    world.now += 2 * REACHABLE
    world.table.used_while_read = HIM
    world.neighbours.tick(world.now)
    assert world.table.content[HIM].mac == HIS, "a neighbour was deleted that a program had just used"
    assert len(world.neighbours) == 1


def test_what_was_known_before_a_restart_stays_known() -> None:
    table = Table({HIM: Entry(HIS, 77), HIM6: Entry(HIS, 0), Key(9, HIM.address): Entry(HIS, 1)})
    world = World(table)
    assert set(table.content) == {HIM, HIM6}, "a port that is gone has no neighbours"
    assert not world.outlet.sent
    table.use(HIM)
    world.later(REACHABLE * 1.5 + 0.2)
    assert [to for to, _ in world.asked()] == [HIS, *[HIS] * (len(world.outlet.sent) - 1)]


def test_a_new_card_is_followed(world: World) -> None:
    world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    world.neighbours.learn(HIM, NEW, world.now)
    assert world.table.content[HIM].mac == NEW


def test_an_advertisement_without_override_changes_nothing(world: World) -> None:
    world.packet(1, HIM6)
    world.neighbours.learn(HIM6, HIS, world.now, override=False)
    world.neighbours.learn(HIM6, NEW, world.now, override=False)
    assert world.table.content[HIM6].mac == HIS


def test_a_stranger_is_not_believed(world: World) -> None:
    world.neighbours.learn(HIM, HIS, world.now)
    assert not world.table.content
    assert not len(world.neighbours)


def test_a_packet_that_came_up_too_late_goes_on(world: World) -> None:
    world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    late = world.packet(2)
    assert world.outlet.injected[-1] == late
    assert len(world.outlet.sent) == 1


def test_without_room_packets_are_lost_and_do_not_circle() -> None:
    world = World(Table(room=0))
    world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    assert not world.outlet.injected
    assert world.neighbours.counts.no_room == 1
    assert not len(world.neighbours)


def test_neighbours_that_nobody_uses_make_room_for_new_ones() -> None:
    """One station that answers for a whole subnet keeps nobody else out, and takes nobody who is used."""
    world = World(Table(room=200))
    for number in range(200):
        key = Key(0, IPv4Address("10.7.1.0") + number)
        world.packet(number, key)
        world.neighbours.learn(key, HIS, world.now)
    used = Key(0, IPv4Address("10.7.1.7"))
    world.table.use(used)
    world.packet(1, HIM6)
    world.neighbours.learn(HIM6, HIS, world.now)
    assert HIM6 not in world.table.content, "the others are of another IP version, in another map"
    newcomer = Key(0, IPv4Address("10.7.1.222"))
    held = world.packet(2, newcomer)
    world.neighbours.learn(newcomer, NEW, world.now)
    assert world.outlet.injected[-1] == held
    assert set(world.table.content) == {used, newcomer}
    assert world.neighbours.counts.no_room == 1


def test_a_scan_is_bounded(world: World) -> None:
    for number in range(3 * WAITING):
        world.packet(number, Key(0, IPv4Address(int(IPv4Address("10.7.1.0")) + number)))
        world.now += 0.001
    assert len(world.neighbours) == WAITING
    assert world.neighbours.counts.overflowed == 2 * WAITING
    assert not world.gone, "nobody has found out that they are not there"


def test_who_was_given_up_for_others_is_asked_again_by_the_next_packet(world: World) -> None:
    world.packet(1)
    for number in range(WAITING):
        world.packet(number, Key(0, IPv4Address("10.7.2.0") + number))
    world.neighbours.learn(HIM, HIS, world.now)
    assert HIM not in world.table.content, "it was not asked for any more"
    again = world.packet(2)
    world.neighbours.learn(HIM, HIS, world.now)
    assert world.outlet.injected == [again]


def test_the_bytes_that_wait_are_bounded(world: World) -> None:
    """Those asked for first give way; what a neighbour's answer or silence lets go makes room again."""
    frame, keys = bytes(9600), [Key(0, IPv4Address("10.7.1.0") + number) for number in range(600)]
    for _ in range(3):
        for key in keys:
            world.neighbours.resolve(key, Held(1, frame), world.now)
        assert len(world.neighbours) == WAITING_BYTES // len(frame)
        for key in keys[-50:]:
            world.neighbours.learn(key, HIS, world.now)
        assert len(world.outlet.injected) == 50
        world.later(RETRANSMIT * TRIES + 0.5)
        assert len(world.gone) == WAITING_BYTES // len(frame) - 50
        world.later(REFUSED + 0.5)
        for key in keys:
            world.table.take(key)
        world.later(2 * REACHABLE, step=1)
        assert not len(world.neighbours)
        world.outlet.injected.clear()
        world.gone.clear()


def test_a_packet_whose_end_is_missing_asks_but_does_not_wait(world: World) -> None:
    world.neighbours.resolve(HIM, None, world.now)
    assert len(world.outlet.sent) == 1
    whole = world.packet(1)
    world.neighbours.learn(HIM, HIS, world.now)
    world.neighbours.resolve(HIM, None, world.now)
    assert world.outlet.injected == [whole]


def test_an_answer_without_a_mac_confirms_the_one_that_is_known(world: World) -> None:
    world.packet(1, HIM6)
    world.neighbours.confirm(HIM6, world.now)
    assert world.neighbours[HIM6].state is State.INCOMPLETE, "nobody knows a MAC yet (RFC 4861 7.2.5)"
    world.neighbours.learn(HIM6, HIS, world.now)
    world.table.use(HIM6)
    while world.neighbours[HIM6].state is not State.PROBE:
        world.later(0.1)
    world.neighbours.confirm(HIM6, world.now)
    world.later(RETRANSMIT * TRIES + 1)
    assert world.table.content[HIM6].mac == HIS


def test_ipv6_is_asked_by_its_group_and_probed_alone(world: World) -> None:
    world.packet(1, HIM6)
    (asked,) = [read_frame(frame) for _, frame in world.outlet.sent]
    packet = read_ipv6(asked.payload)
    found = icmp6.read_discovery(packet)
    assert asked.destination == bytes.fromhex("3333ff000010")
    assert (str(packet.destination), packet.hop_limit) == ("ff02::1:ff00:10", 255)
    assert (found.source, found.target, found.mac) == (IPv6Address("fd00:1::1"), HIM6.address, MAC)
    world.neighbours.learn(HIM6, HIS, world.now)
    world.table.use(HIM6)
    world.later(REACHABLE * 1.5 + 0.2)
    probe = read_frame(world.outlet.sent[1][1])
    assert (probe.destination, read_ipv6(probe.payload).destination) == (HIS, HIM6.address)


def test_a_link_local_gateway_is_asked_from_the_link_local_address(world: World) -> None:
    world.packet(1, Key(0, IPv6Address("fe80::1")))
    found = icmp6.read_discovery(read_ipv6(read_frame(world.outlet.sent[0][1]).payload))
    assert found.source == PORT.link_local


def test_one_that_is_fixed_is_neither_asked_nor_moved_nor_forgotten(world: World) -> None:
    held = world.packet(1)
    world.outlet.sent.clear()
    world.neighbours.fix(HIM, HIS, world.now)
    assert world.outlet.injected == [held]
    world.table.use(HIM)
    world.neighbours.learn(HIM, NEW, world.now)
    world.neighbours.confirm(HIM, world.now)
    world.later(2 * FORGOTTEN, 1.0)
    assert world.table.content == {HIM: Entry(HIS, 1)}
    assert not world.outlet.sent
    world.neighbours.fix(HIM, NEW, world.now)
    assert world.table.content == {HIM: Entry(NEW, 0)}


def test_one_that_is_fixed_no_more_is_asked_for_again(world: World) -> None:
    world.neighbours.fix(HIM, HIS, world.now)
    world.neighbours.unfix(HIM)
    assert not world.table.content
    world.packet(1)
    assert len(list(world.asked())) == 1


def test_what_others_know_helps_where_nothing_is_known(world: World) -> None:
    held = world.packet(1)
    world.neighbours.offer(HIM, HIS, world.now)
    assert world.outlet.injected == [held]
    world.neighbours.offer(HIM, NEW, world.now)
    world.neighbours.unfix(HIM)
    assert world.table.content == {HIM: Entry(HIS, 0)}
    assert world.neighbours[HIM].state is State.REACHABLE, "and is asked after as any other"
