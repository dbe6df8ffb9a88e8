"""IGMP and MLD snooping (RFC 4541): messages that a bridge hears and time in, who gets which group and queries out.

Pure: time is a number of seconds that never goes back, ports are numbers, and what is to be sent or told is returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from math import inf
from typing import NamedTuple

from .membership import Address, Join, Leave, Message, Query, RouterHello

DEFAULT_ROBUSTNESS = 2  # RFC 3376 8.1
LAST_MEMBER_INTERVAL_S = 1.0  # RFC 3376 8.8
LATE_S = 1.0
"""So long after its time an answer still counts: it may have waited on its way here."""

_NEVER_HELD_BACK = IPv4Network("224.0.0.0/24")
_ALL_NODES = IPv6Address("ff02::1")
_NOBODY = IPv4Address(0)
_ASKED_AT_ONCE = 256  # networks (two for each VLAN), and as many ports that are fresh in one
_STARTUP = 4  # RFC 3376 8.6: the first queries come so many times as fast
_RARELY = 2.0  # seconds: ticks that are so far apart show that this was kept from everything meanwhile

Ports = frozenset[int]


@dataclass(frozen=True, slots=True)
class Network:
    """What has listeners of its own: one VLAN (0: a bridge without), and one version of IP."""

    vlan: int
    version: int


@dataclass(frozen=True, slots=True)
class Settings:
    """`routers` are ports that always count as a router's, `no_routers` never do; `static` are groups and their ports.

    `station` is the bridge's MAC address. `sources`: by version of IP, whom its own queries come from; empty where it
    does not ask. `groups`: the most that are learned. `query_interval_s`, `max_response_s`: of its own queries; both
    are assumed of queriers that do not tell theirs.
    """

    station: bytes = b"\xff" * 6
    query_interval_s: float = 125.0
    max_response_s: float = 10.0
    groups: int = 1024
    flood_unregistered: bool = False
    sources: Mapping[int, Address] = field(default_factory=dict)
    routers: Ports = frozenset()
    no_routers: Ports = frozenset()
    fast_leave: Ports = frozenset()
    static: Mapping[Network, Mapping[Address, Ports]] = field(default_factory=dict)

    @property
    def startup_s(self) -> float:
        """RFC 3376 8.6: between the first queries.

        So long a question may not reach everybody: a switch behind a port that has come up may keep its ports closed.
        """
        return self.query_interval_s / _STARTUP


@dataclass(frozen=True, slots=True)
class Ask:
    """A query is to be sent out of `ports`; None: of all in the VLAN."""

    network: Network
    query: Query
    ports: Ports | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people want to know of."""

    network: Network
    text: str
    warns: bool = False


Effect = Ask | Notice


class Places(NamedTuple):
    """Where packets to a group go: to its members, and to whoever gets everything."""

    data: Ports
    members: Ports


@dataclass(frozen=True, slots=True)
class Table:
    """Where packets of one network go.

    `rest` is for groups without an entry, None: everywhere. `reports`: where routers are.
    """

    groups: Mapping[Address, Places]
    rest: Ports | None
    reports: Ports


@dataclass(slots=True)
class _Querier:
    """Who asks: `rank` orders queriers, the lowest is the one that all others leave it to (RFC 2236 3)."""

    rank: tuple[bool, int, bytes]
    source: Address
    port: int
    until: float


@dataclass(slots=True)
class _Fresh:
    """A port that somebody new may be behind: it gets everything.

    `counts_from`: from then on a question reaches all (`Settings.startup_s`), `until`: when all have had time to answer
    such a question; None: there was none yet. Until then a querier asks the port by itself, next at `asks_at`.
    """

    counts_from: float
    asks_at: float
    until: float | None = None


@dataclass(slots=True)
class _Watched:
    """All that is known of one network; times are when it ends.

    `settled_at`: from then on everybody has had time to answer a query; None: nobody has been asked yet. `fresh` are
    ports that came later. `routers`: the last that any router behind a port may be there. `asks_at`: when its own next
    query is due, `startup`: how many come faster than the rest, `repeats`: queries about one group that are due again.
    """

    querier: _Querier | None = None
    robustness: int = DEFAULT_ROBUSTNESS
    interval_s: float = 0.0
    response_s: float = 0.0
    settled_at: float | None = None
    in_force: bool = False
    fresh: dict[int, _Fresh] = field(default_factory=dict)
    routers: dict[int, float] = field(default_factory=dict)
    members: dict[Address, dict[int, float]] = field(default_factory=dict)
    refused_until: float = 0.0
    asks_at: float = 0.0
    startup: int = 0
    repeats: list[tuple[float, Address, int]] = field(default_factory=list)

    @property
    def membership_s(self) -> float:
        """RFC 3376 8.4."""
        return self.robustness * self.interval_s + self.response_s + LATE_S


@dataclass(slots=True)
class Snooping:
    """One bridge. `changed` collects the networks whose table is another one, for its caller to take.

    `regrouped` are the groups that alone are others in the tables of networks that are not there. `learned`: how many
    groups have members, in all networks. `counts_from`: from then on a question reaches everybody. `ticked_at`: when
    `tick` was last called.
    """

    settings: Settings
    networks: dict[Network, _Watched] = field(default_factory=dict)
    changed: set[Network] = field(default_factory=set)
    regrouped: set[tuple[Network, Address]] = field(default_factory=set)
    learned: int = 0
    counts_from: float = 0.0
    ticked_at: float = inf

    def watch(self, networks: Iterable[Network], now: float) -> None:
        """To be called first: networks that it asks in by itself, where it asks at all.

        All others are known once they are heard of.
        """
        self.counts_from = now + self.settings.startup_s
        asking = [network for network in networks if network.version in self.settings.sources]
        self._ask_anew([self._watched(network) for network in asking], now)

    def receive(
        self, network: Network, port: int, station: bytes, messages: Iterable[Message], now: float
    ) -> list[Effect]:
        """What a packet has told that came in by `port`; `station` is its source's MAC address."""
        watched, effects = self._watched(network), list[Effect]()
        for message in messages:
            match message:
                case Query():
                    effects += self._query(network, watched, port, station, message, now)
                case Join(group):
                    effects += self._join(network, watched, port, group, now)
                case Leave(group):
                    effects += self._leave(network, watched, port, group, now)
                case RouterHello(hold_s):
                    self._router(network, watched, port, now + hold_s)
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: what has ended goes, what is due is asked. To be called every second or so.

        Where it comes much too late, what was heard meanwhile may not be known yet: nothing ends before the next one.
        """
        late, self.ticked_at = now - self.ticked_at > _RARELY, now
        if late:
            return []
        effects: list[Effect] = []
        for network, watched in self.networks.items():
            self._expire(network, watched, now)
            effects += self._ask(network, watched, now)
            effects += self._judge(network, watched, now)
        return effects + self._ask_fresh(now)

    def port_down(self, port: int) -> None:
        """Whoever was behind a port is not any more."""
        for network, watched in self.networks.items():
            if watched.routers.pop(port, None) is not None or port in watched.fresh:
                self.changed.add(network)
            watched.fresh.pop(port, None)
            for group in [group for group, ports in watched.members.items() if port in ports]:
                self._forget(network, watched, group, port)

    def port_up(self, port: int, now: float) -> None:
        """Somebody new may be behind a port: it gets everything until they have been asked.

        Where this bridge asks, it does so with the next ticks.
        """
        for network, watched in self.networks.items():
            watched.fresh[port] = _Fresh(counts_from=now + self.settings.startup_s, asks_at=now)
            self.changed.add(network)

    def moved(self, now: float) -> list[Effect]:
        """Stations may be behind other ports than before: everything is flooded until all have been asked again.

        (RFC 4541 2.1.1: after a change of the spanning tree.)
        """
        self.counts_from = now + self.settings.startup_s
        for watched in self.networks.values():
            watched.settled_at = None
        own = [watched for network, watched in self.networks.items() if self._is_querier(network, watched)]
        self._ask_anew(own, now)
        return [effect for network, watched in self.networks.items() for effect in self._judge(network, watched, now)]

    def table(self, network: Network, now: float) -> Table | None:
        """None: all multicast of the network is flooded, since nobody asks, or not everybody has answered yet."""
        watched = self.networks[network]
        if not watched.in_force:
            return None
        everything = self._everything(watched)
        members = {group: frozenset(ports) for group, ports in watched.members.items()}
        for group, ports in self._static(network).items():
            members[group] = members.get(group, frozenset()) | ports
        floods = self.settings.flood_unregistered or now < watched.refused_until
        return Table(
            groups={group: Places(ports | everything, ports) for group, ports in members.items()},
            rest=None if floods else everything,
            reports=self._routers(watched),
        )

    def places(self, network: Network, group: Address) -> Places | None:
        """What the table of a network has of one group."""
        watched = self.networks[network]
        members = frozenset(watched.members.get(group, ())) | self._static(network).get(group, frozenset())
        return Places(members | self._everything(watched), members) if watched.in_force and members else None

    # --- what is heard ------------------------------------------------------------------------------------------------

    def _query(
        self, network: Network, watched: _Watched, port: int, station: bytes, query: Query, now: float
    ) -> Iterator[Effect]:
        rank, until = _rank(query.source, station), now + self._presence_s(query)
        if query.source != _NOBODY:
            self._router(network, watched, port, until)
        if not self._yields(network, rank):
            return
        if watched.querier is None or rank <= watched.querier.rank or now >= watched.querier.until:
            if watched.querier is None or watched.querier.source != query.source:
                yield Notice(network, f"querier is {query.source}")
            self._adopt(watched, query)
            watched.querier = _Querier(rank, query.source, port, until)
        if watched.querier.source == _NOBODY:
            self._router(network, watched, port, until)
        if query.group is None:
            self._asked(watched, query.max_response_s, now)
        elif not query.of_sources and not query.suppress:
            self._doubt(watched, query.group, query.max_response_s * watched.robustness, now)

    def _yields(self, network: Network, rank: tuple[bool, int, bytes]) -> bool:
        """Whether this bridge leaves it to another querier; a lower address is better, and none is worst."""
        own = self.settings.sources.get(network.version)
        return own is None or rank < _rank(own, self.settings.station)

    def _adopt(self, watched: _Watched, query: Query) -> None:
        """RFC 3376 4.1.6, 4.1.7: all take the querier's values. Older versions do not tell them."""
        if query.group is None:
            watched.robustness = query.robustness or DEFAULT_ROBUSTNESS
            watched.interval_s = query.interval_s or self.settings.query_interval_s
            watched.response_s = query.max_response_s

    def _presence_s(self, query: Query) -> float:
        """RFC 3376 8.5: how long a querier that has fallen silent counts as there."""
        interval_s = query.interval_s or self.settings.query_interval_s
        return (query.robustness or DEFAULT_ROBUSTNESS) * interval_s + query.max_response_s / 2

    def _router(self, network: Network, watched: _Watched, port: int, until: float) -> None:
        """There may be others behind the port that stay longer: nobody's goodbye, or shorter time, is theirs."""
        if port in self.settings.no_routers or port in self.settings.routers:
            return
        if port not in watched.routers:
            self.changed.add(network)
        watched.routers[port] = max(until, watched.routers.get(port, until))

    def _asked(self, watched: _Watched, response_s: float, now: float) -> None:
        """Everybody is asked: what is known is all, once all have had time to answer."""
        answered_at = now + response_s + LATE_S
        if watched.settled_at is None and now >= self.counts_from:
            watched.settled_at = answered_at
        for fresh in watched.fresh.values():
            if fresh.until is None and now >= fresh.counts_from:
                fresh.until = answered_at

    def _doubt(self, watched: _Watched, group: Address, seconds: float, now: float) -> None:
        """RFC 3376 6.6.1: whoever does not answer a question about one group is a member no longer."""
        ports = watched.members.get(group, {})
        for port, until in ports.items():
            ports[port] = min(until, now + seconds + LATE_S)

    def _join(self, network: Network, watched: _Watched, port: int, group: Address, now: float) -> Iterator[Effect]:
        if not is_held_back(group) or group.version != network.version:
            return
        if group not in watched.members:
            if self.learned >= self.settings.groups:
                yield from self._refuse(network, watched, now)
                return
            watched.members[group] = {}
            self.learned += 1
        ports = watched.members[group]
        if port not in ports:
            self.regrouped.add((network, group))
        ports[port] = now + watched.membership_s

    def _refuse(self, network: Network, watched: _Watched, now: float) -> Iterator[Effect]:
        """There is no room for a group."""
        if now >= watched.refused_until:
            self.changed.add(network)
            yield Notice(network, "no room for more groups: others are flooded", warns=True)
        watched.refused_until = now + watched.membership_s

    def _leave(self, network: Network, watched: _Watched, port: int, group: Address, now: float) -> Iterator[Effect]:
        """Others may be behind the port: the querier asks them, and that is heard here (`_doubt`)."""
        ports = watched.members.get(group, {})
        if port not in ports:
            return
        if port in self.settings.fast_leave:
            self._forget(network, watched, group, port)
        elif self._is_querier(network, watched):
            ports[port] = min(ports[port], now + DEFAULT_ROBUSTNESS * LAST_MEMBER_INTERVAL_S + LATE_S)
            watched.repeats.append((now + LAST_MEMBER_INTERVAL_S, group, port))
            yield self._specific(network, group, port)

    def _forget(self, network: Network, watched: _Watched, group: Address, port: int) -> None:
        ports = watched.members[group]
        del ports[port]
        if not ports:
            del watched.members[group]
            self.learned -= 1
        self.regrouped.add((network, group))

    # --- time ---------------------------------------------------------------------------------------------------------

    def _expire(self, network: Network, watched: _Watched, now: float) -> None:
        for port in [port for port, until in watched.routers.items() if until <= now]:
            del watched.routers[port]
            self.changed.add(network)
        for port in [port for port, fresh in watched.fresh.items() if fresh.until is not None and fresh.until <= now]:
            del watched.fresh[port]
            self.changed.add(network)
        ended = [(group, p) for group, ports in watched.members.items() for p, until in ports.items() if until <= now]
        for group, port in ended:
            self._forget(network, watched, group, port)
        if watched.refused_until and watched.refused_until <= now:
            watched.refused_until = 0.0
            self.changed.add(network)

    def _judge(self, network: Network, watched: _Watched, now: float) -> Iterator[Effect]:
        """Whether what is known is in force now."""
        if watched.querier and now >= watched.querier.until:
            yield Notice(network, f"querier {watched.querier.source} is silent", warns=True)
            watched.querier = None
            self._ask_anew([watched], now)
        if watched.querier is None and not self._is_querier(network, watched):
            watched.settled_at = None
        in_force = watched.settled_at is not None and now >= watched.settled_at
        if in_force != watched.in_force:
            watched.in_force = in_force
            self.changed.add(network)
            yield Notice(network, "snooping" if in_force else "flooding")

    # --- its own questions --------------------------------------------------------------------------------------------

    def _is_querier(self, network: Network, watched: _Watched) -> bool:
        return network.version in self.settings.sources and watched.querier is None

    def _ask_anew(self, networks: Iterable[_Watched], now: float) -> None:
        """At once, but where they are very many some in each second."""
        for position, watched in enumerate(networks):
            watched.asks_at, watched.startup = now + position // _ASKED_AT_ONCE, DEFAULT_ROBUSTNESS

    def _ask(self, network: Network, watched: _Watched, now: float) -> Iterator[Effect]:
        if not self._is_querier(network, watched):
            watched.repeats.clear()
            return
        due = [repeat for repeat in watched.repeats if repeat[0] <= now]
        watched.repeats = [repeat for repeat in watched.repeats if repeat[0] > now]
        for _, group, port in due:
            yield self._specific(network, group, port)
        if now >= watched.asks_at:
            watched.startup = max(0, watched.startup - 1)
            watched.asks_at = now + (self.settings.startup_s if watched.startup else self.settings.query_interval_s)
            query = self._general(network)
            self._adopt(watched, query)
            self._asked(watched, query.max_response_s, now)
            yield Ask(network, query)

    def _ask_fresh(self, now: float) -> list[Effect]:
        """Ports by themselves, so many in each second."""
        asks: list[Effect] = []
        room = _ASKED_AT_ONCE
        for network, watched in self.networks.items():
            if room <= 0:
                break
            if not watched.fresh or not self._is_querier(network, watched):
                continue
            due = {port: fresh for port, fresh in watched.fresh.items() if fresh.until is None and fresh.asks_at <= now}
            for fresh in due.values():
                fresh.asks_at = now + self.settings.startup_s
                if now >= fresh.counts_from:
                    fresh.until = now + self.settings.max_response_s + LATE_S
            if due:
                asks.append(Ask(network, self._general(network), frozenset(due)))
            room -= len(due)
        return asks

    def _general(self, network: Network) -> Query:
        return Query(
            source=self.settings.sources[network.version],
            group=None,
            max_response_s=self.settings.max_response_s,
            robustness=DEFAULT_ROBUSTNESS,
            interval_s=self.settings.query_interval_s,
        )

    def _specific(self, network: Network, group: Address, port: int) -> Ask:
        query = Query(
            source=self.settings.sources[network.version],
            group=group,
            max_response_s=LAST_MEMBER_INTERVAL_S,
            robustness=DEFAULT_ROBUSTNESS,
            interval_s=self.settings.query_interval_s,
        )
        return Ask(network, query, frozenset({port}))

    # --- what is known ------------------------------------------------------------------------------------------------

    def _watched(self, network: Network) -> _Watched:
        if network not in self.networks:
            interval_s, response_s = self.settings.query_interval_s, self.settings.max_response_s
            self.networks[network] = _Watched(interval_s=interval_s, response_s=response_s)
        return self.networks[network]

    def _routers(self, watched: _Watched) -> Ports:
        return self.settings.routers | watched.routers.keys()

    def _everything(self, watched: _Watched) -> Ports:
        """The ports that get all groups."""
        return self._routers(watched) | watched.fresh.keys()

    def _static(self, network: Network) -> Mapping[Address, Ports]:
        return self.settings.static.get(network, {})


def is_held_back(group: Address) -> bool:
    """Whether packets to an address may be kept from ports (multicast.h, snoop())."""
    return group.is_multicast and group not in _NEVER_HELD_BACK and group != _ALL_NODES


def _rank(source: Address, station: bytes) -> tuple[bool, int, bytes]:
    return source == _NOBODY, int(source), station
