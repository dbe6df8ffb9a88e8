"""The map of stations that moved too often in, the loops that it hints at out (moves.h)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..control_maps import ControlMap, Layout

RECENT_S = 60
"""For so long after the last move that was not followed it is told of."""

_MOVER = Layout.of("Mover", "due:Q held_until:Q refused:Q key:Q ports:Q when:Q")
_TIME_SHIFT = 4  # BUCKET_TIME_SHIFT
_MAC_BITS = 48
_PORT_BITS = 16


class Loop(Struct, frozen=True):
    """A station that moves between two ports too often; `moves` of it were not followed, the last `ago_s` ago.

    `moves` counts those of other stations that share its bucket, too. `vlan` is None on a bridge without VLANs.
    """

    mac: str
    vlan: int | None
    ports: tuple[str, str]
    moves: int
    ago_s: int

    def __str__(self) -> str:
        vlan = f" in VLAN {self.vlan}" if self.vlan else ""
        was, now = self.ports
        moves = "1 move was" if self.moves == 1 else f"{self.moves:,} moves were"
        return f"{self.mac}{vlan} moves between {was} and {now}: {moves} not followed, the last {self.ago_s} s ago"


def loops(movers: ControlMap, ports: Sequence[str]) -> tuple[Loop, ...]:
    """Those of the last minute, the latest first."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    found = (_loop(mover, ports, now) for mover in _recent(movers, now))
    return tuple(sorted(found, key=lambda loop: (loop.ago_s, loop.mac)))


def _recent(movers: ControlMap, now: int) -> Iterator[tuple[int, ...]]:
    content = movers.memory()
    for at in range(0, len(content), _MOVER.size):
        mover = _MOVER.unpack(content[at : at + _MOVER.size])
        if mover.refused and now - (mover.when >> _TIME_SHIFT) <= RECENT_S * 10**9:
            yield mover


def _loop(mover: tuple[int, ...], ports: Sequence[str], now: int) -> Loop:
    _, _, refused, key, both, when = mover
    return Loop(
        mac=(key & (1 << _MAC_BITS) - 1).to_bytes(6, "little").hex(":"),
        vlan=key >> _MAC_BITS or None,
        ports=(ports[both & (1 << _PORT_BITS) - 1], ports[both >> _PORT_BITS]),
        moves=refused,
        ago_s=max(0, now - (when >> _TIME_SHIFT)) // 10**9,
    )
