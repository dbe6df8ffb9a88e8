"""IGMP and MLD snooping, second by second: who gets what, from when on, and what is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from runtime.protocols.membership import Address, Join, Leave, Message, Query, RouterHello
from runtime.protocols.snooping import LATE_S, Ask, Effect, Network, Notice, Settings, Snooping, Table

NET = Network(0, 4)
G, H = IPv4Address("239.1.1.1"), IPv4Address("239.2.2.2")
ROUTER, NOBODY = IPv4Address("10.0.0.9"), IPv4Address("0.0.0.0")
STATION = bytes.fromhex("02000000000a")
A, B, C, UP = range(4)
MEMBERSHIP = 2 * 125 + 10 + LATE_S
PRESENCE = 2 * 125 + 10 / 2
SETTLES = 10 + LATE_S
STARTUP = 32  # the tick after a quarter of the interval


@dataclass(slots=True)
class Bridge:
    """A bridge and its clock."""

    snooping: Snooping
    now: float = 1000.0
    effects: list[Effect] = field(default_factory=list)

    def hear(self, port: int, *messages: Message, network: Network = NET, station: bytes = STATION) -> None:
        self.effects += self.snooping.receive(network, port, station, messages, self.now)

    def wait(self, seconds: float) -> None:
        """Ticks each second, as the daemon does, and once more in the end."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1, end)
            self.effects += self.snooping.tick(self.now)

    def where(self, group: Address, network: Network = NET) -> set[int] | None:
        """Where a packet to a group goes; None: to all ports."""
        table = self.snooping.table(network, self.now) if network in self.snooping.networks else None
        if table is None:
            return None
        places = table.groups.get(group)
        found = places.data if places else table.rest
        return None if found is None else set(found)

    def reports(self) -> set[int]:
        table = self.snooping.table(NET, self.now)
        assert table
        return set(table.reports)

    def asked(self) -> list[Ask]:
        found = [effect for effect in self.effects if isinstance(effect, Ask)]
        self.effects.clear()
        return found

    def told(self) -> list[str]:
        found = [effect.text for effect in self.effects if isinstance(effect, Notice)]
        self.effects.clear()
        return found


def bridge(**settings: Any) -> Bridge:
    return Bridge(Snooping(Settings(**settings)))


def query(source: Address = ROUTER, group: Address | None = None, response_s: float = 10.0, **more: Any) -> Query:
    return Query(source, group, response_s, **more)


def snooped(**settings: Any) -> Bridge:
    """A router at UP has asked, and everybody has had time to answer: `B` listens to `G`."""
    found = bridge(**settings)
    found.hear(UP, query())
    found.hear(B, Join(G))
    found.wait(SETTLES)
    found.effects.clear()
    return found


def test_without_a_querier_everything_is_flooded() -> None:
    found = bridge()
    found.hear(B, Join(G))
    found.wait(300)
    assert found.where(G) is None


def test_nothing_is_held_back_before_everybody_could_answer() -> None:
    found = bridge()
    found.hear(UP, query())
    found.hear(B, Join(G))
    found.wait(SETTLES - 1)
    assert found.where(G) is None
    found.wait(1)
    assert found.where(G) == {B, UP}
    assert found.told() == ["querier is 10.0.0.9", "snooping"]


def test_a_query_about_one_group_settles_nothing() -> None:
    found = bridge()
    found.hear(UP, query(group=G, response_s=1.0))
    found.wait(60)
    assert found.where(G) is None


def test_who_gets_what() -> None:
    found = snooped()
    assert found.where(G) == {B, UP}
    assert found.where(H) == {UP}, "what nobody has asked for goes to routers"
    assert found.reports() == {UP}
    assert found.where(IPv6Address("ff05::1"), Network(0, 6)) is None, "each version of IP has a querier of its own"
    assert found.where(G, Network(10, 4)) is None, "and each VLAN"


def test_a_member_that_is_silent_ends_and_one_that_answers_stays() -> None:
    found = snooped()
    found.hear(C, Join(G))
    for _ in range(3):
        found.wait(100)
        found.hear(UP, query())
        found.hear(C, Join(G))
    assert found.where(G) == {C, UP}


def test_membership_ends_at_its_time() -> None:
    found = snooped()
    found.hear(C, Join(H))
    found.wait(100)
    found.hear(UP, query())
    found.wait(MEMBERSHIP - 101)
    assert found.where(H) == {C, UP}
    found.wait(1)
    assert found.where(H) == {UP}


def test_the_queriers_own_values_count() -> None:
    found = bridge()
    found.hear(UP, query(response_s=2.0, robustness=3, interval_s=20.0))
    found.wait(2 + LATE_S)
    found.hear(B, Join(G))
    found.wait(3 * 20 + 2 + LATE_S - 1)
    assert found.snooping.networks[NET].members
    found.wait(1)
    assert not found.snooping.networks[NET].members


@pytest.mark.parametrize("port", [B, C])
def test_a_leave_waits_for_the_queriers_question(port: int) -> None:
    """Others may be behind the same port; the question is about all ports."""
    found = snooped()
    found.hear(C, Join(G))
    found.hear(port, Leave(G))
    found.wait(30)
    assert found.where(G) == {B, C, UP}, "nobody was asked"
    found.hear(UP, query(group=G, response_s=1.0))
    found.hear(B + C - port, Join(G))
    found.wait(2 * 1.0 + LATE_S)
    assert found.where(G) == {B + C - port, UP}
    assert found.asked() == []


@pytest.mark.parametrize("more", [{"of_sources": True}, {"suppress": True}])
def test_questions_that_nobody_has_to_answer(more: dict[str, Any]) -> None:
    """About senders, of which others are wanted still; or once more, after an answer was heard (RFC 3376 4.1.5)."""
    found = snooped()
    found.hear(UP, query(group=G, response_s=1.0, **more))
    found.wait(10)
    assert found.where(G) == {B, UP}


def test_fast_leave() -> None:
    found = snooped(fast_leave=frozenset({B}))
    found.hear(C, Join(G))
    for port in (B, C):
        found.hear(port, Leave(G))
    assert found.where(G) == {C, UP}


def test_when_the_querier_falls_silent_everything_is_flooded_until_another_one_has_been_answered() -> None:
    found = snooped()
    found.wait(PRESENCE - SETTLES - 1)
    found.hear(B, Join(G))
    assert found.where(G) == {B, UP}
    found.wait(2)
    assert found.where(G) is None
    assert "querier 10.0.0.9 is silent" in found.told()
    found.hear(A, query(IPv4Address("10.0.0.77")))
    assert found.where(G) is None
    found.wait(SETTLES)
    assert found.where(G) == {B, A}


def test_routers_are_where_queries_and_hellos_come_from() -> None:
    found = snooped()
    found.hear(C, RouterHello(105.0))
    found.hear(A, query(IPv4Address("10.0.0.200")))
    assert found.reports() == {A, C, UP}
    found.wait(104)
    found.hear(UP, query())
    assert C in found.reports()
    found.wait(1)
    assert found.reports() == {A, UP}
    found.hear(A, RouterHello(0))
    found.wait(1)
    assert found.reports() == {A, UP}, "it may be that of another router behind the port"
    found.wait(PRESENCE - 106)
    assert found.reports() == {UP}


def test_ports_that_are_said_to_be_routers_or_none() -> None:
    found = snooped(routers=frozenset({A}), no_routers=frozenset({C}))
    found.hear(C, RouterHello(105.0), query(IPv4Address("10.0.0.1")))
    assert found.reports() == {A, UP}


def test_a_bridge_that_asks_is_no_router_where_there_is_one() -> None:
    """RFC 4541 2.1.1. But where it is the only one that asks, it has to hear of all groups."""
    found = snooped()
    found.hear(C, query(NOBODY))
    assert found.reports() == {UP}
    alone = bridge()
    alone.hear(C, query(NOBODY))
    alone.wait(SETTLES)
    assert alone.reports() == {C}


def test_static_groups() -> None:
    found = snooped(static={NET: {G: frozenset({A}), H: frozenset({C})}})
    assert (found.where(G), found.where(H)) == ({A, B, UP}, {C, UP})
    found.wait(100)
    found.hear(UP, query())
    found.wait(MEMBERSHIP - 100)
    assert (found.where(G), found.where(H)) == ({A, UP}, {C, UP})


def test_unregistered_groups_may_be_flooded() -> None:
    found = snooped(flood_unregistered=True)
    assert (found.where(H), found.where(G), found.reports()) == (None, {B, UP}, {UP})


def test_what_has_no_room_is_flooded_and_what_had_is_not() -> None:
    found = snooped(groups=2)
    found.hear(C, *(Join(ip_address(f"239.3.0.{number}")) for number in range(5)))
    assert found.told() == ["no room for more groups: others are flooded"]
    assert found.where(G) == {B, UP}
    assert found.where(IPv4Address("239.3.0.0")) == {C, UP}
    assert found.where(IPv4Address("239.3.0.4")) is None
    found.wait(100)
    found.hear(UP, query())
    found.wait(MEMBERSHIP - 101)
    assert found.where(H) is None
    found.wait(1)
    assert found.where(H) == {UP}, "whoever was refused has been asked again by now"


@pytest.mark.parametrize("group", ["224.0.0.251", "10.0.0.1", "ff05::1"])
def test_groups_that_are_not_held_back_are_not_learned(group: str) -> None:
    found = snooped()
    found.hear(C, Join(ip_address(group)))
    assert len(found.snooping.networks[NET].members) == 1


# --- ports and the tree -----------------------------------------------------------------------------------------------


def test_a_port_that_goes_down_takes_its_members_along() -> None:
    found = snooped()
    found.hear(C, Join(G))
    found.snooping.port_down(B)
    assert found.where(G) == {C, UP}
    found.snooping.port_down(UP)
    assert (found.where(G), found.reports()) == ({C}, set())


def test_a_port_that_comes_up_gets_everything_until_it_was_asked() -> None:
    """A question right after that may be lost in a switch behind it, whose own ports are closed still."""
    found = snooped()
    found.snooping.port_up(C, found.now)
    found.wait(1)
    found.hear(UP, query())
    found.wait(100)
    assert (found.where(G), found.where(H), found.reports()) == ({B, C, UP}, {C, UP}, {UP})
    found.hear(UP, query())
    found.wait(SETTLES - 1)
    assert found.where(H) == {C, UP}
    found.wait(1)
    assert (found.where(G), found.where(H)) == ({B, UP}, {UP})


def test_when_the_tree_has_changed_all_are_asked_again() -> None:
    found = snooped()
    found.effects += found.snooping.moved(found.now)
    assert found.where(G) is None
    found.hear(UP, query())
    found.wait(50)
    assert found.where(G) is None
    found.hear(UP, query())
    found.hear(C, Join(G))
    found.wait(SETTLES)
    assert found.where(G) == {B, C, UP}


def differing(before: Table | None, now: Table | None) -> set[tuple[Network, Address]]:
    """The groups by which alone two tables differ."""
    assert before
    assert now
    assert (before.rest, before.reports) == (now.rest, now.reports)
    return {
        (NET, group)
        for group in before.groups.keys() | now.groups.keys()
        if before.groups.get(group) != now.groups.get(group)
    }


def test_every_change_of_a_table_is_told() -> None:
    """The caller writes what is in `changed` and `regrouped`, nothing else: no table may change without being there."""
    found = snooped(groups=2, fast_leave=frozenset({C}), static={NET: {H: frozenset({A})}})
    steps: list[Any] = [
        lambda: found.hear(C, Join(G)),
        lambda: found.hear(C, Leave(G)),
        lambda: found.hear(A, RouterHello(30.0)),
        lambda: found.hear(C, Join(IPv4Address("239.3.0.1")), Join(IPv4Address("239.3.0.2"))),
        lambda: found.snooping.port_down(C),
        lambda: found.snooping.port_up(C, found.now),
        lambda: found.hear(UP, query(group=G, response_s=1.0)),
        lambda: found.hear(UP, query()),
        lambda: found.snooping.moved(found.now),
        lambda: found.wait(STARTUP),
        lambda: found.hear(UP, query()),
        *[lambda: found.wait(1)] * 700,
    ]
    found.snooping.changed.clear()
    found.snooping.regrouped.clear()
    seen = set()
    before = found.snooping.table(NET, found.now)
    for number, step in enumerate(steps):
        step()
        now = found.snooping.table(NET, found.now)
        if now != before:
            seen.add(number)
            assert NET in found.snooping.changed or differing(before, now) <= found.snooping.regrouped, number
        for group in (G, H, *(now.groups if now else ())):
            assert found.snooping.places(NET, group) == (now.groups.get(group) if now else None), number
        found.snooping.changed.clear()
        found.snooping.regrouped.clear()
        before = now
    assert {0, 1, 2, 3, 4, 5, 8} <= seen
    assert len(seen) >= 10


# --- its own questions ------------------------------------------------------------------------------------------------

OWN: dict[int, Address] = {4: IPv4Address("10.0.0.5"), 6: IPv6Address("fe80::5")}


def asking(own: dict[int, Address] | None = None, **more: Any) -> Bridge:
    found = bridge(sources=OWN if own is None else own, station=STATION, **more)
    found.snooping.watch([NET, Network(0, 6)], found.now)
    found.effects += found.snooping.tick(found.now)
    return found


def test_it_asks_at_once_and_then_at_its_interval() -> None:
    found = asking()
    times = []
    for _ in range(400):
        times += [found.now - 1000.0] * sum(ask.network == NET for ask in found.asked())
        found.wait(1)
    assert times == [0, 32, 157, 282]
    assert found.where(G) == set(), "nobody listens, and no router is there"


def test_it_asks_in_thousands_of_vlans_without_a_burst() -> None:
    found = bridge(sources=OWN, station=STATION)
    found.snooping.watch([Network(vlan, version) for vlan in range(1, 4095) for version in (4, 6)], found.now)
    asked = []
    for _ in range(60):
        found.effects += found.snooping.tick(found.now)
        asked.append(len(found.asked()))
        found.now += 1
    assert max(asked) <= 2 * 256
    assert sum(asked[:32]) == 2 * 4094


def test_what_it_asks() -> None:
    (four, six) = asking().asked()
    expected = Query(OWN[4], None, 10.0, robustness=2, interval_s=125.0)
    assert (four.network, four.ports, four.query) == (NET, None, expected)
    assert (six.network, six.query.source) == (Network(0, 6), OWN[6])


def test_it_snoops_by_its_own_questions() -> None:
    """Ports may have come up together with this: its second question is the one that all must have heard."""
    found = asking()
    found.hear(B, Join(G))
    found.wait(STARTUP + SETTLES - 1)
    assert found.where(G) is None
    found.wait(1)
    assert (found.where(G), found.where(H)) == ({B}, set())


def test_after_a_leave_it_asks_the_port_twice() -> None:
    found = asking()
    found.hear(B, Join(G))
    found.hear(C, Join(G))
    found.wait(STARTUP + SETTLES)
    found.asked()
    found.hear(B, Leave(G))
    found.wait(1)
    asks = found.asked()
    assert [(ask.query.group, ask.query.max_response_s, ask.ports) for ask in asks] == [(G, 1.0, frozenset({B}))] * 2
    found.wait(1 + LATE_S)
    assert found.where(G) == {C}
    assert found.asked() == []


def test_a_member_that_answers_stays() -> None:
    found = asking()
    found.hear(B, Join(G))
    found.wait(STARTUP + SETTLES)
    found.hear(B, Leave(G))
    found.wait(1)
    found.hear(B, Join(G))
    found.wait(60)
    assert found.where(G) == {B}


@pytest.mark.parametrize(
    ("own", "other", "station", "yields"),
    [
        ("10.0.0.5", "10.0.0.4", "02000000000b", True),
        ("10.0.0.5", "10.0.0.6", "02000000000b", False),
        ("10.0.0.5", "0.0.0.0", "020000000009", False),
        ("0.0.0.0", "10.0.0.6", "02000000000b", True),
        ("0.0.0.0", "0.0.0.0", "02000000000b", False),
        ("0.0.0.0", "0.0.0.0", "020000000009", True),
    ],
)
def test_the_better_querier_asks(own: str, other: str, station: str, yields: bool) -> None:
    """The lower address (RFC 2236 3); of two bridges without one, the lower MAC address: never both fall silent."""
    found = asking({4: IPv4Address(own)})
    found.asked()
    found.hear(A, query(IPv4Address(other)), station=bytes.fromhex(station))
    found.wait(100)
    assert (found.asked() == []) is yields


def test_it_takes_over_from_one_that_falls_silent_without_flooding() -> None:
    found = asking({4: NOBODY})
    found.wait(STARTUP)
    found.hear(UP, query())
    found.wait(SETTLES)
    found.asked()
    for _ in range(5):
        found.wait(PRESENCE / 5)
        found.hear(B, Join(G))
        assert found.where(G) is not None
    assert any(ask.query.source == NOBODY for ask in found.asked())


def test_who_comes_is_asked_at_once_and_again() -> None:
    """The first question may be lost in a switch behind the port (802.1D: 30 s until its ports are open)."""
    found = asking()
    found.wait(STARTUP + SETTLES)
    found.asked()
    found.snooping.port_up(C, found.now)
    for seconds in (1, STARTUP):
        found.wait(seconds)
        assert [(ask.network.version, ask.ports, ask.query.group) for ask in found.asked()] == [
            (4, frozenset({C}), None),
            (6, frozenset({C}), None),
        ]
    found.wait(SETTLES - 1)
    assert found.where(H) == {C}
    found.wait(1)
    assert found.where(H) == set()
    assert not any(ask.ports for ask in found.asked())


def test_a_port_that_comes_up_is_asked_in_thousands_of_vlans_without_a_burst() -> None:
    found = bridge(sources=OWN, station=STATION)
    networks = [Network(vlan, version) for vlan in range(1, 4095) for version in (4, 6)]
    found.snooping.watch(networks, found.now)
    found.wait(STARTUP + 35)
    found.asked()
    found.snooping.port_up(C, found.now)
    asked: list[Ask] = []
    most = 0
    for _ in range(70):
        found.wait(1)
        asks = [ask for ask in found.asked() if ask.ports]
        most = max(most, len(asks))
        asked += asks
    assert most <= 256
    assert {ask.network for ask in asked} == set(networks)


def test_a_worse_querier_never_keeps_it_from_asking() -> None:
    """RFC 3376 6.6.2: the lowest address asks, and once that is gone the lowest of those that are left."""
    found = asking()
    found.hear(UP, query(IPv4Address("10.0.0.1")))
    found.asked()
    for _ in range(3):
        found.wait(100)
        found.hear(A, query(IPv4Address("10.0.0.77"), interval_s=3000.0))
    assert OWN[4] in [ask.query.source for ask in found.asked()]


def test_only_the_values_of_the_elected_querier_count() -> None:
    found = snooped()
    found.hear(A, query(IPv4Address("10.0.0.77"), interval_s=3000.0, robustness=7))
    found.hear(C, Join(H))
    found.wait(100)
    found.hear(UP, query())
    found.wait(MEMBERSHIP - 101)
    assert found.where(H) == {C, UP, A}
    found.wait(1)
    assert found.where(H) == {UP, A}


def test_a_router_that_goes_takes_no_other_along() -> None:
    found = snooped()
    found.hear(C, RouterHello(105.0))
    for hold_s in (10.0, 0.0):
        found.hear(C, RouterHello(hold_s))
        found.wait(20)
        assert found.reports() == {C, UP}


def test_nothing_ends_while_it_was_kept_from_hearing() -> None:
    """Answers and questions that came meanwhile are heard after the tick that is late."""
    found = snooped()
    found.wait(200)
    found.now += 100
    found.effects += found.snooping.tick(found.now)
    assert found.where(G) == {B, UP}
    found.hear(UP, query())
    found.hear(B, Join(G))
    found.wait(5)
    assert found.where(G) == {B, UP}


def test_when_the_tree_has_changed_it_asks_at_once() -> None:
    found = asking()
    found.wait(STARTUP + SETTLES)
    found.asked()
    found.snooping.moved(found.now)
    assert found.where(G) is None
    found.wait(1)
    assert [ask.query.group for ask in found.asked()] == [None, None]
    found.wait(STARTUP + SETTLES)
    assert found.where(G) == set()
