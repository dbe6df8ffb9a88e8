"""A router's neighbours in a map for other ports or of a newer layout: each stays on its port, known by its name."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.services.router import NEIGHBOUR, NEIGHBOUR_KEY

from ..migrate import Entries, Migration, Moved, Table

_PORT_SIZE = 4  # the end of either key
_LAYOUT = ("router", "neighbours/1")
_VALUE_SIZES = (NEIGHBOUR.size, NEIGHBOUR.size + 4)
"""Values as they are now, and as they were with a word behind them, the time of confirmation."""


def migration(old: Table, new: Table) -> Migration | None:
    """For other ports, and from the layout before this one."""
    if any(tuple(table.record.meaning.split()[:2]) != _LAYOUT for table in (old, new)):
        return None
    if new.record.key_size not in {key.size for key in NEIGHBOUR_KEY.values()}:
        return None
    if new.record.value_size != NEIGHBOUR.size or old.record.value_size not in _VALUE_SIZES:
        return None
    if old.record.key_size != new.record.key_size:
        return None
    ports = {index: new.ports.index(name) for index, name in enumerate(old.ports) if name in new.ports}
    return Migration(lambda entries: Moved(_renumbered(entries, ports)))


def _renumbered(entries: Entries, ports: Mapping[int, int]) -> Entries:
    moved = {}
    for key, value in entries.items():
        port = ports.get(int.from_bytes(key[-_PORT_SIZE:], "little"))
        if port is not None:
            moved[key[:-_PORT_SIZE] + port.to_bytes(_PORT_SIZE, "little")] = value[: NEIGHBOUR.size]
    return moved
