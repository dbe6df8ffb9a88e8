"""The multicast groups that a running bridge knows, and where they go, as people know them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from msgspec import Struct

from schemas.diagnostic import Diagnostic, LoadFailed

from ..steps import explained
from .bridge_mdb import Entry, is_kept, unpacked
from .bridge_running import RunningBridge, running_bridge

_ONLY = bytes(4)


class Group(Struct, frozen=True):
    """A group, and the ports with listeners; routers get it as well."""

    vlan: int | None
    group: str
    ports: tuple[str, ...]


class Snooped(Struct, frozen=True):
    """One version of IP in one VLAN in which multicast goes only where it is asked for.

    `routers`: the ports of multicast routers. `unregistered`: where groups go that nobody has asked for; None: to all
    ports.
    """

    vlan: int | None
    ip: int
    routers: tuple[str, ...]
    unregistered: tuple[str, ...] | None


class Groups(Struct, frozen=True):
    """All that programs look up now. What is not in `snooped` is flooded; nothing is, while no daemon keeps it."""

    snooped: tuple[Snooped, ...] = ()
    groups: tuple[Group, ...] = ()


@explained("read the multicast database")
def groups(chain: str, bridge: str, *, bpffs: str | Path | None = None) -> Groups:
    """What frames meet now, by VLAN and group. Raises `LoadFailed` (A109, B101, B102)."""
    running = running_bridge(chain, bridge, bpffs)
    if "multicast" not in (running.service.control or {}):
        message = f"bridge `{bridge}` does not snoop: all multicast is flooded"
        raise LoadFailed(Diagnostic("B102", message, help="give it `multicast: {}` in the chain file"))
    if not _is_kept(running):
        return Groups()
    with contextlib.closing(running.open_map("mdb")) as mdb:
        entries = sorted((unpacked(key, value) for key, value in mdb.items()), key=_place)
    names = running.service.ports
    return Groups(
        snooped=tuple(_snooped(entry, names) for entry in entries if entry.group is None),
        groups=tuple(_group(entry, names) for entry in entries if entry.group is not None),
    )


def _is_kept(running: RunningBridge) -> bool:
    with contextlib.closing(running.open_map("mdb_kept_until")) as kept:
        return is_kept(kept[_ONLY])


def _place(entry: Entry) -> tuple[int, int, int]:
    return entry.network.vlan, entry.network.version, int(entry.group or 0)


def _snooped(entry: Entry, names: tuple[str, ...]) -> Snooped:
    unregistered = None if entry.data is None else _named(entry.data, names)
    return Snooped(entry.network.vlan or None, entry.network.version, _named(entry.reports, names), unregistered)


def _group(entry: Entry, names: tuple[str, ...]) -> Group:
    return Group(entry.network.vlan or None, str(entry.group), _named(entry.reports, names))


def _named(ports: frozenset[int], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for index, name in enumerate(names) if index in ports)
