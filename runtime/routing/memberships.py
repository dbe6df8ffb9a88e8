"""The groups that a router is in on its links: switches that snoop on MLD pass to it what goes to those it reports.

Those are the groups in which its addresses are asked for (RFC 4861 7.2.1), and that of all routers. Without a report
such a switch keeps neighbour solicitations from the router. Reports are sent when there is something new, to those who
ask, and from time to time to those who have forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address

from msgspec import Struct

from ..protocols import mld
from ..protocols.icmp6 import ALL_ROUTERS, solicited_node
from ..protocols.membership import CHANGE_TO_EXCLUDE, MODE_IS_EXCLUDE, Query
from .ports import Outlet, Ports, RouterPort

ROBUSTNESS = 2
"""How often a new membership is told (RFC 3810 9.1), for one report may get lost."""
UNSOLICITED = 1.0
"""Seconds in between (RFC 3810 9.11)."""
REPEATED = 100.0
"""Seconds between two reports that nobody has asked for: without any, a membership ends after 260 (RFC 3810 9.4)."""
OLDER_QUERIER = 260.0
"""Seconds for which a link is believed to have routers of MLDv1 alone after the last such query (RFC 3810 9.12)."""


class _Link(Struct):
    """What is to be told on a port's link: when, how often as new, and until when in MLDv1 as well."""

    port: RouterPort
    groups: tuple[IPv6Address, ...]
    due: float
    new: int = 0
    older_until: float = float("-inf")


def groups(port: RouterPort) -> tuple[IPv6Address, ...]:
    """The groups that a port is in, each once; none where it speaks no IPv6."""
    own = [address for address in port.addresses if address.version == 6]
    if not own:
        return ()
    anycast = (each.network.network_address for each in own if port.is_anycast(each.network.network_address))
    addresses: Iterable[object] = (port.link_local, *(each.ip for each in own), *anycast)
    solicited = [solicited_node(address) for address in addresses if isinstance(address, IPv6Address)]
    return tuple(dict.fromkeys((ALL_ROUTERS, *solicited)))


class Memberships:
    """Those of one router. Times are seconds of one monotonic clock; `chance` gives numbers from 0 to 1."""

    def __init__(self, ports: Ports, outlet: Outlet, chance: Callable[[], float] = random.random) -> None:
        self._outlet = outlet
        self._chance = chance
        found = {port.index: (port, groups(port)) for port in ports.ports}
        self._links = {index: _Link(port, joined, 0.0) for index, (port, joined) in found.items() if joined}

    def join(self, port: int, now: float) -> None:
        """Tells a link that has just come up, or on which addresses are new."""
        link = self._links.get(port)
        if link is not None:
            link.new = ROBUSTNESS
            self._report(link, now)

    def asked(self, port: int, packet: bytes, now: float) -> None:
        """A query has come: the answer follows within the time that it gives (RFC 3810 6.2). Raises ValueError."""
        link = self._links.get(port)
        for query in mld.read(packet):
            if link is not None and isinstance(query, Query):
                if _is_older(query):
                    link.older_until = now + OLDER_QUERIER
                link.due = min(link.due, now + self._chance() * query.max_response_s)

    def tick(self, now: float) -> None:
        for link in self._links.values():
            if now >= link.due:
                self._report(link, now)

    def _report(self, link: _Link, now: float) -> None:
        """In both versions where there may be a router that knows the older one only."""
        port = link.port
        kind = CHANGE_TO_EXCLUDE if link.new else MODE_IS_EXCLUDE
        self._outlet.send(port.index, mld.report(port.mac, port.link_local, link.groups, kind).packed())
        for group in link.groups if now < link.older_until else ():
            self._outlet.send(port.index, mld.report1(port.mac, port.link_local, group).packed())
        link.new = max(0, link.new - 1)
        link.due = now + (UNSOLICITED if link.new else REPEATED)


def _is_older(query: Query) -> bool:
    """Of MLDv1: it has none of what the newer version tells (RFC 3810 8.1)."""
    return query.robustness is None and query.interval_s is None
