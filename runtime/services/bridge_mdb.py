"""A bridge's multicast database as it lies in its map: what the control plane knows in, keys and values out, and back.

compiler/services/bridge/multicast.h has the same in C. Sets of ports are two words of 64 bits; versions of IP are
EtherTypes. The entry for group 0 is for all groups that have none, and its second set is where reports go.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from msgspec import Struct

from ..protocols.ethernet import ETH_P_IP, ETH_P_IPV6
from ..protocols.membership import Address
from ..protocols.snooping import Network, Places, Table

_KEY = struct.Struct("<HH16s")
_ETHERTYPES = {4: ETH_P_IP, 6: ETH_P_IPV6}
_VERSIONS = {ethertype: version for version, ethertype in _ETHERTYPES.items()}
_ADDRESS_BYTES = {4: 4, 6: 16}
_SET_BYTES = 16
_REST = bytes(_SET_BYTES)
_EVERYWHERE = b"\xff" * _SET_BYTES


class Entry(Struct, frozen=True):
    """One entry; `group` None: of all that have none. `data` None: to all ports."""

    network: Network
    group: Address | None
    data: frozenset[int] | None
    reports: frozenset[int]


def is_kept(kept_until: bytes) -> bool:
    """mdb_is_kept() of multicast.h, by what the map `mdb_kept_until` has: whether programs believe the database."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) < int.from_bytes(kept_until, "little")


def rest_key(network: Network) -> bytes:
    """The key of what is to groups without an entry."""
    return _KEY.pack(network.vlan, _ETHERTYPES[network.version], _REST)


def group_key(network: Network, group: Address) -> bytes:
    """The key of what is to a group."""
    return _KEY.pack(network.vlan, _ETHERTYPES[network.version], group.packed)


def packed_places(places: Places) -> bytes:
    """The value of a group."""
    return _set(places.data) + _set(places.members)


def packed(network: Network, table: Table) -> Iterator[tuple[bytes, bytes]]:
    """Every entry of a network; the last one makes all others count."""
    for group, places in table.groups.items():
        yield group_key(network, group), packed_places(places)
    rest = _EVERYWHERE if table.rest is None else _set(table.rest)
    yield rest_key(network), rest + _set(table.reports)


def unpacked(key: bytes, value: bytes) -> Entry:
    """An entry as it is in the map."""
    vlan, ethertype, address = _KEY.unpack(key)
    version = _VERSIONS[ethertype]
    group = None if address == _REST else ip_address(address[: _ADDRESS_BYTES[version]])
    data = None if value[:_SET_BYTES] == _EVERYWHERE else _ports(value[:_SET_BYTES])
    return Entry(Network(vlan, version), group, data, _ports(value[_SET_BYTES:]))


def _set(ports: Iterable[int]) -> bytes:
    return sum(1 << port for port in ports).to_bytes(_SET_BYTES, "little")


def _ports(content: bytes) -> frozenset[int]:
    bits = int.from_bytes(content, "little")
    return frozenset(port for port in range(8 * _SET_BYTES) if bits >> port & 1)
