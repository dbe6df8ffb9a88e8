"""What a chain file says of VLANs on a bridge in, the membership of every port out (IEEE 802.1Q 6.9, 8.8)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from schemas.diagnostic import Span

from ...model import Port
from ...source import Report, Value
from ...words import show

FIRST, LAST = 1, 4094  # 0 tags a priority alone, 4095 is reserved (802.1Q table 9-2)
DEFAULT = 1  # the default PVID (802.1Q table 9-2)

_RANGE = re.compile(r"([0-9]{1,4})-([0-9]{1,4})")

Range = tuple[int, int]
"""The first and the last VLAN."""


class PortVlans(Struct, frozen=True):
    """The VLANs of one port.

    `pvid`: of frames without a tag, 0 where those are not admitted. `tagged`: whose frames leave with a tag. The PVID's
    leave without one unless it is among them. An access port admits no frame that is tagged with a VLAN.
    """

    access: bool
    pvid: int
    tagged: tuple[Range, ...]
    text: str
    span: Span

    @property
    def untagged(self) -> int:
        """The VLAN whose frames leave without a tag; 0 if there is none."""
        return 0 if (self.pvid, self.pvid) in self.tagged else self.pvid

    @property
    def highest(self) -> int:
        """The highest VLAN that the port is a member of."""
        return max([self.pvid, *(last for _, last in self.tagged)])

    def has(self, vlan: int) -> bool:
        """Whether the port is a member."""
        return vlan == self.pvid > 0 or any(first <= vlan <= last for first, last in self.tagged)


def resolve_vlans(value: Value, ports: tuple[Port, ...], report: Report) -> Mapping[str, PortVlans]:
    """VLANs by port name; empty where the bridge has none. Reports C415 to C419."""
    found = {port.name: value.get("ports", port.name, "vlan") for port in ports}
    if not any(found.values()):
        return {}
    return {port.name: _port_vlans(given, report) if (given := found[port.name]) else _default(port) for port in ports}


def _default(port: Port) -> PortVlans:
    return PortVlans(access=True, pvid=DEFAULT, tagged=(), text=f"access {DEFAULT}", span=port.span)


def _port_vlans(value: Value, report: Report) -> PortVlans:
    access, trunk, native = value.get("access"), value.get("trunk"), value.get("native")
    native_tagged = value.get("native-tagged")
    if (access is None) == (trunk is None):
        _neither_nor(value, report)
    if access is not None:
        for extra in (native, native_tagged):
            if extra is not None and trunk is None:
                message, label = f"an access port has no `{extra.pointer[-1]}`", "only of a trunk"
                report.error("C419", message, extra.key_span, label=label, help="write `trunk`, or remove it")
        vlan = parse_vlan(access, report) or DEFAULT
        return PortVlans(access=True, pvid=vlan, tagged=(), text=f"access {vlan}", span=access.span)
    ranges = tuple(_ranges(trunk, report)) if trunk is not None else ()
    pvid = (parse_vlan(native, report) or 0) if native is not None else 0
    tagged = _tagged(ranges, pvid, native_tagged, report)
    return PortVlans(access=False, pvid=pvid, tagged=tagged, text=_text(ranges, pvid, tagged), span=value.key_span)


def _tagged(ranges: tuple[Range, ...], pvid: int, native_tagged: Value | None, report: Report) -> tuple[Range, ...]:
    """The native VLAN is a member like any other, and among the tagged ones only if the file says so."""
    if native_tagged is not None and not pvid:
        message, label = "`native-tagged` without `native`", "no VLAN that it is said of"
        report.error("C419", message, native_tagged.key_span, label=label, help="write `native`, or remove it")
    others = tuple(piece for span in ranges for piece in _without(span, pvid))
    return (*others, (pvid, pvid)) if pvid and native_tagged is not None and native_tagged.data else others


def _without(span: Range, vlan: int) -> Iterator[Range]:
    first, last = span
    if not first <= vlan <= last:
        yield span
        return
    if first < vlan:
        yield first, vlan - 1
    if vlan < last:
        yield vlan + 1, last


def _text(ranges: tuple[Range, ...], pvid: int, tagged: tuple[Range, ...]) -> str:
    listed = ", ".join(_range_text(span) for span in ranges)
    if not pvid:
        return f"trunk {listed}"
    return f"trunk {listed}, native {pvid}{' tagged' if (pvid, pvid) in tagged else ''}"


def _range_text(span: Range) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}-{span[1]}"


def _neither_nor(value: Value, report: Report) -> None:
    both = value.get("access") is not None
    report.error(
        "C418",
        "a port is either an access port or a trunk" if both else "neither `access` nor `trunk`",
        value.key_span,
        label="`access` and `trunk`" if both else "which VLANs?",
        help="for example `{access: 10}`, or `{trunk: [10, 20, 100-199], native: 1}`",
    )


def parse_vlan(value: Value, report: Report) -> int | None:
    """A VLAN ID that a frame can have. Reports C415."""
    vlan: int = value.data
    if FIRST <= vlan <= LAST:
        return vlan
    _no_vlan(value, vlan, report)
    return None


def _no_vlan(value: Value, vlan: int, report: Report) -> None:
    reasons = {0: "0 tags a priority and no VLAN", 4095: "4095 is reserved"}
    notes = (reasons[vlan],) if vlan in reasons else ()
    label = f"VLANs are {FIRST} to {LAST}"
    report.error("C415", f"{vlan} is no VLAN", value.span, label=label, notes=notes)


def _ranges(trunk: Value, report: Report) -> Iterator[Range]:
    """The list as it is written, without what is wrong in it."""
    listed: list[tuple[Range, Value]] = []
    for item in trunk.elements():
        span = _range(item, report)
        if span is None:
            continue
        earlier = next((other for other in listed if other[0][0] <= span[1] and span[0] <= other[0][1]), None)
        if earlier:
            twice = max(span[0], earlier[0][0])
            report.error(
                "C417",
                f"VLAN {twice} is listed twice",
                item.span,
                label="listed already",
                notes=(f"first at {earlier[1].span}",),
                help="leave this one out, or shorten one of the ranges",
            )
            continue
        listed.append((span, item))
        yield span


def _range(item: Value, report: Report) -> Range | None:
    if isinstance(item.data, int):
        vlan = parse_vlan(item, report)
        return (vlan, vlan) if vlan else None
    match = _RANGE.fullmatch(item.data)
    if not match:
        form = "for example `10`, or `100-199`"
        report.error("C416", f"{show(item.data)} is neither a VLAN nor a range", item.span, help=form)
        return None
    first, last = int(match[1]), int(match[2])
    wrong = next((vlan for vlan in (first, last) if not FIRST <= vlan <= LAST), None)
    if wrong is not None:
        _no_vlan(item, wrong, report)
        return None
    if first > last:
        message, label = f"range `{item.data}` is empty", "it ends before it begins"
        report.error("C416", message, item.span, label=label, help=f"write `{last}-{first}`")
        return None
    return first, last


def member_vlan(item: Value, port: Port | None, vlans: Mapping[str, PortVlans], report: Report) -> int | None:
    """The VLAN that a static entry is for; 0 on a bridge without VLANs, None where it cannot be told (C420, C421)."""
    given = item.get("vlan")
    if not vlans and given is not None:
        message, label = "this bridge has no VLANs", "no frame belongs to one"
        advice = "give its ports a `vlan`, or remove this"
        report.error("C420", message, given.key_span, label=label, help=advice)
    if port is None or not vlans:
        return 0
    of_port = vlans[port.name]
    if given is None and not of_port.access:
        message, label = f"the static entry does not say in which VLAN, and `{port.name}` is a trunk", "which VLAN?"
        report.error("C420", message, item.span, label=label, help="add a `vlan`")
        return None
    vlan = of_port.pvid if given is None else parse_vlan(given, report)
    if given is not None and vlan is not None and not of_port.has(vlan):
        message, label = f"port `{port.name}` is no member of VLAN {vlan}", "no frame of it leaves by that port"
        report.error("C421", message, given.span, label=label, notes=(f"`{port.name}`: {of_port.text}",))
        return None
    return vlan
