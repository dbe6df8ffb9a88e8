"""A router's neighbours in a map for other ports: each stays on its port, known by the port's name."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.services.router import NEIGHBOUR, NEIGHBOUR_KEY

from ..migrate import Entries, Migration, Moved, Table

_PORT_SIZE = 4  # the end of either key


def migration(old: Table, new: Table) -> Migration | None:
    """For other ports."""
    known = ("router", "neighbours/1")
    if any(tuple(table.record.meaning.split()[:2]) != known for table in (old, new)):
        return None
    sizes = {(size.size, NEIGHBOUR.size) for size in NEIGHBOUR_KEY.values()}
    size = (new.record.key_size, new.record.value_size)
    if size not in sizes or size != (old.record.key_size, old.record.value_size):
        return None
    ports = {index: new.ports.index(name) for index, name in enumerate(old.ports) if name in new.ports}
    return Migration(lambda entries: Moved(_renumbered(entries, ports)))


def _renumbered(entries: Entries, ports: Mapping[int, int]) -> Entries:
    moved = {}
    for key, value in entries.items():
        port = ports.get(int.from_bytes(key[-_PORT_SIZE:], "little"))
        if port is not None:
            moved[key[:-_PORT_SIZE] + port.to_bytes(_PORT_SIZE, "little")] = value
    return moved
