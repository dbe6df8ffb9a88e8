"""What bpffs and the kernel say in, what people and programs want to know of a running chain out.

`status_data` gives it as plain data: chain, generation, source, interfaces, services with their ports and counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from msgspec import Struct, field, to_builtins

from schemas.counters import Count
from schemas.manifest import Manifest, Mode, ServiceRecord

from . import features
from .bpffs import bpffs_root
from .counts import totals
from .daemon_socket import daemon_status
from .pin import ChainPins, chain_pins, chains
from .state import LiveChain, LiveGeneration, attach_points, not_running, read, steadily
from .steps import explained
from .tally import Tally, label_of
from .trial import is_guarded, read_trial

if TYPE_CHECKING:
    from .describe import Findings

JSON_FORMAT = 1
NO_DAEMON = "no daemon"


class InterfaceStatus(Struct, frozen=True):
    """An attach point. `state` is `attached`, or says what is wrong; `program` is empty where none of ours runs."""

    name: str
    device: str
    netns: str | None
    mode: Mode
    program: str
    prog_id: int
    state: str


class PortStatus(Struct, frozen=True):
    """A port: what came in by it and what went out, and what became of the rest. Zero counts of drops are left out.

    `note` is what the service's run-time side says of it (`root, forwarding`).
    """

    name: str
    received: Count
    sent: Count
    to_host: Count
    drops: Mapping[str, Count]
    note: str = ""


class ServiceStatus(Struct, frozen=True):
    """A service. `labelled` are its counters by what they count, `block.sources 198.51.100.0/24`; those at zero too.

    `control_plane` is None where it needs none; else `running`, `failed`, or `no daemon` where none serves it. `facts`
    are what its kind says of it, plain data; `lines` the same for people.
    """

    name: str
    kind: str
    ports: tuple[PortStatus, ...]
    labelled: Mapping[str, Count]
    control_plane: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

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


class TrialStatus(Struct, frozen=True):
    """What is being tried: generation `number` instead of `back` (None: nothing). `guarded`: it goes back by itself."""

    number: int
    back: int | None
    seconds_left: float
    guarded: bool


class ChainStatus(Struct, frozen=True):
    """A chain that runs, or what is left of one. `problems` are worded for people.

    `source` is the chain file's name, `version` that of the bpfchain that compiled it; `applied_at` is in seconds of
    Unix time. Of a generation that cannot be read there are only the problems; None: none was ever finished.
    """

    chain: str
    generation: int | None
    source: str
    version: str
    applied_at: int
    interfaces: tuple[InterfaceStatus, ...]
    services: tuple[ServiceStatus, ...]
    problems: tuple[str, ...]
    trial: TrialStatus | None = None

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
        return tuple(found for name in chains(root) if (found := _looked_at(root, name)))
    found = _looked_at(root, chain)
    if found is None:
        raise not_running(chain, root)
    return found


def _looked_at(root: Path, chain: str) -> ChainStatus | None:
    """One chain; None if nothing of it runs."""
    pins = chain_pins(root, chain)

    def look() -> ChainStatus | None:
        live = read(root, chain)
        return _chain(live, pins, _served(root, live)) if live else None

    return steadily(pins, look)


class _Served(Struct, frozen=True):
    """A control plane that the daemon runs, and what it says that somebody should look at."""

    state: str
    problems: tuple[str, ...] = ()


def _served(root: Path, live: LiveChain) -> Mapping[str, _Served]:
    """The control planes that the daemon runs, by service; it is not asked where none is needed."""
    record = live.current.record if live.current else None
    if record is None or all(service.control is None for service in record.manifest.services):
        return {}
    services = ((daemon_status(root) or {}).get("chains", {}).get(live.chain) or {}).get("services", {})
    return {name: _Served(found["state"], tuple(found.get("problems", ()))) for name, found in services.items()}


def _chain(live: LiveChain, pins: ChainPins, served: Mapping[str, _Served]) -> ChainStatus:
    current = live.current
    problems = [f"{old.pins.path.name} is left over from an interrupted apply or detach" for old in live.abandoned]
    problems += [live.unreadable] if live.unreadable else []
    if live.recorded and live.recorded.kept and any(found.mode is Mode.TC for _, found in live.recorded.replaced):
        problems.append("what a try replaced that is confirmed may still be there: apply again")
    trial = _trial(live, pins)
    if trial and not trial.guarded:
        problems.append(_unguarded(live.chain, trial))
    if current is None or current.record is None:
        problems += [current.problem] if current else ["no generation was ever finished"]
        return ChainStatus(live.chain, current.number if current else None, "", "", 0, (), (), tuple(problems), trial)
    manifest = current.record.manifest
    interfaces = tuple(_interfaces(live, current, manifest))
    problems += [f"{found.name}: {found.state}" for found in interfaces if found.state != "attached"]
    tally = totals(live)
    notes, failures = _notes(current, manifest)
    problems += failures
    findings, failures = _findings(current, manifest)
    problems += [problem for found in findings.values() for problem in found.problems.values()]
    problems += [f"{name}: {problem}" for name, found in served.items() for problem in found.problems]
    problems += failures
    services = tuple(
        _service(manifest, service, tally, served, notes, findings[service.name]) for service in manifest.services
    )
    unserved = [service.name for service in services if service.control_plane == NO_DAEMON]
    if unserved:
        problems.append(f"no daemon serves {', '.join(unserved)}: `bpfchain daemon`")
    problems += [f"the control plane of {s.name} has failed" for s in services if s.control_plane == "failed"]
    if current.pending:
        problems.append("an update in place was interrupted: apply again")
    return ChainStatus(
        chain=live.chain,
        generation=current.number,
        source=manifest.source.file,
        version=manifest.version,
        applied_at=current.record.applied_at,
        interfaces=interfaces,
        services=services,
        problems=tuple(problems),
        trial=trial,
    )


def _trial(live: LiveChain, pins: ChainPins) -> TrialStatus | None:
    trial, guarded = live.trial, is_guarded(pins)
    if trial is None or (not guarded and read_trial(pins) != trial):  # it has just ended
        return None
    return TrialStatus(trial.number, trial.back, trial.seconds_left, guarded)


def _unguarded(chain: str, trial: TrialStatus) -> str:
    return (
        f"generation {trial.number} is being tried, and its guard was killed, so nobody goes back: "
        f"`bpfchain confirm {chain}` keeps it, `bpfchain abort {chain}` or the next apply goes back"
    )


def _interfaces(live: LiveChain, current: LiveGeneration, manifest: Manifest) -> Iterator[InterfaceStatus]:
    names = {prog_id: name for found in live.generations for name, prog_id in found.programs.items()}
    for point, program in attach_points(manifest, current.home).values():
        found = live.attachment(point.name)
        if found is None:
            state, prog_id = "nothing of this chain is attached any more", 0
        elif found.trouble:
            state, prog_id = found.trouble, found.prog_id if found.ifindex else 0
        elif point.name in current.empty_slots:
            lost = "nothing is sent to it any more since its device was elsewhere for a while: apply again"
            state, prog_id = lost, found.prog_id
        elif found.prog_id != current.programs.get(program):
            state, prog_id = "it runs a program of another generation: apply again", found.prog_id
        else:
            state, prog_id = "attached", found.prog_id
        yield InterfaceStatus(point.name, point.device, point.netns, point.mode, names.get(prog_id, ""), prog_id, state)


# --- counters -------------------------------------------------------------------------------------------------------


Notes = Mapping[tuple[str, str], str]
"""What there is to say of a port, by (service, port)."""


def _notes(current: LiveGeneration, manifest: Manifest) -> tuple[Notes, list[str]]:
    """Of every port, and what went wrong in the modules that were asked: `status` tells what it can all the same."""
    notes: dict[tuple[str, str], str] = {}
    failures = []
    for service in manifest.services:
        if service.control is None:
            continue
        from .describe import describe_ports  # control planes are imported only where there are some

        try:
            found = describe_ports(current.pins, manifest, service)
        except OSError:
            raise
        except Exception as error:
            failures.append(f"the control plane of {service.name} cannot describe its ports: {error!r}")
        else:
            notes |= {(service.name, port): note for port, note in found.items()}
    return notes, failures


def _findings(current: LiveGeneration, manifest: Manifest) -> tuple[dict[str, Findings], list[str]]:
    """Of every service by its name, and what went wrong in the modules that were asked."""
    from .describe import NOTHING, inspect

    found: dict[str, Findings] = {}
    failures = []
    for service in manifest.services:
        try:
            found[service.name] = inspect(current.pins, manifest, service)
        except OSError:
            raise
        except Exception as error:
            failures.append(f"the maps of {service.name} cannot be read: {error!r}")
            found[service.name] = NOTHING
    return found, failures


def _service(
    manifest: Manifest,
    service: ServiceRecord,
    tally: Tally,
    served: Mapping[str, _Served],
    notes: Notes,
    found: Findings,
) -> ServiceStatus:
    told = {port: [notes.get((service.name, port), ""), found.notes.get(port, "")] for port in service.ports}
    counted = any((service.name, port, "received") in tally for port in service.ports)
    return ServiceStatus(
        name=service.name,
        kind=service.kind,
        ports=tuple(_port(service, port, tally, told[port]) for port in service.ports) if counted else (),
        labelled={
            label: tally.get((service.name, "", label), Count())
            for record in manifest.maps
            if record.counts and record.service == service.name
            for label in (label_of(record, entry.path) for entry in record.entries)
        },
        control_plane=None if service.control is None else served.get(service.name, _Served(NO_DAEMON)).state,
        facts=found.facts,
        lines=found.lines,
    )


def _port(service: ServiceRecord, port: str, tally: Tally, notes: Iterable[str]) -> PortStatus:
    def count(what: str) -> Count:
        return tally.get((service.name, port, what), Count())

    drops = {name: count(f"drop {name}") for _, name in service.drop_reasons}
    return PortStatus(
        name=port,
        received=count("received"),
        sent=count("sent"),
        to_host=count("to host"),
        drops={name: found for name, found in drops.items() if found},
        note=", ".join(filter(None, notes)),
    )


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
        "trial": to_builtins(found.trial) if found.trial else None,
    }


def _service_data(service: ServiceStatus) -> dict[str, Any]:
    return {
        "name": service.name,
        "kind": service.kind,
        "control_plane": service.control_plane,
        "ports": [
            {
                "name": port.name,
                "note": port.note or None,
                "received": _count_data(port.received),
                "sent": _count_data(port.sent),
                "to_host": _count_data(port.to_host),
                "drops": {reason: _count_data(count) for reason, count in port.drops.items()},
            }
            for port in service.ports
        ],
        "counters": {label: _count_data(count) for label, count in service.labelled.items()},
        "facts": dict(service.facts),
    }


def _count_data(count: Count) -> dict[str, int]:
    return {"packets": count.packets, "bytes": count.bytes}
