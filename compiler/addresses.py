"""Strings of a chain file in, addresses, prefixes, MACs and durations out, or a diagnostic that shows the form."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TypeVar

from .source import Report, Value
from .words import kind_of, show

Prefix = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
InterfaceAddress = IPv4Interface | IPv6Interface

Parsed = TypeVar("Parsed")

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*(us|ms|s|m|h|d)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-])[0-9a-fA-F]{2}(?:\1[0-9a-fA-F]{2}){4}")


def parse_prefix(value: Value, report: Report) -> Prefix | None:
    """A prefix such as `198.51.100.0/24`; an address alone is a prefix of full length. Reports C212, C214."""
    interface = _parse(value, report, _interface, "an IPv4 or IPv6 prefix", "198.51.100.0/24` or `2001:db8::/32")
    if interface is None:
        return None
    if interface.ip != interface.network.network_address:
        report.error(
            "C212",
            f"prefix {show(value.data)} has host bits set",
            value.span,
            label=f"bits behind the first {interface.network.prefixlen} must be zero",
            help=f"write `{interface.network}` for the prefix, or `{interface.ip}` for the one address",
        )
        return None
    return interface.network


def parse_address(value: Value, report: Report) -> Address | None:
    """One address such as `203.0.113.1`. Reports C214."""
    return _parse(value, report, _address, "an IPv4 or IPv6 address", "203.0.113.1` or `2001:db8::1")


def parse_interface_address(value: Value, report: Report) -> InterfaceAddress | None:
    """An address with the length of its prefix, such as `10.0.0.1/24`. Reports C214."""
    form, example = "an address with its prefix length", "10.0.0.1/24` or `2001:db8::1/64"
    return _parse(value, report, _address_with_length, form, example)


def parse_mac(value: Value, report: Report) -> bytes | None:
    """A MAC address such as `52:54:00:12:34:56`, as its six bytes. Reports C214."""
    return _parse(value, report, _mac, "a MAC address", "52:54:00:12:34:56")


def parse_duration(
    value: Value, report: Report, *, least: timedelta = timedelta(0), most: timedelta = timedelta(days=36500)
) -> timedelta | None:
    """A duration such as `300s`, `5m`, `1.5h`, `250ms`; a plain number counts seconds. Reports C113, C214."""
    duration = _parse(value, report, _duration, "a duration", "300s`, `5m` or `250ms")
    if duration is not None and not least <= duration <= most:
        bounds = f"from {show_duration(least)} to {show_duration(most)}"
        report.error("C113", f"{show(value.data)} is out of range", value.span, label="out of range", notes=(bounds,))
        return None
    return duration


def show_duration(duration: timedelta) -> str:
    """A duration in the greatest unit that leaves it whole: `5m`, `1500ms`."""
    microseconds = duration // timedelta(microseconds=1)
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)):
        if microseconds and microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    return f"{microseconds}us" if microseconds else "0s"


def check_overlaps(prefixes: Iterable[tuple[Value, Prefix]], report: Report) -> None:
    """Report (C213) each prefix that lies within another one of the same list, at the one that is too much."""
    ordered = sorted(prefixes, key=lambda item: (item[1].version, int(item[1].network_address), item[1].prefixlen))
    outer: tuple[Value, Prefix] | None = None
    for value, prefix in ordered:
        if outer is None or not _within(prefix, outer[1]):
            outer = (value, prefix)
            continue
        same = prefix == outer[1]
        report.error(
            "C213",
            f"prefix {show(str(prefix))} is {'here twice' if same else f'part of `{outer[1]}`'}",
            value.span,
            label="already listed" if same else "covered already",
            notes=(f"the other one is at {outer[0].span}",),
            help="leave this one out",
        )


def _within(inner: Prefix, outer: Prefix) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _parse(value: Value, report: Report, parser: Callable[[object], Parsed], form: str, example: str) -> Parsed | None:
    try:
        return parser(value.data)
    except ValueError as error:
        found = show(value.data) if isinstance(value.data, str) else kind_of(value.data)
        reason = str(error) or f"not {form}"
        report.error("C214", f"{found} is not {form}", value.span, label=reason, help=f"for example `{example}`")
        return None


def _address(data: object) -> Address:
    text = _text(data)
    if "/" in text:
        raise ValueError("one address has no prefix length")
    return _interface(text).ip


def _address_with_length(data: object) -> InterfaceAddress:
    text = _text(data)
    if "/" not in text:
        raise ValueError("the prefix length is missing")
    return _interface(text)


def _interface(data: object) -> InterfaceAddress:
    """Stricter than ipaddress: no netmask for a length, no zone."""
    address, slash, length = _text(data).partition("/")
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError from None
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        raise ValueError("a zone means nothing here")
    if slash and not (re.fullmatch(r"[0-9]{1,3}", length) and int(length) <= ip.max_prefixlen):
        raise ValueError(f"the length is a number from 0 to {ip.max_prefixlen}")
    return ipaddress.ip_interface(f"{ip}/{int(length) if slash else ip.max_prefixlen}")


def _mac(data: object) -> bytes:
    text = _text(data)
    if not _MAC.fullmatch(text):
        raise ValueError
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def _duration(data: object) -> timedelta:
    if isinstance(data, int | float) and not isinstance(data, bool):
        if not 0 <= data < 1e12:
            raise ValueError
        return timedelta(seconds=data) if data < 86400e6 else timedelta.max
    match = _DURATION.fullmatch(_text(data))
    if not match:
        raise ValueError
    seconds = float(match[1]) * _SECONDS[match[2]]
    return timedelta(seconds=seconds) if seconds < 86400e6 else timedelta.max


def _text(data: object) -> str:
    if not isinstance(data, str):
        raise ValueError
    return data
