"""Counters in maps in, counts by name out: what a port received, what an entry of a list counted.

Names outlive layouts: counts of maps that a reload retires go on under their names, wherever they are counted from then
on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from schemas.counters import Count, CounterLayout
from schemas.manifest import Manifest, MapRecord, ServiceRecord

from . import sys
from .uapi import MapType

CountName = tuple[str, str, str]
"""(service, port, what): `received`, `sent`, `to host` or `drop REASON` of a port; (service, "", label) of an entry."""

Tally = Mapping[CountName, Count]

_COUNTER = struct.Struct("<QQ")


def counted_maps(manifest: Manifest) -> Iterator[MapRecord]:
    """Every map that `read_tally` reads."""
    rows = {service.counters for service in manifest.services}
    return (record for record in manifest.maps if record.name in rows or record.counts)


def read_tally(manifest: Manifest, record: MapRecord, fd: sys.AnyFd) -> Tally:
    """What one map of a chain has counted up to now."""
    size = sys.user_value_size(MapType[record.type], record.value_size)
    content = dict(sys.map_entries(fd, record.key_size, size))
    if record.counts:
        return _labelled(record, content)
    service = next(service for service in manifest.services if service.counters == record.name)
    layout = CounterLayout(len(service.ports))
    return _ports(service, layout, [_sum_cpus(content[key], layout.entries) for key in sorted(content, key=_index)])


def added(*tallies: Tally) -> Tally:
    """Count by count."""
    total: dict[CountName, Count] = {}
    for tally in tallies:
        for name, count in tally.items():
            total[name] = total.get(name, Count()) + count
    return total


def surviving(tally: Tally, then: Manifest, now: Manifest) -> Tally:
    """What of a tally is of services, ports and entries that are in the chain now as they were then."""
    kinds = {(service.name, service.kind) for service in then.services}
    services = {service.name: service for service in now.services if (service.name, service.kind) in kinds}
    labels = set(_labels(now))
    return {name: count for name, count in tally.items() if _is_of(name, services, labels)}


def label_of(record: MapRecord, path: str) -> str:
    """`guard.block.sources 198.51.100.0/24` without the service."""
    return path.removeprefix(f"{record.service}.")


def _is_of(name: CountName, services: Mapping[str, ServiceRecord], labels: set[CountName]) -> bool:
    service = services.get(name[0])
    return service is not None and (name[1] in service.ports if name[1] else name in labels)


def _labels(manifest: Manifest) -> Iterator[CountName]:
    for record in manifest.maps:
        if record.counts:
            yield from ((record.service or "", "", label_of(record, entry.path)) for entry in record.entries)


def _labelled(record: MapRecord, content: Mapping[bytes, bytes]) -> Tally:
    return {
        (record.service or "", "", label_of(record, entry.path)): _sum_cpus(content[entry.key], 1)[0]
        for entry in record.entries
        if entry.key in content
    }


def _ports(service: ServiceRecord, layout: CounterLayout, rows: list[list[Count]]) -> Tally:
    """Received is the sum of the port's row; sent the sum of its column and the floods that came in elsewhere.

    Where copies of floods are counted, those that left by the port are in its own row and column instead.
    """
    counts: dict[CountName, Count] = {}
    for index, (port, row) in enumerate(zip(service.ports, rows, strict=True)):
        sent = [other[index] for other in rows]
        copies = service.counts_copies
        floods = [other[layout.flood] for at, other in enumerate(rows) if at != index and not copies]
        received = [count for at, count in enumerate(row) if at != index or not copies]
        counts[service.name, port, "received"] = _sum(received)
        counts[service.name, port, "sent"] = _sum([*sent, *floods])
        counts[service.name, port, "to host"] = row[layout.host]
        for number, reason in service.drop_reasons:
            counts[service.name, port, f"drop {reason}"] = row[layout.drop(number)]
    return counts


def _sum(counts: Iterable[Count]) -> Count:
    return sum(counts, Count())


def _index(key: bytes) -> int:
    return int.from_bytes(key, "little")


def _sum_cpus(content: bytes, entries: int) -> list[Count]:
    """One value, or one for each CPU, of `entries` counters each; summed over CPUs."""
    totals = [Count()] * entries
    for at, (packets, size) in enumerate(_COUNTER.iter_unpack(content)):
        if packets or size:
            totals[at % entries] += Count(packets, size)
    return totals
