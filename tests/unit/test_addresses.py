"""Addresses, prefixes, MACs and durations as a chain file writes them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from compiler.addresses import (
    check_overlaps,
    parse_address,
    parse_duration,
    parse_interface_address,
    parse_mac,
    parse_prefix,
    show_duration,
)
from compiler.source import Report, Value, read


def value(data: Any) -> Value:
    source = read("x", "- x")
    return Value(source, (0,), data)


ACCEPTED: list[tuple[Callable[[Value, Report], object], Any, Any]] = [
    (parse_prefix, "198.51.100.0/24", ip_network("198.51.100.0/24")),
    (parse_prefix, "198.51.100.7", ip_network("198.51.100.7/32")),
    (parse_prefix, "0.0.0.0/0", ip_network("0.0.0.0/0")),
    (parse_prefix, "2001:DB8::/32", ip_network("2001:db8::/32")),
    (parse_prefix, "::ffff:1.2.3.4", ip_network("::ffff:102:304/128")),
    (parse_address, "203.0.113.1", ip_address("203.0.113.1")),
    (parse_address, "::1", ip_address("::1")),
    (parse_interface_address, "10.0.0.1/24", ip_interface("10.0.0.1/24")),
    (parse_interface_address, "fd00::1/64", ip_interface("fd00::1/64")),
    (parse_mac, "52:54:00:12:34:5F", b"\x52\x54\x00\x12\x34\x5f"),
    (parse_mac, "52-54-00-12-34-56", b"\x52\x54\x00\x12\x34\x56"),
    (parse_duration, "300s", timedelta(seconds=300)),
    (parse_duration, "1.5h", timedelta(minutes=90)),
    (parse_duration, "250ms", timedelta(milliseconds=250)),
    (parse_duration, "7us", timedelta(microseconds=7)),
    (parse_duration, 90, timedelta(seconds=90)),
    (parse_duration, 0.5, timedelta(seconds=0.5)),
]

REFUSED: list[tuple[Callable[[Value, Report], object], Any, str]] = [
    (parse_prefix, "10.0.0.1/8", "C212"),
    (parse_prefix, "2001:db8::1/32", "C212"),
    (parse_prefix, "10.0.0.0/255.0.0.0", "C214"),
    (parse_prefix, "10.0.0.0/", "C214"),
    (parse_prefix, "10.0.0.0/33", "C214"),
    (parse_prefix, "10.0.0.0/-1", "C214"),
    (parse_prefix, "10.0.0.0/\u0668", "C214"),
    (parse_prefix, "010.0.0.0/8", "C214"),
    (parse_prefix, "fe80::1%eth0", "C214"),
    (parse_prefix, "", "C214"),
    (parse_prefix, 10, "C214"),
    (parse_prefix, None, "C214"),
    (parse_address, "10.0.0.0/8", "C214"),
    (parse_interface_address, "10.0.0.1", "C214"),
    (parse_mac, "52:54:00:12:34", "C214"),
    (parse_mac, "52:54-00:12:34:56", "C214"),
    (parse_mac, "52:54:00:12:34:56\n", "C214"),
    (parse_duration, "5 minutes", "C214"),
    (parse_duration, "-1s", "C214"),
    (parse_duration, -1, "C214"),
    (parse_duration, True, "C214"),
    (parse_duration, float("nan"), "C214"),
    (parse_duration, float("inf"), "C214"),
    (parse_duration, "999999999999d", "C113"),
    (parse_duration, 86400e6, "C113"),
]


def shown(item: Any) -> str:
    """The same in every process, as pytest-xdist needs it."""
    return str(item.__name__ if callable(item) else item)[:30]


@pytest.mark.parametrize(("parse", "data", "meaning"), ACCEPTED, ids=shown)
def test_accepted(parse: Callable[[Value, Report], object], data: Any, meaning: Any) -> None:
    report = Report()
    assert parse(value(data), report) == meaning
    assert report.diagnostics == []


@pytest.mark.parametrize(("parse", "data", "code"), REFUSED, ids=shown)
def test_refused(parse: Callable[[Value, Report], object], data: Any, code: str) -> None:
    report = Report()
    assert parse(value(data), report) is None
    assert [found.code for found in report.diagnostics] == [code]


def test_duration_bounds() -> None:
    report = Report()
    assert parse_duration(value("5s"), report, least=timedelta(seconds=10), most=timedelta(hours=2)) is None
    assert report.diagnostics[0].notes == ("from 10s to 2h",)


@pytest.mark.parametrize("text", ["0s", "7us", "250ms", "90s", "5m", "36h", "2d"])
def test_durations_are_shown_as_they_are_written(text: str) -> None:
    duration = parse_duration(value(text), Report())
    assert duration is not None
    assert show_duration(duration) == text


def overlapping(*prefixes: str) -> list[str]:
    source = read("x", "[" + ", ".join(f"'{prefix}'" for prefix in prefixes) + "]")
    report = Report()
    check_overlaps([(item, ip_network(item.data)) for item in source.root().elements()], report)
    return [found.message for found in report.diagnostics]


def test_disjoint_prefixes() -> None:
    assert overlapping("10.0.0.0/9", "10.128.0.0/9", "::/1", "8000::/1", "0.0.0.0/8") == []


def test_every_inner_prefix_is_reported_against_the_outermost() -> None:
    assert overlapping("10.1.1.0/24", "10.1.0.0/16", "10.0.0.0/8", "10.2.0.0/16") == [
        "prefix `10.1.0.0/16` is part of `10.0.0.0/8`",
        "prefix `10.1.1.0/24` is part of `10.0.0.0/8`",
        "prefix `10.2.0.0/16` is part of `10.0.0.0/8`",
    ]


def test_equal_prefixes_are_reported_once() -> None:
    assert overlapping("10.0.0.0/8", "10.0.0.0/8") == ["prefix `10.0.0.0/8` is here twice"]
