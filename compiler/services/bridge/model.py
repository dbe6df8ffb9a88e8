"""What a chain file says of a bridge, resolved: ageing, size and static entries of its filtering database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from msgspec import Struct

from schemas.diagnostic import Span

from ...addresses import parse_duration, parse_mac
from ...model import Port
from ...source import Report, Value
from .learning import Learning, resolve_learning
from .multicast import Multicast, resolve_multicast
from .ports import named_port
from .storm import StormLimit, resolve_storms
from .stp import Stp, resolve_stp
from .vlans import PortVlans, member_vlan, resolve_vlans

DEFAULT_AGING = timedelta(seconds=300)  # IEEE 802.1D-2004 table 7-5
DEFAULT_SIZE = 4096
MOST_INLINED = 256
"""More static entries than these are never code: clang would take too long for it."""


class StaticEntry(Struct, frozen=True):
    """A station whose port is fixed; `mac` is six bytes in the order of the wire, `vlan` 0 without VLANs."""

    mac: bytes
    port: Port
    vlan: int
    span: Span
    path: str

    @property
    def text(self) -> str:
        """`52:54:00:12:34:56`, or `52:54:00:12:34:56 vlan 10`."""
        return f"{self.mac.hex(':')} vlan {self.vlan}" if self.vlan else self.mac.hex(":")

    @property
    def key(self) -> int:
        """What fdb_key() makes of address and VLAN."""
        return int.from_bytes(self.mac, "little") | self.vlan << 48


class BridgeModel(Struct, frozen=True):
    """A bridge's configuration; the spans are of the values, or of the service where the file leaves them out.

    `vlans` has every port by its name, or is empty: then the bridge does not look at tags. Without `stp` every port
    forwards; without `multicast` all multicast is flooded.
    """

    aging: timedelta
    aging_span: Span
    size: int
    size_span: Span
    static: tuple[StaticEntry, ...]
    vlans: Mapping[str, PortVlans]
    stp: Stp | None
    storms: Mapping[str, Mapping[str, StormLimit]]
    learning: Learning
    inline: int
    multicast: Multicast | None

    @property
    def inlined(self) -> tuple[StaticEntry, ...]:
        """The static entries that are compiled in: the first of the file."""
        return self.static[: self.inline]

    @property
    def mapped(self) -> tuple[StaticEntry, ...]:
        """Those that are in a map."""
        return self.static[self.inline :]


def resolve(value: Value, ports: tuple[Port, ...], report: Report) -> BridgeModel:
    """The model of one bridge. Reports C214 (no MAC, no duration), C411 to C428, C440 to C444."""
    vlans = resolve_vlans(value, ports, report)
    aging, size, inline = value.get("fdb", "aging"), value.get("fdb", "size"), value.get("fdb", "inline")
    return BridgeModel(
        aging=_aging(aging, report) if aging else DEFAULT_AGING,
        aging_span=aging.span if aging else value.key_span,
        size=size.data if size else DEFAULT_SIZE,
        size_span=size.span if size else value.key_span,
        static=_static(value, ports, vlans, report),
        vlans=vlans,
        stp=resolve_stp(value, ports, report),
        storms=resolve_storms(value, ports, report),
        learning=resolve_learning(value, ports, report),
        inline=MOST_INLINED if inline is None else inline.data,
        multicast=resolve_multicast(value, ports, vlans, report),
    )


def _aging(value: Value, report: Report) -> timedelta:
    most = timedelta(days=24)  # twice as long must fit into 32-bit jiffies: 49 days at 1000 Hz
    aging = parse_duration(value, report, least=timedelta(seconds=1), most=most)
    if aging is not None and aging % timedelta(seconds=1):
        report.error(
            "C411",
            f"ageing time `{value.data}` is not a whole number of seconds",
            value.span,
            label="stations age by the second",
            help=f"write `{round(aging.total_seconds())}s`",
        )
    return aging or DEFAULT_AGING


def _static(
    value: Value, ports: tuple[Port, ...], vlans: Mapping[str, PortVlans], report: Report
) -> tuple[StaticEntry, ...]:
    listed = value.get("fdb", "static")
    entries: dict[int, StaticEntry] = {}
    for item in listed.elements() if listed else ():
        entry = _static_entry(item, ports, vlans, report)
        if entry is None:
            continue
        if entry.key in entries:
            message = f"static entry for `{entry.text}` is there twice"
            report.twice("C412", message, entry.span, entries[entry.key].span)
        entries.setdefault(entry.key, entry)
    return tuple(entries.values())


def _static_entry(
    item: Value, ports: tuple[Port, ...], vlans: Mapping[str, PortVlans], report: Report
) -> StaticEntry | None:
    mac_value, port_value = item.get("mac"), item.get("port")
    assert mac_value, "the schema requires it"
    assert port_value, "the schema requires it"
    mac = parse_mac(mac_value, report)
    port = named_port(port_value, ports, "static entry leads to", report)
    if mac is not None and (mac[0] & 1 or not any(mac)):
        report.error(
            "C414",
            f"`{mac_value.data}` is not the address of one station",
            mac_value.span,
            label="a group address, or zero",
            notes=("group addresses are flooded, never looked up",),
        )
        return None
    vlan = member_vlan(item, port, vlans, report)
    if mac is None or port is None or vlan is None:
        return None
    return StaticEntry(mac, port, vlan, mac_value.span, item.path)
