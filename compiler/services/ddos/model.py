"""A ddos service in the chain file → its frozen model; mistakes of meaning become diagnostics D101 to D104."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from schemas.diagnostic import Span

from ...addresses import Prefix, check_overlaps, parse_prefix
from ...model import Port
from ...source import Report, Value
from ...words import closest, listed, show
from .protocols import PROTOCOLS, TRANSPORTS

_PORTS = re.compile(r"([a-z]+)/([0-9]{1,5})(?:-([0-9]{1,5}))?")
_MAX_FILL_SECONDS = 3600
_DEFAULT_SIZE = 65536


class BlockedPrefix(Struct, frozen=True):
    """An entry of `sources` or `destinations`; `text` is how the file has it."""

    prefix: Prefix
    text: str
    span: Span


class BlockedProtocol(Struct, frozen=True):
    """An entry of `protocols`."""

    number: int
    text: str
    span: Span


class BlockedPorts(Struct, frozen=True):
    """An entry of `ports` or `source-ports`: from `first` to `last`, both included."""

    protocol: int
    first: int
    last: int
    text: str
    span: Span


class Rate(Struct, frozen=True):
    """A token bucket for each source: `per_source` packets a second, `burst` at once, `size` sources remembered."""

    per_source: int
    burst: int
    size: int
    span: Span


class DdosModel(Struct, frozen=True):
    """What one ddos service drops."""

    sources: tuple[BlockedPrefix, ...] = ()
    destinations: tuple[BlockedPrefix, ...] = ()
    protocols: tuple[BlockedProtocol, ...] = ()
    ports: tuple[BlockedPorts, ...] = ()
    source_ports: tuple[BlockedPorts, ...] = ()
    rate: Rate | None = None


def resolve(value: Value, ports: tuple[Port, ...], report: Report) -> DdosModel:
    """The model of the instance at `value`, whose shape the schema has passed; its ports are always the same two."""
    return DdosModel(
        sources=_prefixes(value.get("block", "sources"), report),
        destinations=_prefixes(value.get("block", "destinations"), report),
        protocols=_protocols(value.get("block", "protocols"), report),
        ports=_port_list(value.get("block", "ports"), report),
        source_ports=_port_list(value.get("block", "source-ports"), report),
        rate=_rate(value.get("rate"), report),
    )


def _prefixes(values: Value | None, report: Report) -> tuple[BlockedPrefix, ...]:
    found = [(item, prefix) for item in _elements(values) if (prefix := parse_prefix(item, report)) is not None]
    check_overlaps(found, report)
    return tuple(BlockedPrefix(prefix, str(item.data), item.span) for item, prefix in found)


def _protocols(values: Value | None, report: Report) -> tuple[BlockedProtocol, ...]:
    found: dict[int, BlockedProtocol] = {}
    for item in _elements(values):
        number = _protocol(item, report)
        if number is None:
            continue
        if number in found:
            _listed_already(item, found[number], report)
        else:
            found[number] = BlockedProtocol(number, str(item.data), item.span)
    return tuple(found.values())


def _protocol(item: Value, report: Report) -> int | None:
    if isinstance(item.data, int):
        return item.data
    number = PROTOCOLS.get(item.data)
    if number is None:
        meant = closest(item.data, PROTOCOLS)
        report.error(
            "D101",
            f"unknown IP protocol {show(item.data)}",
            item.span,
            label="no protocol has this name here",
            notes=("any protocol can be given by its number, from 0 to 255",),
            help=f"did you mean `{meant}`?" if meant else "",
        )
    return number


def _port_list(values: Value | None, report: Report) -> tuple[BlockedPorts, ...]:
    found = [entry for item in _elements(values) if (entry := _ports(item, report)) is not None]
    ordered = sorted(found, key=lambda entry: (entry.protocol, entry.first, -entry.last))
    outer: BlockedPorts | None = None
    for entry in ordered:
        if outer is not None and outer.protocol == entry.protocol and entry.first <= outer.last:
            _overlapping(entry, outer, report)
        if outer is None or entry.protocol != outer.protocol or entry.last > outer.last:
            outer = entry
    return tuple(found)


def _ports(item: Value, report: Report) -> BlockedPorts | None:
    match = _PORTS.fullmatch(item.data)
    if not match:
        meant = _turned(item.data)
        _bad_port(item, "not a port", report, *([f"did you mean `{meant}`?"] if meant else []))
        return None
    first, last = int(match[2]), int(match[3] or match[2])
    if match[1] not in TRANSPORTS:
        _bad_port(item, f"ports belong to {listed(TRANSPORTS)}", report)
    elif max(first, last) > 65535:
        _bad_port(item, "ports go from 0 to 65535", report)
    elif first > last:
        _bad_port(item, "the range ends before it begins", report, f"write `{match[1]}/{last}-{first}`")
    else:
        return BlockedPorts(TRANSPORTS[match[1]], first, last, item.data, item.span)
    return None


def _turned(text: str) -> str | None:
    """What is right but for its order, its case or its separator: `80/tcp`, `TCP/80`, `tcp:80`."""
    parts = re.split(r"[/: ]", text.lower())
    for candidate in ("/".join(parts), "/".join(reversed(parts))):
        match = _PORTS.fullmatch(candidate)
        if match and match[1] in TRANSPORTS:
            return candidate
    return None


def _bad_port(item: Value, label: str, report: Report, help: str = "for example `tcp/23` or `udp/1000-2000`") -> None:
    form = "PROTOCOL/PORT or PROTOCOL/FIRST-LAST"
    report.error("D102", f"{show(item.data)} is not {form}", item.span, label=label, help=help)


def _listed_already(item: Value, first: BlockedProtocol, report: Report) -> None:
    same = "" if first.text == str(item.data) else f", as `{first.text}`"
    report.error(
        "D103",
        f"IP protocol {show(item.data)} is here twice",
        item.span,
        label="already listed",
        notes=(f"the other one is at {first.span}{same}",),
        help="leave this one out",
    )


def _overlapping(entry: BlockedPorts, outer: BlockedPorts, report: Report) -> None:
    covered = entry.last <= outer.last
    report.error(
        "D103",
        f"ports {show(entry.text)} {'are listed' if covered else 'overlap'} already",
        entry.span,
        label="covered already" if covered else "covered in part",
        notes=(f"by `{outer.text}` at {outer.span}",),
        help="leave this one out" if covered else "join the two ranges",
    )


def _rate(value: Value | None, report: Report) -> Rate | None:
    if value is None:
        return None
    per_source, burst, size = value.get("per-source"), value.get("burst"), value.get("size")
    assert per_source is not None, "the schema requires it"
    rate: int = per_source.data
    packets: int = burst.data if burst else max(1, rate // 5)
    if burst and packets > rate * _MAX_FILL_SECONDS:
        report.error(
            "D104",
            f"a burst of {packets} packets makes the rate meaningless",
            burst.span,
            label=f"at {rate} packets a second it takes {-(-packets // rate)} s to fill",
            notes=(f"a burst fills within {_MAX_FILL_SECONDS} s",),
            help=f"write at most `{rate * _MAX_FILL_SECONDS}`",
        )
    return Rate(rate, packets, size.data if size else _DEFAULT_SIZE, value.key_span)


def _elements(values: Value | None) -> Iterator[Value]:
    if values is not None:
        yield from values.elements()
