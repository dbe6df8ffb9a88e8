"""Interfaces that share a device by VLAN tags: their mistakes, and the service that sorts frames between them.

An interface with `vlan` has the frames of its device that carry this tag, without the tag. So that nothing else has to
know, a device with such interfaces gets a service of its own in the chain, linked to the whole device and to what its
interfaces were linked to: `with_sorted_devices` puts it there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from schemas.drop import named
from schemas.manifest import Hook

from .ir import Constant, GeneratedFunction, Inlined, LoweredPort
from .model import Chain, Interface, Link, LinkEnd, Port, ServiceInstance
from .service import Service
from .source import Report, Value
from .templates import Rendering
from .words import listed, show

DROP, HOST = "drop", "host"
_BPF = Path(__file__).parent / "bpf"
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9-]+")
_NAME_LENGTH = 32

Place = tuple[str | None, str]
"""A device: its network namespace and its name there."""


def check_devices(declared: Sequence[tuple[Interface, Value]], report: Report) -> None:
    """Report what interfaces of one device contradict each other in (C211, C223, C224)."""
    by_place: dict[Place, list[tuple[Interface, Value]]] = {}
    for interface, value in declared:
        by_place.setdefault(_place(interface), []).append((interface, value))
    for sharing in by_place.values():
        _check_tags(sharing, report)
        _check_modes(sharing, report)
        _check_others(sharing, report)


def _place(interface: Interface) -> Place:
    return interface.netns, interface.device


def _check_tags(sharing: Sequence[tuple[Interface, Value]], report: Report) -> None:
    first: dict[int, Value] = {}
    for interface, value in sharing:
        key = value.get("vlan") or value.get("device")
        assert key, "the schema requires a device"
        earlier = first.setdefault(interface.vlan, key)
        if earlier is key:
            continue
        tag = f"VLAN {interface.vlan} of " if interface.vlan else ""
        message = f"{tag}device {show(interface.device)} is here twice"
        label = "one interface for each VLAN" if interface.vlan else "one interface for each device"
        report.error("C211", message, key.span, label=label, notes=(f"first at {earlier.span}",))


def _check_modes(sharing: Sequence[tuple[Interface, Value]], report: Report) -> None:
    """One program receives from a device, at one hook."""
    first = sharing[0][0]
    for interface, value in sharing[1:]:
        if interface.mode is not first.mode and interface.vlan != first.vlan:
            message = f"device {show(interface.device)} is met in two modes"
            label, note = f"{interface.mode}", f"`{first.name}` at {first.span} meets it in mode {first.mode}"
            report.error("C223", message, (value.get("mode") or value).span, label=label, notes=(note,))


def _check_others(sharing: Sequence[tuple[Interface, Value]], report: Report) -> None:
    untagged = [interface.name for interface, _ in sharing if not interface.vlan]
    given = [(interface, others) for interface, value in sharing if (others := value.get("others")) is not None]
    for interface, others in given:
        if not interface.vlan:
            message, label = "`others` without `vlan`", "this interface has what no VLAN has"
            report.error("C224", message, others.key_span, label=label, help="write it beside a `vlan` of this device")
        elif others.data not in (DROP, HOST, *untagged):
            message = f"frames of other VLANs cannot go to {show(others.data)}"
            label = f"no untagged interface of device {show(interface.device)}"
            notes = (f"they can go to {listed([DROP, HOST, *untagged])}",)
            report.error("C224", message, others.span, label=label, notes=notes)
        elif others.data != given[0][1].data:
            message = f"frames of other VLANs go to {show(given[0][1].data)} and to {show(others.data)}"
            notes = (f"the first one is at {given[0][1].span}",)
            report.error("C224", message, others.span, label="another one for the same device", notes=notes)


# --- the service that sorts -----------------------------------------------------------------------------------------


class _Sorting(Struct, frozen=True):
    """How frames are sorted: the interface behind each port (but the first, the device), and `others`."""

    interfaces: Mapping[str, Interface]
    others: str


def _lower(instance: ServiceInstance, port: Port, _: Hook) -> LoweredPort:
    sorting = instance.config
    assert isinstance(sorting, _Sorting)
    own = sorting.interfaces.get(port.name)
    if own is None:
        return _from_device(instance, port, sorting)
    text = f"VLAN {own.vlan}" if own.vlan else "untagged"
    return LoweredPort(
        (
            Constant(
                f"{own.name}.vlan", text, "tag that frames get on their way out", _inlined("vid", own.vlan), own.span
            ),
            Constant(str(port), instance.ports[0].name, "the device", _inlined("device", 0), own.span),
        )
    )


def _from_device(instance: ServiceInstance, port: Port, sorting: _Sorting) -> LoweredPort:
    members = [(sorting.interfaces[p.name], p) for p in instance.ports if p != port]
    tagged = [(interface, p) for interface, p in members if interface.vlan]
    whole = next((p for interface, p in members if not interface.vlan), None)
    elsewhere = {DROP: "VERDICT_DROP + DROP_VLAN", HOST: "VERDICT_HOST"}
    others = elsewhere.get(sorting.others) or str(whole.index if whole else "")
    untagged = (whole.name, str(whole.index)) if whole else (sorting.others, others)
    name = f"{instance.name.replace('-', '_')}__port_of"
    rendering = Rendering(_BPF, "port_of_vlan.c.j2", {"name": name, "members": tagged})
    span = port.span
    return LoweredPort(
        constants=(
            Constant(str(port), "1", "frames come from the device", _inlined("sorts", 1), span),
            Constant(f"{port}.others", sorting.others, "frames of other VLANs", Inlined("others", others), span),
            Constant(f"{port}.untagged", untagged[0], "frames of no VLAN", Inlined("untagged", untagged[1]), span),
            *(
                Constant(f"{interface.name}.vlan", str(interface.vlan), "interface", Inlined("", ""), interface.span)
                for interface, _ in tagged
            ),
        ),
        functions=(GeneratedFunction("port_of", name, rendering, span),),
    )


def _inlined(field: str, value: int) -> Inlined:
    return Inlined(field, str(value))


SERVICE = Service(
    kind="vlans",
    summary="Sorts the frames of a device between interfaces that share it by VLAN tags",
    schema=None,  # people write keys of interfaces
    header=_BPF / "vlans.bpf.h",
    resolve=None,
    lower=_lower,
    drop_reasons=named(40),
    star=True,
    breaks_loops=True,
)


def with_sorted_devices(chain: Chain) -> Chain:
    """The chain with a service of the kind `vlans` before each device that interfaces with `vlan` share."""
    by_place: dict[Place, list[Interface]] = {}
    for interface in chain.interfaces:
        by_place.setdefault(_place(interface), []).append(interface)
    for sharing in by_place.values():
        if any(interface.vlan for interface in sharing):
            chain = _with_sorted_device(chain, sharing)
    return chain


def _with_sorted_device(chain: Chain, sharing: Sequence[Interface]) -> Chain:
    """`sharing` are replaced by one interface, the whole device, which leads to them by a service in between."""
    taken = {interface.name for interface in (*chain.interfaces, *chain.shared)}
    taken |= {service.name for service in chain.services}
    name = _free(_as_name(sharing[0].device), taken)
    device = replace(sharing[0], name=name, vlan=0)
    wire = _free("wire", {interface.name for interface in sharing})
    ports = (
        Port(name, wire, 0, device.span),
        *(Port(name, interface.name, index, interface.span) for index, interface in enumerate(sharing, start=1)),
    )
    behind = dict(zip(sharing, ports[1:], strict=True))
    others = next((interface.others for interface in sharing if interface.others), DROP)
    config = _Sorting({interface.name: interface for interface in sharing}, others)
    return replace(
        chain,
        interfaces=(*(i for i in chain.interfaces if i not in behind), device),
        shared=(*chain.shared, *sharing),
        services=(ServiceInstance(name, SERVICE, ports, config, device.span), *chain.services),
        links=(Link((device, ports[0]), device.span), *_relinked(chain.links, behind)),
    )


def _relinked(links: Iterable[Link], behind: Mapping[Interface, Port]) -> Iterator[Link]:
    """Links that led to an interface lead to its port."""

    def end(given: LinkEnd) -> LinkEnd:
        return behind.get(given, given) if isinstance(given, Interface) else given

    for link in links:
        yield Link((end(link.ends[0]), end(link.ends[1])), link.span)


def _as_name(device: str) -> str:
    """A device's name as one of a chain: `br.100` becomes `br-100`."""
    name = _NOT_IN_A_NAME.sub("-", device.lower()).strip("-")
    return name if name[:1].isalpha() else f"device-{name}".rstrip("-")


def _free(wanted: str, taken: Iterable[str]) -> str:
    """`wanted`, or `wanted-2`, …: a name that nothing else has."""
    used, name, number = set(taken), wanted, 1
    while name in used:
        number += 1
        name = f"{wanted[: _NAME_LENGTH - 4]}-{number}"
    return name
