"""Spanning trees of simulated networks: one root, a tree that reaches every bridge, and how fast it is there again."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runtime.protocols.bpdu import Bpdu, PriorityVector, Times, Type
from runtime.protocols.bpdu import Role as WireRole
from runtime.protocols.rstp import Bridge
from runtime.protocols.rstp_port import (
    BridgeSettings,
    Effect,
    Flush,
    Guard,
    PortSettings,
    Role,
    Send,
    SetState,
    State,
)

Place = tuple[int, int]  # index of a bridge, number of its port


@dataclass
class Network:
    """Bridges joined by point-to-point links; a BPDU arrives at once, seconds pass only by `wait`.

    Those that are `dead` keep the states of their ports, and pass BPDUs on between those that forward.
    """

    bridges: list[Bridge]
    links: dict[Place, Place] = field(default_factory=dict)
    sent: list[tuple[Place, Bpdu]] = field(default_factory=list)
    flushed: list[Place] = field(default_factory=list)
    states: dict[Place, State] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    _pending: deque[tuple[Place, Bpdu]] = field(default_factory=deque)

    def connect(self, one: Place, other: Place, path_cost: int | None = None) -> None:
        self.links[one], self.links[other] = other, one
        for bridge, port in (one, other):
            self._note(bridge, self.bridges[bridge].enable(port, path_cost=path_cost))
        self.deliver()

    def cut(self, one: Place) -> None:
        """Both ends see that the link is down."""
        other = self.links.pop(one)
        del self.links[other]
        for bridge, port in (one, other):
            self._note(bridge, self.bridges[bridge].disable(port))
        self.deliver()

    def deliver(self) -> None:
        for _ in range(100_000):
            if not self._pending:
                return
            (bridge, port), bpdu = self._pending.popleft()
            if (bridge, port) in self.links:
                self._arrive(*self.links[bridge, port], bpdu)
        raise AssertionError("BPDUs never come to an end")

    def _arrive(self, bridge: int, number: int, bpdu: Bpdu) -> None:
        if bridge not in self.dead:
            self._note(bridge, self.bridges[bridge].receive(number, bpdu))
        elif self._forwards((bridge, number)):
            others = [port for port in self.bridges[bridge].ports if port != number]
            self._pending.extend(((bridge, port), bpdu) for port in others if self._forwards((bridge, port)))

    def pass_second(self, bridge: int) -> None:
        """At this bridge alone: clocks are not in step."""
        if bridge not in self.dead:
            self._note(bridge, self.bridges[bridge].tick())
            self.deliver()

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            for index, bridge in enumerate(self.bridges):
                self._note(index, bridge.tick())
            self.deliver()

    def roles(self, bridge: int) -> list[Role]:
        return [port.role for port in self.bridges[bridge].ports.values()]

    def open_links(self) -> Iterator[tuple[int, int]]:
        """Links that frames pass in both directions, each once, as pairs of bridges."""
        for one, other in self.links.items():
            if one < other and self._forwards(one) and self._forwards(other):
                yield one[0], other[0]

    def _forwards(self, place: Place) -> bool:
        return self.bridges[place[0]].ports[place[1]].forwarding

    def _note(self, bridge: int, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Send(port, bpdu):
                    self.sent.append(((bridge, port), bpdu))
                    self._pending.append(((bridge, port), bpdu))
                case Flush(port):
                    self.flushed.append((bridge, port))
                case SetState(port, state):
                    self.states[bridge, port] = state


def network(count: int, ports: int, *, rapid: bool = True, **port: bool) -> Network:
    """Bridges with addresses 1, 2, …: the first one is the best root."""
    numbers = range(1, ports + 1)
    return Network(
        [
            Bridge.of(BridgeSettings(address, rapid=rapid), [PortSettings(number, **port) for number in numbers])
            for address in range(1, count + 1)
        ]
    )


def ring(count: int, **settings: bool) -> Network:
    """Port 2 of each bridge leads to port 1 of the next."""
    made = network(count, 2, **settings)
    for bridge in range(count):
        made.connect((bridge, 2), ((bridge + 1) % count, 1))
    return made


def is_spanning_tree(found: Network, bridges: set[int]) -> bool:
    """Whether the open links join `bridges` without a loop."""
    parent = {bridge: bridge for bridge in bridges}

    def top(bridge: int) -> int:
        while parent[bridge] != bridge:
            bridge = parent[bridge]
        return bridge

    for one, other in found.open_links():
        if top(one) == top(other):
            return False
        parent[top(one)] = top(other)
    return len({top(bridge) for bridge in bridges}) == 1


def test_two_bridges_open_a_link_without_waiting() -> None:
    pair = network(2, 1)
    pair.connect((0, 1), (1, 1))
    assert (pair.roles(0), pair.roles(1)) == ([Role.DESIGNATED], [Role.ROOT])
    assert pair.states == {(0, 1): State.FORWARDING, (1, 1): State.FORWARDING}
    assert pair.bridges[1].root_priority == PriorityVector(32768 << 48 | 1, 20_000, 32768 << 48 | 1, 0x8001)


@pytest.mark.parametrize("count", range(3, 9))
def test_a_ring_blocks_the_port_farthest_from_the_root(count: int) -> None:
    found = ring(count)
    found.wait(3)
    assert is_spanning_tree(found, set(range(count)))
    blocked = {
        place: role
        for place in found.links
        if (role := found.bridges[place[0]].ports[place[1]].role) in (Role.ALTERNATE, Role.BACKUP)
    }
    # Both ways round an even ring are as long at the bridge opposite of the root, where the better neighbour wins;
    # in an odd ring the two farthest bridges face each other, and the one with the worse id blocks.
    assert blocked == {(count // 2 if count % 2 == 0 else count // 2 + 1, 2 if count % 2 == 0 else 1): Role.ALTERNATE}


@pytest.mark.parametrize("count", range(3, 9))
def test_a_cut_ring_is_whole_again_within_no_time(count: int) -> None:
    for cut in range(count):
        found = ring(count)
        found.wait(5)
        found.cut((cut, 2))
        assert is_spanning_tree(found, set(range(count))), f"after the cut of link {cut}"


def test_a_cut_that_no_link_state_shows_is_found_after_three_hellos() -> None:
    found = ring(4)
    found.wait(5)
    silent = found.links.pop((0, 2))
    del found.links[silent]
    found.wait(6)
    assert is_spanning_tree(found, {0, 1, 2, 3})


def test_a_better_root_takes_over() -> None:
    found = network(4, 2)
    for bridge in range(1, 3):
        found.connect((bridge, 2), (bridge + 1, 1))
    found.wait(3)
    assert found.bridges[1].is_root
    found.connect((3, 2), (0, 1))
    found.wait(3)
    assert [bridge.root_priority.root_id & 0xFFFF for bridge in found.bridges] == [1, 1, 1, 1]
    assert is_spanning_tree(found, {0, 1, 2, 3})


def test_the_cheaper_way_is_the_root_port() -> None:
    found = network(2, 2)
    found.connect((0, 1), (1, 1), path_cost=20_000)
    found.connect((0, 2), (1, 2), path_cost=2_000)
    found.wait(3)
    assert found.roles(1) == [Role.ALTERNATE, Role.ROOT]


def test_two_ports_on_one_lan_have_a_backup() -> None:
    found = network(1, 2)
    found.connect((0, 1), (0, 2))
    found.wait(40)
    assert found.roles(0) == [Role.DESIGNATED, Role.BACKUP]
    assert found.states.get((0, 2), State.DISCARDING) is State.DISCARDING


def test_a_port_whose_own_bpdus_come_back_stays_closed() -> None:
    found = network(1, 1)
    found.links[0, 1] = (0, 1)
    found._note(0, found.bridges[0].enable(1))
    found.deliver()
    for _ in range(40):
        found.wait(1)
        assert not found.bridges[0].ports[1].forwarding


def test_stp_opens_by_its_timers_alone() -> None:
    """Max Age of listening, then the forward delay of learning: 20 s and 15 s."""
    found = ring(3, rapid=False)
    found.wait(34)
    assert not list(found.open_links())
    found.wait(2)
    assert is_spanning_tree(found, {0, 1, 2})
    assert {bpdu.type for _, bpdu in found.sent} <= {Type.CONFIG, Type.TCN}


def test_a_port_falls_back_to_stp_and_no_other() -> None:
    found = network(3, 2)
    found.bridges[2] = Bridge.of(BridgeSettings(3, rapid=False), [PortSettings(1), PortSettings(2)])
    found.connect((0, 1), (1, 1))
    found.connect((1, 2), (2, 1))
    found.wait(40)
    assert found.bridges[1].ports[1].send_rstp
    assert not found.bridges[1].ports[2].send_rstp
    assert is_spanning_tree(found, {0, 1, 2})


def test_an_old_neighbour_that_falls_silent_at_once_is_not_taken_for_gone() -> None:
    """It has lost its root and says nothing for Max Age. That it is old is known before `send_rstp` is changed."""
    bridge = network(1, 2).bridges[0]
    root, neighbour = (PriorityVector(1 << 32, cost, 1 << 32 | cost, 1) for cost in (0, 1))
    hello = Bpdu(Type.CONFIG, root, Times(0, 20, 2, 15))
    for number, bpdu in ((1, hello), (2, replace(hello, priority=neighbour))):
        bridge.enable(number)
        bridge.receive(number, bpdu)
    assert bridge.ports[2].role is Role.ALTERNATE
    opened = 0
    while bridge.ports[2].state is not State.FORWARDING:
        bridge.receive(1, hello)
        bridge.tick()
        opened += 1
    assert opened > hello.times.max_age


def test_a_port_speaks_rstp_again_once_it_is_asked_to() -> None:
    found = network(2, 1)
    found.connect((0, 1), (1, 1))
    found.wait(5)
    found._note(0, found.bridges[0].receive(1, Bpdu(Type.TCN)))
    found.wait(1)
    assert not found.bridges[0].ports[1].send_rstp
    found._note(0, found.bridges[0].check_migration(1))
    assert found.bridges[0].ports[1].send_rstp


def test_an_old_bridge_is_told_of_a_change_until_it_acknowledges() -> None:
    """STP: a TCN goes up by the root port, and the designated bridge acknowledges it (17.31)."""
    found = ring(4, rapid=False)
    found.wait(50)
    found.sent.clear()
    found.cut((1, 2))
    found.wait(60)
    assert any(bpdu.type is Type.TCN for _, bpdu in found.sent)
    assert any(bpdu.topology_change_ack for _, bpdu in found.sent)
    assert is_spanning_tree(found, {0, 1, 2, 3})


def test_stations_behind_other_ports_are_forgotten_when_the_tree_changes() -> None:
    found = ring(4)
    found.wait(5)
    found.flushed.clear()
    found.cut((0, 2))
    assert {bridge for bridge, _ in found.flushed} == {0, 1, 2, 3}


def test_a_change_at_an_edge_port_is_nobodys_business() -> None:
    found = network(2, 2, admin_edge=True)
    found.connect((0, 1), (1, 1))
    found.wait(5)
    found.flushed.clear()
    found._note(0, found.bridges[0].enable(2))
    found.deliver()
    assert found.states[0, 2] is State.FORWARDING
    assert found.flushed == []


def test_a_port_without_a_neighbour_is_found_to_be_an_edge() -> None:
    found = network(1, 1)
    found._note(0, found.bridges[0].enable(1))
    found.wait(2)
    assert (0, 1) not in found.states
    found.wait(2)
    assert found.states[0, 1] is State.FORWARDING


def test_a_guarded_edge_shuts_when_a_bridge_appears_and_opens_when_its_link_returns() -> None:
    guarded = Bridge.of(BridgeSettings(1), [PortSettings(1, admin_edge=True, bpdu_guard=True)])
    found = Network([guarded, network(1, 1).bridges[0]])
    found.connect((0, 1), (1, 1))
    assert (guarded.ports[1].guard, guarded.ports[1].state) == (Guard.BPDU, State.DISCARDING)
    guarded.disable(1)
    guarded.enable(1)
    assert (guarded.ports[1].guard, guarded.ports[1].state) == (Guard.NONE, State.FORWARDING)


def test_a_better_root_behind_a_root_guard_is_not_taken() -> None:
    guarded = Bridge.of(BridgeSettings(9), [PortSettings(1, root_guard=True)])
    found = Network([guarded, network(1, 1).bridges[0]])
    found.connect((0, 1), (1, 1))
    found.wait(40)
    assert guarded.is_root
    assert (guarded.ports[1].guard, guarded.ports[1].state) == (Guard.ROOT, State.DISCARDING)
    found.cut((0, 1))
    found._note(0, guarded.enable(1))
    found.wait(4)
    assert (guarded.ports[1].guard, guarded.ports[1].state) == (Guard.NONE, State.FORWARDING)


def test_a_filtered_port_neither_sends_nor_hears() -> None:
    found = network(2, 1)
    found.bridges[0] = Bridge.of(BridgeSettings(7), [PortSettings(1, bpdu_filter=True)])
    found.connect((0, 1), (1, 1))
    found.wait(40)
    assert all(place != (0, 1) for place, _ in found.sent)
    assert found.bridges[0].is_root
    assert found.states[0, 1] is State.FORWARDING


def test_no_more_than_six_bpdus_a_second() -> None:
    found = network(2, 1)
    found.connect((0, 1), (1, 1))
    found.sent.clear()
    worst = Bpdu(Type.CONFIG, PriorityVector(0xFFFF << 48, 0, 0xFFFF << 48, 1), Times(0, 20, 2, 15))
    for _ in range(50):
        found._note(0, found.bridges[0].receive(1, worst))
        found._note(0, found.bridges[0].disable(1))
        found._note(0, found.bridges[0].enable(1))
    assert sum(place == (0, 1) for place, _ in found.sent) <= 6


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_random_networks_become_trees_and_stay_free_of_loops_while_links_fail(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 6))
    found = network(count, 2 * count)
    if data.draw(st.booleans()):
        old = data.draw(st.integers(0, count - 1))
        numbers = range(1, 2 * count + 1)
        settings = BridgeSettings(old + 1, rapid=False)
        found.bridges[old] = Bridge.of(settings, [PortSettings(number) for number in numbers])
    pairs = list(itertools.combinations(range(count), 2))
    edges = data.draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=2 * count))
    used = [0] * count
    for one, other in edges:
        used[one] += 1
        used[other] += 1
        if max(used[one], used[other]) <= 2 * count:
            found.connect((one, used[one]), (other, used[other]))
            assert not has_loop(found)
    for _ in range(data.draw(st.integers(0, 3))):
        seconds(found, 70)
        assert_trees(found)
        if found.links:
            found.cut(data.draw(st.sampled_from(sorted(found.links))))
            assert not has_loop(found)
    seconds(found, 70)
    assert_trees(found)


def test_what_a_neighbour_withdraws_on_one_link_is_gone_on_a_parallel_one() -> None:
    """Bridge 5 loses its way to the root, and 3 must not offer it back for what it heard by the other of two links."""
    found = network(6, 4)
    found.bridges[0] = Bridge.of(BridgeSettings(1, rapid=False), [PortSettings(number) for number in range(1, 5)])
    for one, other in [
        ((0, 1), (1, 1)),
        ((3, 1), (5, 1)),
        ((3, 2), (5, 2)),
        ((1, 2), (4, 1)),
        ((4, 2), (5, 3)),
        ((2, 1), (5, 4)),
    ]:
        found.connect(one, other)
    seconds(found, 70)
    found.cut((5, 3))
    seconds(found, 70)
    assert_trees(found)


QUICK = {"hello_time": 1, "max_age": 6, "forward_delay": 4}


@pytest.mark.parametrize("timers", [{}, QUICK], ids=["default", "quick"])
@pytest.mark.parametrize("count", range(3, 7))
def test_a_mesh_whose_root_only_passes_bpdus_on_has_no_loop(count: int, timers: dict[str, int]) -> None:
    """What was a link to the root joins all of them, and each learns at another time that the root is gone."""
    orders = list(itertools.permutations(range(1, count)))
    for order in random.Random(count).sample(orders, min(len(orders), 6)):
        found = mesh(count, timers)
        found.wait(10)
        found.dead = {0}
        settings = found.bridges[0].settings
        for _ in range(2 * settings.max_age + 4 * settings.forward_delay):
            for bridge in order:
                found.pass_second(bridge)
                assert not has_loop(found), order
        assert len(list(found.open_links())) == count - 1, order


def mesh(count: int, timers: dict[str, int]) -> Network:
    """Every bridge joined to every other one."""
    ports = [PortSettings(number) for number in range(1, count)]
    settings = [replace(BridgeSettings(address), **timers) for address in range(1, count + 1)]
    made = Network([Bridge.of(each, ports) for each in settings])
    for one, other in itertools.combinations(range(count), 2):
        made.connect((one, other), (other, one + 1))
    return made


def test_one_that_agrees_does_not_agree_for_others_on_its_link() -> None:
    """Who they are is not known; but not for longer than somebody else was heard there."""
    bridge = network(1, 1).bridges[0]
    bridge.enable(1)
    agreement = Bpdu(Type.RST, PriorityVector(9 << 48, 0, 9 << 48, 1), Times(0, 20, 2, 15), role=WireRole.ROOT)
    agreement = replace(agreement, agreement=True, learning=True, forwarding=True)
    bridge.receive(1, replace(agreement, agreement=False, priority=PriorityVector(9 << 48, 0, 9 << 48 | 8, 1)))
    bridge.receive(1, agreement)
    opened = 0
    while not bridge.ports[1].forwarding:
        bridge.tick()
        opened += 1
    assert opened > bridge.settings.forward_delay
    for _ in range(bridge.settings.max_age):
        bridge.tick()
    assert not bridge.ports[1].is_shared


def test_another_way_to_a_root_that_has_fallen_silent_is_not_opened_at_once() -> None:
    """Who says that there is one may not know yet."""
    bridge = network(1, 2).bridges[0]
    root, neighbour = (PriorityVector(1 << 32, cost, 1 << 32 | cost, 1) for cost in (0, 1))
    hello = Bpdu(Type.RST, root, Times(0, 20, 2, 15), role=WireRole.DESIGNATED, learning=True, forwarding=True)
    for number, bpdu in ((1, hello), (2, replace(hello, priority=neighbour))):
        bridge.enable(number)
        bridge.receive(number, bpdu)
    while bridge.root_port == 1:
        bridge.receive(2, replace(hello, priority=neighbour))
        bridge.tick()
    assert (bridge.ports[2].role, bridge.ports[2].state) == (Role.ROOT, State.DISCARDING)
    for _ in range(2 * bridge.settings.hello_time):
        bridge.receive(2, replace(hello, priority=neighbour))
        bridge.tick()
    assert bridge.ports[2].state is State.FORWARDING


def seconds(found: Network, count: int) -> None:
    for _ in range(count):
        found.wait(1)
        assert not has_loop(found)


def assert_trees(found: Network) -> None:
    """Every connected part of the network has one tree, whose root is its best bridge."""
    parts = components(range(len(found.bridges)), [(one[0], other[0]) for one, other in found.links.items()])
    assert components(range(len(found.bridges)), list(found.open_links())) == parts
    assert not has_loop(found)
    for part in parts:
        assert {found.bridges[bridge].root_priority.root_id & 0xFFFF for bridge in part} == {min(part) + 1}


def components(bridges: range, links: list[tuple[int, int]]) -> set[frozenset[int]]:
    part = {bridge: frozenset({bridge}) for bridge in bridges}
    for one, other in links:
        for bridge in (joined := part[one] | part[other]):
            part[bridge] = joined
    return set(part.values())


def has_loop(found: Network) -> bool:
    links = list(found.open_links())
    parts = components(range(len(found.bridges)), links)
    return len(links) > sum(len(part) - 1 for part in parts)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 3), st.binary(min_size=32, max_size=32), st.booleans()), max_size=20))
def test_whatever_is_received_what_is_sent_can_be_encoded(received: list[tuple[int, bytes, bool]]) -> None:
    bridge = network(1, 3).bridges[0]
    effects = [effect for number in bridge.ports for effect in bridge.enable(number)]
    for number, body, rapid in received:
        header = bytes.fromhex("00000202" if rapid else "00000000")
        bpdu = Bpdu.decode(header + body[:31] + body[31:])
        effects += bridge.receive(number, bpdu) if bpdu else bridge.tick()
    for effect in effects:
        if isinstance(effect, Send):
            assert Bpdu.of_frame(effect.bpdu.frame(bytes(6))) is not None


def test_the_dearest_way_to_the_best_root_is_still_one() -> None:
    bridge = network(1, 1).bridges[0]
    bridge.enable(1)
    bridge.receive(
        1, Bpdu(Type.RST, PriorityVector(0, 0xFFFFFFFF, 2, 1), Times(0, 20, 2, 15), role=WireRole.DESIGNATED)
    )
    assert (bridge.root_port, bridge.root_priority.root_path_cost) == (1, 0xFFFFFFFF)
