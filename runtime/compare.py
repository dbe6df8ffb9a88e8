"""Two versions of a map in, whether the running one can go on, or its entries can, out."""

from __future__ import annotations

from collections.abc import Collection, Set

from schemas.manifest import Manifest, MapRecord, Role


def stays(running: MapRecord, wanted: MapRecord) -> bool:
    """Whether new programs can go on with a running map as it is."""
    if wanted.role in (Role.LINKS, Role.SCRATCH) or running.role is not wanted.role or not same_shape(running, wanted):
        return False
    if running.filled != wanted.filled:
        return False
    return wanted.role is Role.STATE or contents(running) == contents(wanted)


def refilled(wanted: Manifest, running: Manifest, pinned: Collection[str]) -> Set[str | None]:
    """Services whose filled maps are made anew, as they all are where one of them cannot stay."""
    before = {record.name: record for record in running.maps if record.name in pinned}
    return {
        record.service
        for record in wanted.maps
        if record.filled and not (record.name in before and stays(before[record.name], record))
    }


def same_shape(running: MapRecord, wanted: MapRecord) -> bool:
    """Whether two maps are of one type and size and their entries mean the same."""
    return _shape(running) == _shape(wanted)


def _shape(record: MapRecord) -> tuple[object, ...]:
    return (record.type, record.key_size, record.value_size, record.max_entries, record.flags, record.layout)


def contents(record: MapRecord) -> dict[bytes, tuple[bytes, str]]:
    """Entries by key; of counters, their labels."""
    return {e.key: (e.value, e.path if record.role is Role.COUNTERS else "") for e in record.entries}


def same_entries(running: MapRecord, wanted: MapRecord) -> bool:
    """Whether entries of the one map can stand in the other, whatever room there is."""
    return _shape(running)[:3] == _shape(wanted)[:3] and running.layout == wanted.layout
