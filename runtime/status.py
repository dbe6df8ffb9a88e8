"""What bpffs and the kernel say in, what people and programs want to know of a running chain out.

`status_data` gives it as plain data: chain, generation, source, interfaces, services with their ports and counts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from schemas.counters import COUNTER_SIZE, CounterLayout
from schemas.manifest import Manifest, MapRecord, Mode, Role, ServiceRecord

from . import features, sys
from .pin import bpffs_root, chains
from .state import LiveChain, LiveGeneration, attach_points, not_running, read
from .steps import explained
from .uapi import MapType

JSON_FORMAT = 1
_COUNTER = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Count:
    """Packets, and the bytes of their frames."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.bytes + other.bytes)

    def __bool__(self) -> bool:
        return bool(self.packets or self.bytes)


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """An attach point. `state` is `attached`, or says what is wrong; `program` is empty where none of ours runs."""

    name: str
    device: str
    netns: str | None
    mode: Mode
    program: str
    prog_id: int
    state: str


@dataclass(frozen=True, slots=True)
class PortStatus:
    """A port: what came in by it and what went out, and what became of the rest. Zero counts of drops are left out."""

    name: str
    received: Count
    sent: Count
    to_host: Count
    drops: Mapping[str, Count]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service. `labelled` are its counters by what they count, `block.sources 198.51.100.0/24`; those at zero too."""

    name: str
    kind: str
    ports: tuple[PortStatus, ...]
    labelled: Mapping[str, Count]

    @property
    def drops(self) -> dict[str, Count]:
        """Drops by reason, of all ports together."""
        total: dict[str, Count] = {}
        for port in self.ports:
            for reason, count in port.drops.items():
                total[reason] = total.get(reason, Count()) + count
        return total

    def port(self, name: str) -> PortStatus:
        return next(port for port in self.ports if port.name == name)


@dataclass(frozen=True, slots=True)
class ChainStatus:
    """A chain that runs, or what is left of one. `problems` are worded for people."""

    chain: str
    generation: int | None
    source: str
    version: str
    applied_at: int
    interfaces: tuple[InterfaceStatus, ...]
    services: tuple[ServiceStatus, ...]
    problems: tuple[str, ...]

    def service(self, name: str) -> ServiceStatus:
        return next(service for service in self.services if service.name == name)

    def __str__(self) -> str:
        from .status_text import status_text

        return status_text(self)


@overload
def status(chain: str, *, bpffs: str | Path | None = None) -> ChainStatus: ...
@overload
def status(chain: None = None, *, bpffs: str | Path | None = None) -> tuple[ChainStatus, ...]: ...


@explained("read what runs")
def status(chain: str | None = None, *, bpffs: str | Path | None = None) -> ChainStatus | tuple[ChainStatus, ...]:
    """One chain, or all that run. Raises `LoadFailed` (A109) where the chain does not run."""
    features.require_privilege()
    root = bpffs_root(bpffs)
    if chain is None:
        found = (read(root, name) for name in chains(root))
        return tuple(_chain(live) for live in found if live)
    live = read(root, chain)
    if live is None:
        raise not_running(chain, root)
    return _chain(live)


def _chain(live: LiveChain) -> ChainStatus:
    current = live.current
    problems = [f"{old.pins.path.name} is left over from an interrupted apply or detach" for old in live.leftovers]
    if current is None or current.record is None:
        problems += [current.problem] if current else ["no generation was ever finished"]
        return ChainStatus(live.chain, current.number if current else None, "", "", 0, (), (), tuple(problems))
    manifest = current.record.manifest
    interfaces = tuple(_interfaces(live, current, manifest))
    problems += [f"{found.name}: {found.state}" for found in interfaces if found.state != "attached"]
    if current.pending:
        problems.append("an update in place was interrupted: apply again")
    return ChainStatus(
        chain=live.chain,
        generation=current.number,
        source=manifest.source.file,
        version=manifest.version,
        applied_at=current.record.applied_at,
        interfaces=interfaces,
        services=tuple(_service(current, manifest, service) for service in manifest.services),
        problems=tuple(problems),
    )


def _interfaces(live: LiveChain, current: LiveGeneration, manifest: Manifest) -> Iterator[InterfaceStatus]:
    names = {prog_id: name for found in live.generations for name, prog_id in found.programs.items()}
    for point, program in attach_points(manifest, current.home).values():
        found = live.attachment(point.name)
        if found is None:
            state, prog_id = "nothing of this chain is attached any more", 0
        elif found.ifindex == 0:
            state, prog_id = f"device `{point.device}` is gone", 0
        elif found.prog_id != current.programs.get(program):
            state, prog_id = "it runs a program of another generation: apply again", found.prog_id
        else:
            state, prog_id = "attached", found.prog_id
        yield InterfaceStatus(point.name, point.device, point.netns, point.mode, names.get(prog_id, ""), prog_id, state)


# --- counters -------------------------------------------------------------------------------------------------------


def _service(current: LiveGeneration, manifest: Manifest, service: ServiceRecord) -> ServiceStatus:
    layout = CounterLayout(len(service.ports))
    record = next((record for record in manifest.maps if record.name == service.counters), None)
    rows = _rows(current, record, layout) if record and record.name in current.maps else []
    ports = tuple(_port(service, layout, index, rows) for index in range(len(rows)))
    labelled: dict[str, Count] = {}
    for other in manifest.maps:
        if other.service == service.name and other is not record and counts_entries(other):
            labelled |= _labelled(current, other, service.name)
    return ServiceStatus(service.name, service.kind, ports, labelled)


def _rows(current: LiveGeneration, record: MapRecord, layout: CounterLayout) -> list[list[Count]]:
    """A row of counts for each incoming port."""
    with sys.obj_get(current.pins.map(record.name, record.layout)) as fd:
        contents = [content for _, content in sys.map_entries(fd, record.key_size, _user_size(record))]
    return [_sum_cpus(content, layout.entries) for content in contents]


def _port(service: ServiceRecord, layout: CounterLayout, index: int, rows: list[list[Count]]) -> PortStatus:
    """Received is the sum of the port's row; sent the sum of its column and the floods that came in elsewhere."""
    row = rows[index]
    floods = (other[layout.flood] for at, other in enumerate(rows) if at != index)
    drops = {name: row[layout.drop(number)] for number, name in service.drop_reasons}
    return PortStatus(
        name=service.ports[index],
        received=sum(row, Count()),
        sent=sum((other[index] for other in rows), Count()) + sum(floods, Count()),
        to_host=row[layout.host],
        drops={name: count for name, count in drops.items() if count},
    )


def counts_entries(record: MapRecord) -> bool:
    """Whether each entry of a map is a counter of what the entry stands for.

    It is where the manifest says so (COUNTERS). It is also where a configured entry is nothing but an empty struct
    counter: there is nothing to configure in it, so programs count in it (block lists in a trie).
    """
    if record.value_size != COUNTER_SIZE:
        return False
    empty = bytes(COUNTER_SIZE)
    configured = record.role is Role.CONFIG and all(entry.value == empty for entry in record.entries)
    return bool(record.entries) and (record.role is Role.COUNTERS or configured)


def _labelled(current: LiveGeneration, record: MapRecord, service: str) -> dict[str, Count]:
    if record.name not in current.maps:
        return {}
    with sys.obj_get(current.pins.map(record.name, record.layout)) as fd:
        found = dict(sys.map_entries(fd, record.key_size, _user_size(record)))
    return {
        entry.path.removeprefix(f"{service}."): _sum_cpus(found[entry.key], 1)[0]
        for entry in record.entries
        if entry.key in found
    }


def _user_size(record: MapRecord) -> int:
    return sys.user_value_size(MapType[record.type], record.value_size)


def _sum_cpus(content: bytes, entries: int) -> list[Count]:
    """One value, or one for each CPU, of `entries` counters each; summed over CPUs."""
    totals = [Count()] * entries
    for at, (packets, size) in enumerate(_COUNTER.iter_unpack(content)):
        if packets or size:
            totals[at % entries] += Count(packets, size)
    return totals


# --- for programs ---------------------------------------------------------------------------------------------------


def status_data(found: ChainStatus) -> dict[str, Any]:
    """The status as plain data. A count is `{"packets": N, "bytes": N}`; `state` is `attached` if all is well."""
    return {
        "chain": found.chain,
        "generation": found.generation,
        "source": found.source,
        "version": found.version,
        "applied_at": found.applied_at,
        "interfaces": [
            {
                "name": interface.name,
                "device": interface.device,
                "netns": interface.netns,
                "mode": interface.mode.value,
                "program": interface.program or None,
                "prog_id": interface.prog_id or None,
                "state": interface.state,
            }
            for interface in found.interfaces
        ],
        "services": [_service_data(service) for service in found.services],
        "problems": list(found.problems),
    }


def _service_data(service: ServiceStatus) -> dict[str, Any]:
    return {
        "name": service.name,
        "kind": service.kind,
        "ports": [
            {
                "name": port.name,
                "received": _count_data(port.received),
                "sent": _count_data(port.sent),
                "to_host": _count_data(port.to_host),
                "drops": {reason: _count_data(count) for reason, count in port.drops.items()},
            }
            for port in service.ports
        ],
        "counters": {label: _count_data(count) for label, count in service.labelled.items()},
    }


def _count_data(count: Count) -> dict[str, int]:
    return {"packets": count.packets, "bytes": count.bytes}
