"""Counters of a running generation in, the same counts in a new generation's maps out: known by name, not by place.

Needed only where a map is made anew, because ports or labelled entries are others than before; the same map is simply
kept. What the old generation counts between this and the swap is not carried over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from schemas.counters import COUNTER_SIZE, CounterLayout
from schemas.manifest import MapRecord, ServiceRecord

from . import sys
from .uapi import MapType

_INDEX_SIZE = 4


def carry_rows(old: ServiceRecord, old_fd: sys.Fd, new: ServiceRecord, new_fd: sys.Fd) -> None:
    """A service's own counters: rows by incoming port, counters in them by outgoing port or drop reason."""
    before, after = dict(_columns(old)), dict(_columns(new))
    moves = [(before[name] * COUNTER_SIZE, after[name] * COUNTER_SIZE) for name in before.keys() & after.keys()]
    old_size, new_size = CounterLayout(len(old.ports)).size, CounterLayout(len(new.ports)).size
    for index, port in enumerate(new.ports):
        if port not in old.ports:
            continue
        counted = _row(old_fd, old.ports.index(port), old_size)
        row = bytearray(new_size * sys.possible_cpus())
        for cpu in range(sys.possible_cpus()):
            for source, target in moves:
                at = cpu * old_size + source
                row[cpu * new_size + target : cpu * new_size + target + COUNTER_SIZE] = counted[at : at + COUNTER_SIZE]
        sys.map_update_elem(new_fd, _key(index), bytes(row))


def carry_labelled(old: MapRecord, old_fd: sys.Fd, new: MapRecord, new_fd: sys.Fd) -> None:
    """A map whose entries are labels: each element goes where its label is now."""
    keys = {entry.path: entry.key for entry in old.entries}
    found = dict(_all(old, old_fd))
    pairs = [(entry.key, found.get(keys.get(entry.path, b""))) for entry in new.entries]
    carried = [(key, value) for key, value in pairs if value is not None]
    sys.map_update_batch(new_fd, [key for key, _ in carried], [value for _, value in carried])


def carried_entries(old: MapRecord, old_fd: sys.Fd, new: MapRecord) -> Mapping[bytes, bytes]:
    """First content of a configured map, with what programs wrote into the entries that are the same as before."""
    same = {entry.key: entry.value for entry in old.entries}.items() & {e.key: e.value for e in new.entries}.items()
    running = dict(_all(old, old_fd)) if same else {}
    unchanged = {key for key, _ in same}
    return {
        entry.key: running.get(entry.key, entry.value) if entry.key in unchanged else entry.value
        for entry in new.entries
    }


def _columns(service: ServiceRecord) -> Iterator[tuple[tuple[str, str], int]]:
    layout = CounterLayout(len(service.ports))
    yield from ((("port", port), index) for index, port in enumerate(service.ports))
    yield ("flood", ""), layout.flood
    yield ("host", ""), layout.host
    yield ("slow path", ""), layout.slow_path
    yield from ((("drop", name), layout.drop(number)) for number, name in service.drop_reasons)


def _all(record: MapRecord, fd: sys.Fd) -> Iterator[tuple[bytes, bytes]]:
    size = sys.user_value_size(MapType[record.type], record.value_size)
    return sys.map_entries(fd, record.key_size, size)


def _row(fd: sys.Fd, index: int, size: int) -> bytes:
    return sys.map_lookup_elem(fd, _key(index), size * sys.possible_cpus()) or bytes(size * sys.possible_cpus())


def _key(index: int) -> bytes:
    return index.to_bytes(_INDEX_SIZE, "little")
