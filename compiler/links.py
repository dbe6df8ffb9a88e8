"""The file's `links` in, `Link` values out: every end found, every port and interface linked exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property

from msgspec import Struct, field

from schemas.diagnostic import Span
from schemas.manifest import Hook

from .model import Host, Interface, Link, LinkEnd, Port, ServiceInstance
from .source import Report, Value
from .words import SUGGESTED, closest, listed, show

HOST, FROM_HOST = "host", "from-host"
RESERVED = (HOST, FROM_HOST)  # link ends that no interface or service may be named like


class Ends(Struct, frozen=True, dict=True):
    """What a link can lead to.

    `interfaces` and `services` are those that could be resolved, the `known_…` names all that the file has. Ports of
    the services in `open` are not known (a mistake elsewhere), so any name is taken for one; likewise names of a whole
    section in `missing`.
    """

    interfaces: tuple[Interface, ...]
    services: tuple[ServiceInstance, ...]
    known_interfaces: Mapping[str, Span]
    known_services: Mapping[str, Span]
    open: frozenset[str]
    missing: frozenset[str] = frozenset()

    @cached_property
    def interface(self) -> Mapping[str, Interface]:
        return {interface.name: interface for interface in self.interfaces}

    @cached_property
    def ports(self) -> Mapping[str, Mapping[str, Port]]:
        """Of every service whose ports are known: its ports by name."""
        return {s.name: {port.name: port for port in s.ports} for s in self.services if s.name not in self.open}

    @cached_property
    def by_device(self) -> Mapping[str, str]:
        """The first interface of every device, for links that name the device."""
        return {interface.device: interface.name for interface in reversed(self.interfaces)}

    def linkable(self) -> Iterable[tuple[str, Span]]:
        """All that must be linked once, as a link writes it."""
        yield from ((name, span) for name, span in self.known_interfaces.items() if name not in RESERVED)
        for ports in self.ports.values():
            for port in ports.values():
                yield str(port), port.span


class _Uses(Struct):
    """Where each end was named first.

    What is not named may still be meant: `meant` were misspelt, `astray` counts, by service, wrong ends that may have
    meant any port of it; where a link is `unreadable`, it may have meant anything.
    """

    first: dict[str, Value] = field(default_factory=dict)
    meant: set[str] = field(default_factory=set)
    astray: Counter[str] = field(default_factory=Counter)
    unreadable: bool = False
    dangling: int = 0


def resolve_links(links: Value | None, ends: Ends, report: Report) -> tuple[Link, ...]:
    """Every link whose two ends could be resolved."""
    if links is None or not isinstance(links.data, list):
        return ()
    uses = _Uses()
    resolved = [link for value in links.elements() if (link := _link(value, ends, uses, report)) is not None]
    _check_unlinked(ends, uses, report)
    return tuple(resolved)


def _link(value: Value, ends: Ends, uses: _Uses, report: Report) -> Link | None:
    if not isinstance(value.data, list) or len(value.data) != 2:
        uses.unreadable = True
        return None
    first, second = value.elements()
    if first.data == second.data and first.data not in RESERVED and isinstance(first.data, str):
        message, label = f"{show(first.data)} is linked to itself", "a link joins two different ends"
        report.error("C208", message, value.span, label=label)
        uses.meant.add(first.data)
        return None
    found = [_end(end, ends, uses, report) for end in (first, second)]
    names = [end.data for end in (first, second)]
    if all(name in ends.known_interfaces or name in RESERVED for name in names if isinstance(name, str)):
        _portless(value, names, report)
        return None
    return Link((found[0], found[1]), value.span) if found[0] is not None and found[1] is not None else None


def _portless(value: Value, names: list[object], report: Report) -> None:
    if all(isinstance(name, str) for name in names) and FROM_HOST not in names:
        notes = ("one end at least is a port of a service: without one nothing would look at the packets",)
        report.error("C207", "link without a service", value.span, label="no service at either end", notes=notes)


def _end(value: Value, ends: Ends, uses: _Uses, report: Report) -> LinkEnd | None:
    """The end that `value` names; None where it cannot be told, which has then been reported."""
    text = value.data
    if not isinstance(text, str):
        uses.unreadable = True
        return None
    if text == HOST:
        return Host()
    if text == FROM_HOST:
        notes = ("as a destination, `host` is there: packets go up into the stack",)
        message, label = "packets that this machine sends cannot enter a chain yet", "reserved for them"
        report.error("C218", message, value.span, label=label, notes=notes)
        return None
    name, dot, port = text.partition(".")
    if text in ends.by_device and name not in ends.known_interfaces and name not in ends.known_services:
        _device(value, ends.by_device[text], uses, report)
        return None
    end = _port(value, name, port, ends, uses, report) if dot else _interface(value, ends, uses, report)
    if text in ends.known_interfaces or name in ends.known_services:
        _use(value, bool(dot), uses, report)
    return end


def _use(value: Value, is_port: bool, uses: _Uses, report: Report) -> None:
    first = uses.first.setdefault(value.data, value)
    if first is not value:
        code, what = ("C203", "port") if is_port else ("C205", "interface")
        message, notes = f"{what} {show(value.data)} is linked twice", (f"first linked at {first.span}",)
        report.error(code, message, value.span, label="the second link", notes=notes)


def _interface(value: Value, ends: Ends, uses: _Uses, report: Report) -> Interface | None:
    name = value.data
    if name in ends.known_interfaces:
        return ends.interface.get(name)
    if name in ends.known_services:
        ports = ends.ports.get(name, {})
        free = [port for port in ports if f"{name}.{port}" not in uses.first]
        uses.astray[name] += 1
        report.error(
            "C202",
            f"{show(name)} is a service, a link leads to one of its ports",
            value.span,
            label="which port?",
            notes=(f"its ports: {listed(ports)}",) if ports else (),
            help=f"for example `{name}.{free[0]}`" if free else "",
        )
        return None
    if "interfaces" not in ends.missing:
        _dangling(value, "interface", name, [*ends.known_interfaces, HOST], uses, report)
    return None


def _device(value: Value, interface: str, uses: _Uses, report: Report) -> None:
    """A device's name may hold a dot (`eth0.100`), so it is looked for before the end is taken apart."""
    uses.meant.add(interface)
    message, label = f"link to unknown interface {show(value.data)}", "a device; links have the chain's own names"
    advice = f"did you mean `{interface}`, whose device is `{value.data}`?"
    report.error("C201", message, value.span, label=label, help=advice)


def _port(value: Value, name: str, port: str, ends: Ends, uses: _Uses, report: Report) -> Port | None:
    if name in ends.known_interfaces and name not in ends.known_services:
        uses.meant.add(name)
        message, advice = f"{show(name)} is an interface and has no ports", f"did you mean `{name}`?"
        report.error("C201", message, value.span, label="not a service", help=advice)
        return None
    if name not in ends.known_services:
        if "services" not in ends.missing:
            _dangling(value, "service", name, list(ends.known_services), uses, report, port)
        return None
    if name in ends.open:
        return None
    ports = ends.ports.get(name, {})
    if port not in ports:
        uses.dangling += 1
        meant = closest(port, ports) if uses.dangling <= SUGGESTED else None
        if meant:
            uses.meant.add(f"{name}.{meant}")
        else:
            uses.astray[name] += 1
        report.error(
            "C202",
            f"service `{name}` has no port {show(port)}",
            _part(value, len(name) + 1, len(port)),
            label="no port has this name",
            notes=(f"its ports: {listed(ports)}",),
            help=f"did you mean `{meant}`?" if meant else "",
        )
    return ports.get(port)


def _dangling(
    value: Value, what: str, name: str, known: list[str], uses: _Uses, report: Report, port: str = ""
) -> None:
    uses.dangling += 1
    meant = closest(name, known) if uses.dangling <= SUGGESTED else None
    if meant:
        uses.meant.add(f"{meant}.{port}" if port else meant)
    report.error(
        "C201",
        f"link to unknown {what} {show(name)}",
        _part(value, 0, len(name)),
        label=f"no {what} has this name",
        notes=(f"{what}s here: {listed(sorted(name for name in known if name != HOST)) or 'none'}",),
        help=f"did you mean `{meant}`?" if meant else "",
    )


def _part(value: Value, start: int, length: int) -> Span:
    """The stretch of an end that is wrong, where the file writes it without quotes and in one line."""
    span = value.span
    if span.line != span.end_line or span.end_column - span.column != len(value.data) or not length:
        return span
    column = span.column + start
    return Span(span.file, span.line, column, span.line, column + length)


def _check_unlinked(ends: Ends, uses: _Uses, report: Report) -> None:
    """Report what no link names, unless links that could not be understood account for all of it."""
    if uses.unreadable:
        return
    loose = [(name, span) for name, span in ends.linkable() if name not in uses.first and name not in uses.meant]
    for service, astray in uses.astray.items():
        explained = {name for name, _ in loose if name.startswith(f"{service}.")}
        if len(explained) <= astray:
            loose = [(name, span) for name, span in loose if name not in explained]
    interfaces = [name for name, _ in loose if name in ends.known_interfaces]
    for name, span in loose:
        if name in ends.known_interfaces:
            advice = "link it to a service's port, or remove it"
            report.error("C206", f"interface `{name}` is not linked", span, label="no link leads here", help=advice)
        else:
            advice = _where_to(name, interfaces, ends)
            report.error("C204", f"port `{name}` is not linked", span, label="no link leads here", help=advice)


def _where_to(port: str, unlinked: list[str], ends: Ends) -> str:
    """A link that `port` could have: to the only interface that is left, or to `host` where C219 would not follow."""
    to = unlinked[0] if len(unlinked) == 1 else HOST
    floods = any(s.service.floods for s in ends.services if port.startswith(f"{s.name}."))
    if to == HOST and floods and any(interface.mode.hook is Hook.XDP for interface in ends.interfaces):
        return "link it to an interface or to another service's port, or remove it"
    return f"add `- [{port}, {to}]` to `links`"
