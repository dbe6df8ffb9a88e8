"""The stations that a running bridge knows, as people know them; and forgetting some of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from msgspec import Struct

from schemas.manifest import Manifest, ServiceRecord

from .. import features
from ..clock import jiffies64
from ..control_maps import ControlMap
from ..steps import explained
from .bridge_fdb import Layout, entries, forget, known_layout, optional_map
from .bridge_fdb import Station as Entry
from .bridge_moves import Loop, loops
from .bridge_running import running_bridge, unknown

_MAC_BITS = 48  # of a key; above them is the VLAN


class Station(Struct, frozen=True):
    """An entry. `vlan` is None on a bridge without VLANs, `idle_s` None for one that the chain file has (static).

    `idle_s` are whole seconds since it was heard, as exactly as entries tell time. `confirmed`: heard more than once.
    """

    mac: str
    vlan: int | None
    port: str
    idle_s: int | None
    confirmed: bool


class _Table(Struct, frozen=True):
    """One bridge's table and what goes with it, where the chain file asks for that."""

    service: ServiceRecord
    fdb: ControlMap
    quotas: ControlMap | None
    movers: ControlMap | None
    aging_s: int
    static: tuple[Station, ...]

    @property
    def layout(self) -> Layout:
        return known_layout(self.fdb)


@explained("read the filtering database")
def stations(chain: str, bridge: str, *, bpffs: str | Path | None = None) -> tuple[Station, ...]:
    """Every station that frames find now, by VLAN, address. Raises `LoadFailed` (A109, B101)."""
    with _opened(chain, bridge, bpffs) as table:
        hz = features.hz()
        now, tick_s = table.layout.ticks(jiffies64(), hz), (1 << 32) / table.layout.ticks(1 << 32, hz) / hz
        found = [_station(table, entry, now, tick_s) for entry in entries(table.fdb)]
    known = (station for station in found if station is not None)
    return tuple(sorted((*table.static, *known), key=lambda station: (station.vlan or 0, station.mac)))


@explained("flush the filtering database")
def flush(
    chain: str,
    bridge: str,
    *,
    port: str | None = None,
    vlan: int | None = None,
    mac: str | None = None,
    bpffs: str | Path | None = None,
) -> int:
    """Forgets learned stations: all, or those that fit; returns how many. Raises `LoadFailed` (A109, B101)."""
    with _opened(chain, bridge, bpffs) as table:
        ports = table.service.ports
        if port is not None and port not in ports:
            raise unknown(f"bridge `{bridge}` has no port `{port}`", "ports", ports)
        wanted = None if vlan is None and mac is None else partial(_fits, vlan=vlan, mac=mac)
        return forget(table.fdb, table.quotas, ports=None if port is None else {ports.index(port)}, fits=wanted)


@explained("read where stations move")
def hints(chain: str, bridge: str, *, bpffs: str | Path | None = None) -> tuple[Loop, ...]:
    """Stations that have moved too often in the last minute; none where the bridge has no limit of moves.

    Raises `LoadFailed` (A109, B101).
    """
    with _opened(chain, bridge, bpffs) as table:
        return loops(table.movers, table.service.ports) if table.movers is not None else ()


def _fits(entry: Entry, vlan: int | None, mac: str | None) -> bool:
    return (vlan is None or entry.key >> _MAC_BITS == vlan) and (mac is None or _mac(entry.key) == mac.lower())


def _station(table: _Table, entry: Entry, now: int, tick_s: float) -> Station | None:
    """None of an entry that has expired: whoever looks it up does not find it. Some are seen after the clock was."""
    idle_s = max(0, (now + 1 - entry.seen & table.layout.time_mask) - 1) * tick_s
    if idle_s > table.aging_s + 2 * tick_s:
        return None
    vlan = entry.key >> _MAC_BITS or None
    return Station(_mac(entry.key), vlan, table.service.ports[entry.port], int(idle_s), entry.confirmed)


def _mac(key: int) -> str:
    return (key & (1 << _MAC_BITS) - 1).to_bytes(6, "little").hex(":")


# --- where it is ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(chain: str, bridge: str, bpffs: str | Path | None) -> Iterator[_Table]:
    running = running_bridge(chain, bridge, bpffs)
    service, manifest = running.service, running.manifest
    constants = {c.path: c.value for p in manifest.programs if p.service == bridge for c in p.constants}
    with contextlib.ExitStack() as stack:

        def open_map(name: str) -> ControlMap:
            mapped = running.open_map(name)
            stack.callback(mapped.close)
            return mapped

        yield _Table(
            service=service,
            fdb=open_map("fdb"),
            quotas=optional_map(open_map, "quotas"),
            movers=optional_map(open_map, "movers"),
            aging_s=int(constants[f"{service.name}.fdb.aging"].removesuffix("s")),
            static=tuple(_static(text, port) for text, port in _statics(service, manifest, constants)),
        )


def _statics(service: ServiceRecord, manifest: Manifest, constants: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(address, port) of static entries, those in code and those in a map."""
    prefix = f"{service.name}.fdb.static "
    records = (record for record in manifest.maps if record.service == service.name)
    entries = (entry for record in records for entry in record.entries)
    in_maps = {e.path: service.ports[int.from_bytes(e.value, "little")] for e in entries if e.path.startswith(prefix)}
    both = constants | in_maps
    return ((path.removeprefix(prefix), port) for path, port in both.items() if path.startswith(prefix))


def _static(text: str, port: str) -> Station:
    mac, _, vlan = text.partition(" vlan ")
    return Station(mac, int(vlan) if vlan else None, port, None, confirmed=True)
