"""A learning bridge after IEEE 802.1D in plain Python: a frame, its port and a time in, the verdict out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    `closed`: it has a spanning tree that has not opened any port.
    """

    ports: Sequence[str]
    aging: float = 300.0
    static: Mapping[bytes, str] = field(default_factory=dict)
    stations: dict[bytes, Station] = field(default_factory=dict)
    bursts: dict[tuple[str, str], int] = field(default_factory=dict)
    closed: bool = False

    def receive(self, port: str, frame: bytes, now: float = 0.0) -> str:
        """`out PORT`, `flood` or `drop REASON`, for a frame that comes in by `port` at second `now`."""
        destination, source = frame[0:6], frame[6:12]
        if self.closed:
            return "slow-path bpdu" if destination == RESERVED + bytes([BPDU_LAST_BYTE]) else "drop port-state"
        if _is_group(source) or not any(source):
            return "drop invalid-source"
        if _is_reserved(destination):
            return "drop link-local"
        self._learn(source, port, now)
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

    def _learn(self, source: bytes, port: str, now: float) -> None:
        """7.8: only a source teaches, and nothing that contradicts a static entry."""
        if source not in self.static:
            self.stations[source] = Station(port, now)

    def _lookup(self, destination: bytes, now: float) -> str | None:
        """7.9.2: an entry holds for the ageing time after its station was last heard."""
        if destination in self.static:
            return self.static[destination]
        station = self.stations.get(destination)
        return station.port if station and now - station.seen <= self.aging else None


def _is_group(mac: bytes) -> bool:
    return bool(mac[0] & 1)


def _is_reserved(mac: bytes) -> bool:
    """BPDUs are relayed as long as this bridge does not take part in the spanning tree, as the Linux bridge does."""
    return mac[:5] == RESERVED and mac[5] <= 0x0F and mac[5] != BPDU_LAST_BYTE
