"""A `ChainStatus` in, the text that people read out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from schemas.counters import Count

from .status import ChainStatus, InterfaceStatus, PortStatus, ServiceStatus
from .text import size, table

_LABELS_SHOWN = 10


def status_text(status: ChainStatus) -> str:
    """The chain, its interfaces, and a table of each service's ports."""
    lines = [_headline(status)]
    lines += _trial(status)
    lines += [f"  ! {problem}" for problem in status.problems]
    if status.interfaces:
        lines += ["", *_interfaces(status.interfaces)]
    for service in status.services:
        lines += ["", _service(service), *_lines(service), *_ports(service.ports), *_labels(service)]
    return "\n".join(lines) + "\n"


def _service(service: ServiceStatus) -> str:
    control = f", control plane: {service.control_plane}" if service.control_plane else ""
    return f"{service.name} ({service.kind}){control}"


def _lines(service: ServiceStatus) -> Iterator[str]:
    return (f"  {line}" for line in service.lines)


def _headline(status: ChainStatus) -> str:
    if not status.applied_at:
        return f"chain {status.chain}: cannot be read"
    applied = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.applied_at))
    return f"chain {status.chain}: generation {status.generation} of {status.source}, applied {applied}"


def _trial(status: ChainStatus) -> Iterator[str]:
    """A try that is guarded; one that is not is among the problems."""
    if status.trial and status.trial.guarded:
        back = f"goes back to {status.trial.back}" if status.trial.back is not None else "goes away"
        yield f"  on trial: {back} in {status.trial.seconds_left:.0f} s, unless `bpfchain confirm {status.chain}`"


def _interfaces(interfaces: Sequence[InterfaceStatus]) -> Iterator[str]:
    rows = [["interface", "device", "mode", "program", "state"]]
    for found in interfaces:
        device = f"{found.device} in {found.netns}" if found.netns else found.device
        program = f"{found.program} ({found.prog_id})" if found.program else "-"
        rows.append([found.name, device, found.mode, program, found.state])
    yield from table(rows)


def _ports(ports: Sequence[PortStatus]) -> Iterator[str]:
    rows = [["  port", "received", "", "sent", "", "dropped", "", ""]]
    for port in ports:
        dropped = sum(port.drops.values(), Count())
        reasons = ", ".join(f"{reason} {count.packets:,}" for reason, count in port.drops.items())
        counts = [*_count(port.received), *_count(port.sent), f"{dropped.packets:,}", reasons]
        rows.append([f"  {port.name}", *counts, port.note])
    yield from table(rows, right={1, 2, 3, 4, 5})


def _labels(service: ServiceStatus) -> Iterator[str]:
    """The entries that count most."""
    busy = [(label, count) for label, count in service.labelled.items() if count]
    busy.sort(key=lambda item: (-item[1].packets, item[0]))
    rows = [[f"  {label}", *_count(count)] for label, count in busy[:_LABELS_SHOWN]]
    if rows:
        yield from table(rows, right={1, 2})
    if len(busy) > _LABELS_SHOWN:
        yield f"  and {len(busy) - _LABELS_SHOWN} more entries"


def _count(count: Count) -> tuple[str, str]:
    return f"{count.packets:,}", size(count.bytes)
