"""What a chain file says of a port's router advertisements → its frozen model. Mistakes: R116 to R121."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from ipaddress import IPv6Network
from typing import Any

from msgspec import Struct

from schemas.diagnostic import Span

from ...addresses import Address, Prefix, parse_address, parse_duration, parse_prefix, show_duration
from ...source import Report, Value
from ...words import show

DEFAULT_INTERVAL = timedelta(minutes=10)
DEFAULT_HOP_LIMIT = 64
DEFAULT_VALID, DEFAULT_PREFERRED = timedelta(days=1), timedelta(hours=4)
INTERVALS_IN_A_LIFETIME = 3
"""For how many intervals hosts believe the router, and its name servers, unless the file says it (RFC 4861 6.2.1)."""

_LEAST_INTERVAL, _MOST_INTERVAL = timedelta(seconds=4), timedelta(minutes=30)
_MOST_LIFETIME = timedelta(seconds=9000)  # RFC 4861 6.2.1
_MOST_SECONDS = timedelta(seconds=0xFFFFFFFE)  # all ones mean "for ever"
_LEAST_MTU = 1280
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MOST_NAME = 253
_OWN_PREFIX_LENGTH = 64
"""With prefixes of this length hosts make their own addresses (RFC 4862 5.5.3, RFC 4291 2.5.1)."""


class AdvertisedPrefix(Struct, frozen=True):
    """A prefix that hosts are told of: whether it is on their link, and whether they take addresses from it."""

    prefix: IPv6Network
    valid: timedelta
    preferred: timedelta
    on_link: bool
    autonomous: bool


class NameServers(Struct, frozen=True):
    """RFC 8106."""

    servers: tuple[Address, ...]
    search: tuple[str, ...]
    lifetime: timedelta


class Advertisement(Struct, frozen=True):
    """What is told on a port's link; `lifetime` 0: this is no default router."""

    interval: timedelta
    lifetime: timedelta
    hop_limit: int
    managed: bool
    other_config: bool
    preference: str
    mtu: int | None
    prefixes: tuple[AdvertisedPrefix, ...]
    names: NameServers
    span: Span

    def record(self) -> Mapping[str, Any]:
        """Plain data for the control plane; times in seconds."""
        return {
            "interval": self.interval.total_seconds(),
            "lifetime": _seconds(self.lifetime),
            "hop_limit": self.hop_limit,
            "managed": self.managed,
            "other_config": self.other_config,
            "preference": self.preference,
            "mtu": self.mtu,
            "prefixes": [
                {
                    "prefix": str(each.prefix),
                    "valid": _seconds(each.valid),
                    "preferred": _seconds(each.preferred),
                    "on_link": each.on_link,
                    "autonomous": each.autonomous,
                }
                for each in self.prefixes
            ],
            "dns": {
                "servers": [str(server) for server in self.names.servers],
                "search": list(self.names.search),
                "lifetime": _seconds(self.names.lifetime),
            },
        }


def _seconds(duration: timedelta) -> int:
    return duration // timedelta(seconds=1)


def advertisement(value: Value, subnets: Sequence[Prefix], mtu: int | None, report: Report) -> Advertisement | None:
    """A port's advertisements; `subnets` are its own of IPv6, `mtu` is its own where the file has one. R116 to R121."""
    if not subnets:
        report.error(
            "R116",
            "router advertisements on a port without an IPv6 address",
            value.key_span,
            label="hosts here could not reach the router",
            help="give the port an address such as `fd00:1::1/64`",
        )
        return None
    return _Reading(value, tuple(each for each in subnets if isinstance(each, IPv6Network)), mtu, report).all()


class _Reading(Struct, frozen=True):
    """One port's `advertise`."""

    value: Value
    subnets: tuple[IPv6Network, ...]
    port_mtu: int | None
    report: Report

    def all(self) -> Advertisement:
        interval = self._duration("interval", DEFAULT_INTERVAL, _LEAST_INTERVAL, _MOST_INTERVAL)
        enough = min(INTERVALS_IN_A_LIFETIME * interval, _MOST_LIFETIME)
        return Advertisement(
            interval=interval,
            lifetime=self._lifetime(interval, enough),
            hop_limit=self._given("hop-limit", DEFAULT_HOP_LIMIT),
            managed=self._given("managed", False),
            other_config=self._given("other-config", False),
            preference=self._given("preference", "medium"),
            mtu=self._mtu(),
            prefixes=tuple(self._prefixes()),
            names=self._names(enough),
            span=self.value.key_span,
        )

    def _given(self, key: str, default: Any) -> Any:
        found = self.value.get(key)
        return found.data if found else default

    def _duration(self, key: str, default: timedelta, least: timedelta, most: timedelta) -> timedelta:
        found = self.value.get(key)
        return (parse_duration(found, self.report, least=least, most=most) if found else None) or default

    def _lifetime(self, interval: timedelta, default: timedelta) -> timedelta:
        """R117: a router that is not heard again in time is no router in between (RFC 4861 6.2.1)."""
        found = self.value.get("lifetime")
        lifetime = parse_duration(found, self.report, most=_MOST_LIFETIME) if found else None
        if found is None or lifetime is None:
            return default
        if timedelta(0) < lifetime < interval:
            self.report.error(
                "R117",
                f"a router is believed in for {show_duration(lifetime)} and heard every {show_duration(interval)}",
                found.span,
                label="over before the next advertisement",
                help=f"at least {show_duration(interval)}, better three times as long; 0 for no default router",
            )
        return lifetime

    def _mtu(self) -> int | None:
        """R118: what a host may send on the link, the router has to take. Without a word that of the port."""
        found = self.value.get("mtu")
        if found is None:
            return self.port_mtu if self.port_mtu and self.port_mtu >= _LEAST_MTU else None
        if self.port_mtu and found.data > self.port_mtu:
            self.report.error(
                "R118",
                f"an MTU of {found.data} is advertised on a port with an MTU of {self.port_mtu}",
                found.span,
                label="longer than the router's own packets here",
                help=f"{self.port_mtu} or less; left out, it is that of the port",
            )
        return int(found.data)

    def _prefixes(self) -> Iterator[AdvertisedPrefix]:
        found = self.value.get("prefixes")
        if found is None:
            for subnet in self.subnets:
                if subnet.prefixlen == _OWN_PREFIX_LENGTH:
                    yield AdvertisedPrefix(subnet, DEFAULT_VALID, DEFAULT_PREFERRED, on_link=True, autonomous=True)
            return
        seen: dict[IPv6Network, Span] = {}
        for each in found.elements():
            given = each.get("prefix") if isinstance(each.data, dict) else each
            prefix = given and self._prefix(given, seen)
            if prefix and given:
                yield self._advertised(prefix, given, each)

    def _prefix(self, value: Value, seen: dict[IPv6Network, Span]) -> IPv6Network | None:
        """R119: of IPv6, for hosts, and each once."""
        prefix = parse_prefix(value, self.report)
        if prefix is None:
            return None
        wrong, notes = "", tuple[str, ...]()
        if not isinstance(prefix, IPv6Network):
            wrong = "an IPv4 prefix"
        elif prefix.is_multicast or prefix.is_link_local or prefix.is_loopback:
            wrong = "a prefix of groups, of links or of the loopback"
        elif prefix in seen:
            wrong, notes = "the second time", (f"the first one is at {seen[prefix]}",)
        if wrong:
            self.report.error("R119", f"`{prefix}` cannot be advertised", value.span, label=wrong, notes=notes)
            return None
        assert isinstance(prefix, IPv6Network)
        seen[prefix] = value.span
        return prefix

    def _advertised(self, prefix: IPv6Network, given: Value, value: Value) -> AdvertisedPrefix:
        """R120: addresses are not preferred for longer than they are valid; R119: they have 64 bits of their own."""
        settings = value if isinstance(value.data, dict) else None
        on_link, autonomous = (settings.get(key) if settings else None for key in ("on-link", "autonomous"))
        found = AdvertisedPrefix(
            prefix,
            *self._lifetimes(settings),
            on_link=on_link.data if on_link else True,
            autonomous=autonomous.data if autonomous else prefix.prefixlen == _OWN_PREFIX_LENGTH,
        )
        if found.autonomous and prefix.prefixlen != _OWN_PREFIX_LENGTH and autonomous:
            self.report.error(
                "R119",
                f"`{prefix}` cannot be advertised for hosts to take addresses from",
                autonomous.span,
                label=f"a prefix of {prefix.prefixlen} bits",
                notes=("hosts make 64 bits of their addresses themselves (RFC 4862 5.5.3)",),
                help="a /64, or `autonomous: false`",
            )
        return found

    def _lifetimes(self, settings: Value | None) -> tuple[timedelta, timedelta]:
        """How long addresses are valid, and how long they are preferred."""
        valid, preferred = (settings.get(key) if settings else None for key in ("valid", "preferred"))
        valid_for = parse_duration(valid, self.report, most=_MOST_SECONDS) if valid else DEFAULT_VALID
        preferred_for = parse_duration(preferred, self.report, most=_MOST_SECONDS) if preferred else None
        if valid_for is None or (preferred and preferred_for is None):
            return DEFAULT_VALID, DEFAULT_PREFERRED
        if preferred_for is None:
            return valid_for, min(DEFAULT_PREFERRED, valid_for)
        if preferred and preferred_for > valid_for:
            self.report.error(
                "R120",
                f"addresses are preferred for {show_duration(preferred_for)} and valid for {show_duration(valid_for)}",
                preferred.span,
                label="longer than they are valid",
                help=f"{show_duration(valid_for)} or less",
            )
        return valid_for, preferred_for

    def _names(self, default: timedelta) -> NameServers:
        servers, search, lifetime = (self.value.get("dns", key) for key in ("servers", "search", "lifetime"))
        given = parse_duration(lifetime, self.report, most=_MOST_SECONDS) if lifetime else None
        return NameServers(
            tuple(filter(None, map(self._server, servers.elements() if servers else ()))),
            tuple(each.data for each in (search.elements() if search else ()) if self._is_domain(each)),
            default if given is None else given,
        )

    def _server(self, value: Value) -> Address | None:
        address = parse_address(value, self.report)
        if address is None or (address.version == 6 and not (address.is_multicast or address.is_unspecified)):
            return address
        label = "hosts take IPv6 addresses from advertisements (RFC 8106 5.1)"
        self.report.error("R121", f"`{address}` cannot be advertised as a name server", value.span, label=label)
        return None

    def _is_domain(self, value: Value) -> bool:
        name = value.data.removesuffix(".")
        if len(name) <= _MOST_NAME and all(_LABEL.fullmatch(label) for label in name.split(".")):
            return True
        label = "names of up to 63 letters, digits and hyphens, with dots in between"
        self.report.error("R121", f"{show(value.data)} is no domain to search in", value.span, label=label)
        return False
