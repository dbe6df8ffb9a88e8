"""A learning bridge after IEEE 802.1D in plain Python: a frame, its port and a time in, the verdict out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

RESERVED = bytes.fromhex("0180c20000")
"""IEEE 802.1D-2004 7.12.6: sixteen group addresses that no bridge relays; the first is that of BPDUs."""

BPDU_LAST_BYTE = 0x00


@dataclass(slots=True)
class Station:
    """A dynamic entry: the port and the second that a frame from the station was last seen."""

    port: str
    seen: float


@dataclass(slots=True)
class BridgeModel:
    """One bridge. Its table has room for everybody; `static` maps MAC addresses to ports.

    `closed`: it has a spanning tree that has not opened any port. `sticky` are the ports whose stations do not move
    away; `limits` has how many stations a port may have, `dropping` the ports that drop the frames of further ones.
    `moves`: so many moves of one station are followed, and no more of them for as long as the model lives.
    """

    ports: Sequence[str]
    aging: float = 300.0
    static: Mapping[bytes, str] = field(default_factory=dict)
    stations: dict[bytes, Station] = field(default_factory=dict)
    bursts: dict[tuple[str, str], int] = field(default_factory=dict)
    closed: bool = False
    sticky: Set[str] = frozenset()
    drop_intruders: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)
    dropping: Set[str] = frozenset()
    moves: int | None = None
    moved: Counter[bytes] = field(default_factory=Counter)

    def receive(self, port: str, frame: bytes, now: float = 0.0) -> str:
        """`out PORT`, `flood` or `drop REASON`, for a frame that comes in by `port` at second `now`."""
        destination, source = frame[0:6], frame[6:12]
        if self.closed:
            return "slow-path bpdu" if destination == RESERVED + bytes([BPDU_LAST_BYTE]) else "drop port-state"
        if _is_group(source) or not any(source):
            return "drop invalid-source"
        if _is_reserved(destination):
            return "drop link-local"
        refused = self._learn(source, port, now)
        if refused:
            return refused
        out = None if _is_group(destination) else self._lookup(destination, now)
        if out is None:
            return self._flood(port, destination)
        return "drop same-port" if out == port else f"out {out}"

    def _flood(self, port: str, destination: bytes) -> str:
        """`bursts` are the frames of a sort that a port's limit still lets pass at once."""
        group = "broadcast" if destination == bytes([255] * 6) else "multicast"
        sort = port, group if _is_group(destination) else "unknown"
        if self.bursts.get(sort, 1) == 0:
            return "drop storm"
        if sort in self.bursts:
            self.bursts[sort] -= 1
        return "flood"

    def _learn(self, source: bytes, port: str, now: float) -> str | None:
        """7.8: only a source teaches, and nothing that contradicts a static entry. A drop, where there is one."""
        known = self.stations.get(source) if self._alive(source, now) else None
        home = self.static.get(source) or (known.port if known and known.port in self.sticky else port)
        if home != port:
            return "drop intruder" if self.drop_intruders else None
        if source in self.static:
            return None
        moves = known is not None and known.port != port
        if (known is None or moves) and self._count(port, now) >= self.limits.get(port, len(self.stations) + 1):
            return "drop station-limit" if port in self.dropping else None
        if moves and self.moves is not None and self.moved[source] >= self.moves:
            return None
        self.moved[source] += moves
        self.stations[source] = Station(port, now)
        return None

    def _alive(self, source: bytes, now: float) -> bool:
        """7.9.2: an entry holds for the ageing time after its station was last heard."""
        return source in self.stations and now - self.stations[source].seen <= self.aging

    def _count(self, port: str, now: float) -> int:
        return sum(station.port == port and self._alive(mac, now) for mac, station in self.stations.items())

    def _lookup(self, destination: bytes, now: float) -> str | None:
        if destination in self.static:
            return self.static[destination]
        return self.stations[destination].port if self._alive(destination, now) else None


def _is_group(mac: bytes) -> bool:
    return bool(mac[0] & 1)


def _is_reserved(mac: bytes) -> bool:
    """BPDUs are relayed as long as this bridge does not take part in the spanning tree, as the Linux bridge does."""
    return mac[:5] == RESERVED and mac[5] <= 0x0F and mac[5] != BPDU_LAST_BYTE
