"""The stations that a running bridge knows, as people know them; and forgetting some of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, MapRecord, ServiceRecord

from .. import features, sys
from ..bpffs import bpffs_root
from ..clock import jiffies64
from ..control_maps import ControlMap
from ..migrate import Table
from ..state import LiveGeneration, not_running, read
from ..steps import explained
from .bridge_fdb import Layout, layout_of
from .bridge_fdb import Station as Entry

KIND = "bridge"

_MAC_BITS = 48  # of a key; above them is the VLAN
_WAYS = 8  # words of a set


@dataclass(frozen=True, slots=True)
class Station:
    """An entry. `vlan` is None on a bridge without VLANs, `idle_s` None for one that the chain file has (static).

    `idle_s` are whole seconds since it was heard, as exactly as entries tell time. `confirmed`: heard more than once.
    """

    mac: str
    vlan: int | None
    port: str
    idle_s: int | None
    confirmed: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """One bridge's table, mapped into memory."""

    service: ServiceRecord
    layout: Layout
    aging_s: int
    words: memoryview
    static: tuple[Station, ...]

    def stations(self) -> Iterator[tuple[int, Entry]]:
        """The place of every entry that is not free, and what it says."""
        for at, word in enumerate(self.words.tolist()):
            if word:
                yield at, self.layout.station(at // _WAYS, word)


@explained("read the filtering database")
def stations(chain: str, bridge: str, *, bpffs: str | Path | None = None) -> tuple[Station, ...]:
    """Every station that frames find now, by VLAN, address. Raises `LoadFailed` (A109, B101)."""
    with _opened(chain, bridge, bpffs) as table:
        hz = features.hz()
        now, tick_s = table.layout.ticks(jiffies64(), hz), (1 << 32) / table.layout.ticks(1 << 32, hz) / hz
        found = [_station(table, entry, now, tick_s) for _, entry in table.stations()]
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
    """Forgets learned stations: all, or those that fit; returns how many. Raises `LoadFailed` (A109, B101).

    Each is one store of zero. A station that is learned into the entry in that very moment may go with it: its frames
    are flooded until it sends again, and nothing is ever led astray.
    """
    with _opened(chain, bridge, bpffs) as table:
        if port is not None and port not in table.service.ports:
            raise _unknown(f"bridge `{bridge}` has no port `{port}`", "ports", table.service.ports)
        places = [at for at, entry in table.stations() if _fits(table, entry, port, vlan, mac)]
        for at in places:
            table.words[at] = 0
    return len(places)


def _fits(table: _Table, entry: Entry, port: str | None, vlan: int | None, mac: str | None) -> bool:
    return (
        (port is None or entry.port == table.service.ports.index(port))
        and (vlan is None or entry.key >> _MAC_BITS == vlan)
        and (mac is None or _mac(entry.key) == mac.lower())
    )


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
    features.require_privilege()
    root = bpffs_root(bpffs)
    live = read(root, chain)
    if live is None or live.current is None or live.current.record is None:
        raise not_running(chain, root)
    manifest = live.current.record.manifest
    service = next((s for s in manifest.services if s.name == bridge and s.kind == KIND), None)
    if service is None:
        bridges = tuple(s.name for s in manifest.services if s.kind == KIND)
        raise _unknown(f"chain `{chain}` has no bridge `{bridge}`", "bridges", bridges)
    with _mapped(live.current, manifest, service) as table:
        yield table


@contextlib.contextmanager
def _mapped(running: LiveGeneration, manifest: Manifest, service: ServiceRecord) -> Iterator[_Table]:
    constants = {c.path: c.value for p in manifest.programs if p.service == service.name for c in p.constants}
    record = next(r for r in manifest.maps if r.service == service.name and r.name.endswith("__fdb"))
    fdb = f"{service.name}.fdb"
    layout = layout_of(Table(record, service.ports))
    assert layout, "the bridge's own maps have a layout that is known"
    with contextlib.ExitStack() as stack:
        mapped = _control_map(running, record)
        stack.callback(mapped.close)
        words = stack.enter_context(mapped.memory().cast("Q"))
        yield _Table(
            service=service,
            layout=layout,
            aging_s=int(constants[f"{fdb}.aging"].removesuffix("s")),
            words=words,
            static=tuple(_static(path.removeprefix(f"{fdb}.static "), port) for path, port in _statics(fdb, constants)),
        )


def _control_map(running: LiveGeneration, record: MapRecord) -> ControlMap:
    return ControlMap(sys.obj_get(running.pins.map(record.name, record.layout)), record)


def _statics(fdb: str, constants: dict[str, str]) -> Iterator[tuple[str, str]]:
    return ((path, port) for path, port in constants.items() if path.startswith(f"{fdb}.static "))


def _static(text: str, port: str) -> Station:
    mac, _, vlan = text.partition(" vlan ")
    return Station(mac, int(vlan) if vlan else None, port, None, confirmed=True)


def _unknown(message: str, what: str, known: tuple[str, ...]) -> LoadFailed:
    listed = ", ".join(f"`{name}`" for name in known) or "none"
    return LoadFailed(Diagnostic("B101", message, notes=(f"{what} here: {listed}",)))
