"""What a chain file says of a bridge's spanning tree in, its parameters out (IEEE 802.1D-2004 17.13, 17.14)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from schemas.diagnostic import Span

from ...addresses import parse_duration
from ...model import Port
from ...source import Report, Value

BRIDGE_PRIORITY_STEP, PORT_PRIORITY_STEP = 4096, 16  # the bits below belong to system id and port number (9.2.5, 9.2.7)
_SECOND = timedelta(seconds=1)


class PortStp(Struct, frozen=True):
    """One port. `cost` None: by the speed of its device; `edge` None: to be found out; `point_to_point` None: by its
    duplex."""

    cost: int | None = None
    priority: int = 128
    edge: bool | None = None
    point_to_point: bool | None = None
    bpdu_guard: bool = False
    root_guard: bool = False
    bpdu_filter: bool = False


class Stp(Struct, frozen=True):
    """A bridge's spanning tree; times in seconds, `ports` by name."""

    rapid: bool
    priority: int
    hello: int
    max_age: int
    forward_delay: int
    ports: Mapping[str, PortStp]
    span: Span


def resolve_stp(value: Value, ports: tuple[Port, ...], report: Report) -> Stp | None:
    """The spanning tree of a bridge; None where it has none. Reports C113, C214, C422 to C425."""
    given = value.get("stp")
    port_values = {port.name: value.get("ports", port.name, "stp") for port in ports}
    if given is None:
        for each in port_values.values():
            if each is not None:
                message, label = "spanning tree of a port, but none of its bridge", "means nothing without the bridge's"
                report.error("C424", message, each.key_span, label=label, help="write `stp: {}` at the bridge as well")
        return None
    stp = Stp(
        rapid=_data(given, "protocol", "rstp") == "rstp",
        priority=_priority(given, BRIDGE_PRIORITY_STEP, 32768, report),
        hello=_seconds(given, "hello", 2, (1, 10), report),
        max_age=_seconds(given, "max-age", 20, (6, 40), report),
        forward_delay=_seconds(given, "forward-delay", 15, (2, 30), report),
        ports={name: _port(each, report) if each else PortStp() for name, each in port_values.items()},
        span=given.key_span,
    )
    _check_times(stp, given, report)
    return stp


def _port(value: Value, report: Report) -> PortStp:
    guard, filtered = value.get("bpdu-guard"), value.get("bpdu-filter")
    if guard and guard.data and filtered and filtered.data:
        message, label = "`bpdu-guard` on a port that hears no BPDUs", "never sees one"
        notes = (f"`bpdu-filter` is at {filtered.key_span}",)
        report.error("C425", message, guard.key_span, label=label, notes=notes, help="remove one of the two")
    return PortStp(
        cost=_data(value, "cost", None),
        priority=_priority(value, PORT_PRIORITY_STEP, 128, report),
        edge=_unless_auto(value, "edge"),
        point_to_point=_unless_auto(value, "point-to-point"),
        bpdu_guard=_data(value, "bpdu-guard", False),
        root_guard=_data(value, "root-guard", False),
        bpdu_filter=_data(value, "bpdu-filter", False),
    )


def _unless_auto(value: Value, key: str) -> bool | None:
    found: bool | str = _data(value, key, "auto")
    return None if isinstance(found, str) else found


def _data(value: Value, key: str, default: Any) -> Any:
    found = value.get(key)
    return default if found is None else found.data


def _priority(value: Value, step: int, default: int, report: Report) -> int:
    found = value.get("priority")
    if found is None:
        return default
    priority: int = found.data
    if priority % step:
        near = round(priority / step) * step
        message, label = f"priority {priority} is no multiple of {step}", f"steps of {step}"
        report.error("C422", message, found.span, label=label, help=f"write `{near}`")
    return priority


def _seconds(value: Value, key: str, default: int, bounds: tuple[int, int], report: Report) -> int:
    found = value.get(key)
    if found is None:
        return default
    least, most = bounds
    time = parse_duration(found, report, least=least * _SECOND, most=most * _SECOND)
    if time is None:
        return default
    if time % _SECOND:
        near = max(least, round(time / _SECOND))
        message = f"`{found.data}` is not a whole number of seconds"
        report.error("C422", message, found.span, label="timers count seconds", help=f"write `{near}s`")
    return time // _SECOND


def _check_times(stp: Stp, given: Value, report: Report) -> None:
    """17.14: information may cross the whole network before anybody opens a port, and may miss a BPDU on its way."""
    for wrong, key, reason in _contradictions(stp):
        found = given.get(key)
        span = found.span if found else stp.span
        if wrong:
            report.error("C423", f"timers contradict each other: {reason}", span, label="see 802.1D-2004 17.14")


def _contradictions(stp: Stp) -> Iterator[tuple[bool, str, str]]:
    least_delay = -(-stp.max_age // 2) + 1
    yield (
        2 * (stp.forward_delay - 1) < stp.max_age,
        "forward-delay",
        f"with a `max-age` of {stp.max_age}s, `forward-delay` is {least_delay}s or more",
    )
    yield (
        stp.max_age < 2 * (stp.hello + 1),
        "max-age",
        f"with a `hello` of {stp.hello}s, `max-age` is {2 * (stp.hello + 1)}s or more",
    )


def control(stp: Stp) -> dict[str, object]:
    """What the control plane needs to know (runtime/services/bridge.py): the fields by their names."""
    return {
        "rapid": stp.rapid,
        "priority": stp.priority,
        "hello": stp.hello,
        "max_age": stp.max_age,
        "forward_delay": stp.forward_delay,
        "ports": {name: asdict(port) for name, port in stp.ports.items()},
    }
