"""A router's tables as its maps have them: opened, with the routes of the chain file that come first in them.

Who writes them: `apply` fills them while no program uses them (runtime/services/router_fill.py). From then on nobody
does where all routes are the chain file's, and the daemon alone where it follows the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from schemas.fib.table4 import Fib4
from schemas.fib.table6 import Fib6
from schemas.services.router import Kind, NextHopRecord

from ..control import OpenMap
from ..devices import find_device
from ..rtnetlink import Prefix
from .followed import Followed, NextHops, Ways


def has_tables(config: Mapping[str, Any]) -> bool:
    """Manifests from before a chain file could have many routes say only whether kernel routes are followed."""
    return bool(config.get("in_tables", config["kernel_routes"] is not None))


def open_tables(config: Mapping[str, Any], open_map: OpenMap, here: str | None, grace: Callable[[], None]) -> Followed:
    """The tables of a router that has some; `here` is the namespace of the chain."""
    addresses = [address for port in config["ports"] for address in port["addresses"]]
    versions = sorted({6 if ":" in address else 4 for address in addresses})
    return Followed(
        NextHops(open_map("followed").memory(), grace),
        {version: _table(open_map, version, grace) for version in versions},
        followed_ports(config, here) if config["kernel_routes"] else {},
        described(config, open_map),
    )


def _table(open_map: OpenMap, version: int, grace: Callable[[], None]) -> Fib4 | Fib6:
    roots, ranges = open_map(f"roots{version}").memory().cast("Q"), open_map(f"ranges{version}").memory()
    if version == 4:
        return Fib4(roots, ranges.cast("I"), grace)
    return Fib6(roots, ranges.cast("Q"), grace)


def described(config: Mapping[str, Any], open_map: OpenMap) -> dict[Prefix, Ways]:
    """The connected routes and those of the chain file, with their next hops."""
    packed = {int.from_bytes(key, "little"): value for key, value in open_map("nexthops").items()}
    ways: dict[int, Ways] = {}
    found: dict[Prefix, Ways] = {}
    for route in config["routes"]:
        index = route["nexthop"]
        if index not in ways:
            ways[index] = _ways(packed, index)
        found[_prefix(route["to"])] = ways[index]
    return found


def _ways(packed: Mapping[int, bytes], index: int) -> Ways:
    """A next hop, or the members of a group."""
    first = NextHopRecord.unpacked(packed[index])
    if first.kind is not Kind.GROUP:
        return (first,)
    return tuple(NextHopRecord.unpacked(packed[first.first + member]) for member in range(first.members))


def _prefix(text: str) -> Prefix:
    """Without `ipaddress`, which takes ten times as long."""
    address, _, length = text.partition("/")
    family = AF_INET6 if ":" in address else AF_INET
    return family, int.from_bytes(inet_pton(family, address), "big"), int(length)


def routes_netns(config: Mapping[str, Any], here: str | None) -> str | None:
    """The namespace of the kernel table that is followed."""
    table, records = config["kernel_routes"], config["ports"]
    first = next((record["netns"] for record in records if record["device"]), None)
    return (table["netns"] if table else None) or first or here


def followed_ports(config: Mapping[str, Any], here: str | None) -> dict[int, int]:
    """The ports that routes of the kernel can lead to, by ifindex."""
    return ports_by_ifindex(config["ports"], routes_netns(config, here), here)


def ports_by_ifindex(records: Sequence[Mapping[str, Any]], netns: str | None, here: str | None) -> dict[int, int]:
    """The ports whose devices are in one namespace, without which an ifindex says nothing; `here` is the chain's."""
    return {
        device.ifindex: index
        for index, record in enumerate(records)
        if record["device"] and (record["netns"] or here) == netns and (device := find_device(record["device"], netns))
    }
