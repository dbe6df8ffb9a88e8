"""When a router advertises itself on its links (RFC 4861 6.2): from time to time, to those who ask, and at the end."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..protocols.ethernet import ETH_P_IPV6, Frame, read_frame
from ..protocols.icmp6 import ALL_NODES, group_mac
from ..protocols.internet import read_ipv6
from ..protocols.router_advertisement import Advertisement, Names, Prefix, check_solicitation
from .ports import Outlet, Ports, RouterPort

LEAST_PAUSE = 3.0
"""Seconds between two advertisements to all (RFC 4861 10, MIN_DELAY_BETWEEN_RAS)."""
ANSWERED = 0.5
"""Seconds until a solicitation is answered, at most (MAX_RA_DELAY_TIME)."""
INITIAL, INITIAL_INTERVAL = 3, 16.0
"""So many advertisements come soon after one another at first (MAX_INITIAL_RTR_ADVERTISEMENTS, …_ADVERT_INTERVAL)."""
_SHORTEST = 0.33
"""Of the interval (RFC 4861 6.2.1, MinRtrAdvInterval)."""


class _Link(Struct):
    """A port that advertises: the longest time in between, what is told, and when again (seconds)."""

    port: RouterPort
    interval: float
    told: Advertisement
    due: float = 0.0
    initial: int = INITIAL
    last: float = float("-inf")


class Advertising:
    """All ports of one router that advertise. `chance(a, b)` gives a number in between."""

    def __init__(
        self,
        ports: Ports,
        described: Mapping[int, Mapping[str, Any]],
        outlet: Outlet,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`described`: what the compiler says of the ports that advertise, by their index."""
        self._outlet, self._chance = outlet, chance
        self._links = {
            index: _Link(ports[index], float(record["interval"]), _told(record)) for index, record in described.items()
        }

    def begin(self, port: int, now: float) -> None:
        """On a link that has just come up, there may be others."""
        if link := self._links.get(port):
            link.due, link.initial = now, INITIAL

    def take_over(self, before: Advertising) -> None:
        """From the generation before: a port that has advertised a moment ago waits."""
        links = {link.port.name: link for link in self._links.values()}
        for old in before._links.values():
            if new := links.get(old.port.name):
                new.last = old.last

    def names(self) -> frozenset[str]:
        """The ports that advertise."""
        return frozenset(link.port.name for link in self._links.values())

    def solicited(self, port: int, frame: bytes, now: float) -> None:
        """A host asks: all are answered together, within half a second, not too often (RFC 4861 6.2.6).

        Raises ValueError for what is no solicitation.
        """
        check_solicitation(read_ipv6(read_frame(frame).payload))
        if link := self._links.get(port):
            soon = max(now, link.last + LEAST_PAUSE) + self._chance(0, ANSWERED)
            link.due = min(link.due, soon)

    def tick(self, now: float) -> None:
        for link in self._links.values():
            if now >= max(link.due, link.last + LEAST_PAUSE):
                self._send(link, link.told)
                link.last, link.initial = now, max(0, link.initial - 1)
                link.due = now + self._pause(link)

    def end(self, ports: frozenset[str]) -> None:
        """The last word on these ports: this is no default router any more (RFC 4861 6.2.5)."""
        for link in self._links.values():
            if link.port.name in ports and link.told.lifetime:
                self._send(link, replace(link.told, lifetime=0))

    def _pause(self, link: _Link) -> float:
        pause = self._chance(max(LEAST_PAUSE, _SHORTEST * link.interval), link.interval)
        return min(pause, INITIAL_INTERVAL) if link.initial else pause

    def _send(self, link: _Link, told: Advertisement) -> None:
        port = link.port
        packet = told.packet(port.link_local, port.mac)
        self._outlet.send(port.index, Frame(group_mac(ALL_NODES), port.mac, ETH_P_IPV6, packet.packed()).packed())


def _told(record: Mapping[str, Any]) -> Advertisement:
    names = record["dns"]
    return Advertisement(
        lifetime=record["lifetime"],
        hop_limit=record["hop_limit"],
        managed=record["managed"],
        other_config=record["other_config"],
        preference=record["preference"],
        mtu=record["mtu"],
        prefixes=tuple(
            Prefix(IPv6Network(each["prefix"]), each["valid"], each["preferred"], each["on_link"], each["autonomous"])
            for each in record["prefixes"]
        ),
        names=Names(tuple(map(IPv6Address, names["servers"])), tuple(names["search"]), names["lifetime"]),
    )
