"""A router's model → the program of one port: its constants, next hops, neighbours, addresses and routes as code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import Any

from msgspec import Struct

from schemas.diagnostic import Span
from schemas.manifest import Hook, HostFact, Role, Scope
from schemas.services.router import (
    NEIGHBOUR,
    NEIGHBOUR_KEY,
    NEIGHBOURS_VERSION_SIZE,
    NEXTHOP,
    RECENT_SIZE,
    REDIRECTED_SIZE,
)

from ...addresses import Address
from ...ir import Constant, GeneratedFunction, HostBound, Inlined, InMap, LoadTime, LoweredPort, MapDef
from ...lower import host_symbol, port_name, value_symbol
from ...maps import BPF_F_MMAPABLE, array, map_name, port_order, with_headroom
from ...model import Port, ServiceInstance
from ...templates import CText, Rendering, loaded
from .fib import fib_literal, follow, followed_maps, nexthop_maps
from .model import RouterModel, RouterPort
from .nexthops import NextHops, number
from .tree import tree

DEFAULT_MTU = 1500  # of a port that leads to another service
NEIGHBOURS = 16384
"""Neighbours of each IP version that there is room for, on all ports together."""
LOCAL_UNICAST = 0x02  # first byte of a locally administered unicast MAC (IEEE 802 8.2.2)
_TEMPLATES = Path(__file__).parent / "templates"


class OwnAddress(Struct, frozen=True):
    """An address that is the router's own, or its subnet's: `kind` as `enum router_address` names it."""

    address: Address
    kind: str
    port: Port
    span: Span


def lower(instance: ServiceInstance, port: Port, hook: Hook) -> LoweredPort:
    """The same for every hook."""
    model = instance.config
    assert isinstance(model, RouterModel)
    lowering = _Lowering(instance, port, model, number(model))
    return LoweredPort(
        constants=tuple(lowering.constants()),
        maps=tuple(lowering.maps()),
        functions=tuple(lowering.functions()),
    )


def local_mac(instance: ServiceInstance, port: Port) -> bytes:
    """The MAC of a port that has no interface: the same in every compilation, locally administered."""
    digest = hashlib.sha256(f"{instance.chain}/{port}".encode()).digest()
    return bytes((LOCAL_UNICAST, *digest[:5]))


def control(instance: ServiceInstance) -> Mapping[str, Any]:
    """What the control plane has to know: ports with their addresses, and by which next hop each prefix goes."""
    model = instance.config
    assert isinstance(model, RouterModel)
    indices = number(model).of_route
    return {
        "ports": [_port_record(instance, port) for port in model.ports],
        "routes": [{"to": str(route.prefix), "nexthop": indices[route]} for route in model.routes],
        "in_tables": bool(model.table_size),
        "kernel_routes": follow(instance, model),
        "icmp": {"rate": model.icmp.all, "receiver-rate": model.icmp.receiver},
    }


def _port_record(instance: ServiceInstance, port: RouterPort) -> Mapping[str, Any]:
    """A port; without a MAC or an MTU of its own it has its interface's."""
    interface = instance.interface(port.port)
    mac = port.mac or (None if interface else local_mac(instance, port.port))
    return {
        "name": port.port.name,
        "addresses": [str(address.interface) for address in port.addresses],
        "mac": mac.hex(":") if mac else None,
        "mtu": port.mtu or (None if interface else DEFAULT_MTU),
        "advertise": port.advertisement.record() if port.advertisement else None,
        "interface": interface.name if interface else None,
        "device": interface.device if interface else None,
        "netns": interface.netns if interface else None,
    }


def own_addresses(ports: Iterable[RouterPort], version: int) -> Iterator[OwnAddress]:
    """The ports' own addresses, and those that their subnets have for all of their hosts or routers."""
    known: set[Address] = set()
    for port in ports:
        for address in port.addresses:
            if address.ip.version != version:
                continue
            yield OwnAddress(address.ip, "ADDRESS_OWN", port.port, address.span)
            known.add(address.ip)
            subnet = address.subnet
            if subnet.prefixlen >= subnet.max_prefixlen - 1:  # RFC 3021, RFC 6164: a link of two has neither
                continue
            last, kind = (
                (subnet.broadcast_address, "ADDRESS_BROADCAST")
                if version == 4
                else (subnet.network_address, "ADDRESS_ANYCAST")
            )
            if last not in known:
                yield OwnAddress(last, kind, port.port, address.span)
                known.add(last)


class _Lowering(Struct, frozen=True):
    """One port's program."""

    instance: ServiceInstance
    port: Port
    model: RouterModel
    nexthops: NextHops

    def constants(self) -> Iterator[Constant]:
        here = self.model.port(self.port)
        yield Constant(
            str(self.port),
            self.port.name,
            "the port that packets come from",
            Inlined("port", str(self.port.index)),
            here.span,
        )
        yield nexthop_maps(self.instance, self.model)
        for version in (4, 6):
            literal = "true" if here.has(version) else "false"
            meaning = f"IPv{version} is spoken here"
            yield Constant(str(self.port), literal, meaning, Inlined(f"ipv{version}", literal), here.span)
        literal = "true" if here.redirects else "false"
        meaning = "hosts here are redirected"
        yield Constant(f"{self.port}.redirects", literal, meaning, Inlined("redirects", literal), here.redirects_span)
        told = here.advertisement
        literal, span = "true" if told else "false", told.span if told else here.span
        meaning = "hosts here are told of the router"
        yield Constant(f"{self.port}.advertise", literal, meaning, Inlined("advertises", literal), span)
        yield Constant(f"{self.instance.name}.hz", "the host's", "jiffies a second", _HZ, self.instance.span)
        for port in self.model.ports:
            yield from self._egress(port)
        for version in (4, 6):
            for own in own_addresses(self.model.ports, version):
                if own.kind == "ADDRESS_OWN":
                    path = f"{own.port}.address {own.address}"
                    yield Constant(path, str(own.address), "own address", Inlined("", str(own.address)), own.span)
        for route in self.model.in_code:
            index = str(self.nexthops.of_route[route])
            path = f"{self.instance.name}.routes {route.prefix}"
            yield Constant(path, str(route.prefix), "next hop's index", Inlined("", index), route.span)

    def _egress(self, port: RouterPort) -> Iterator[Constant]:
        """The MAC and the MTU of a port that packets may leave by."""
        device = self.instance.interface(port.port)
        path = str(port.port)
        if port.mac or device is None:
            mac = port.mac or local_mac(self.instance, port.port)
            home = LoadTime("", int.from_bytes(mac, "little"))
            yield Constant(f"{path}.mac", mac.hex(":"), "MAC", home, port.mac_span)
        else:
            yield Constant(
                f"{path}.mac", "its interface's", "MAC", HostBound("", HostFact.MAC, device.name), port.mac_span
            )
        if port.mtu or device is None:
            mtu = port.mtu or DEFAULT_MTU
            yield Constant(f"{path}.mtu", str(mtu), "MTU", LoadTime("", mtu), port.mtu_span)
        else:
            yield Constant(
                f"{path}.mtu", "its interface's", "MTU", HostBound("", HostFact.MTU, device.name), port.mtu_span
            )

    def maps(self) -> Iterator[MapDef]:
        yield self._nexthops()
        yield from followed_maps(self.instance, self.model)
        yield self._neighbours_version()
        for version in (4, 6):
            if any(port.has(version) for port in self.model.ports):
                yield self._neighbours(version)
                yield self._recent(version)
        if self.model.port(self.port).redirects:
            yield self._redirected()

    def _nexthops(self) -> MapDef:
        """Ports are known by their index here, so their order is part of the layout."""
        name = map_name(self.instance.name, "nexthops")
        return array(
            self.instance,
            "nexthops",
            "struct nexthop",
            NEXTHOP.size,
            with_headroom(1 + len(self.nexthops.slots)),
            role=Role.CONFIG,
            layout=f"router nexthops/1 {port_order(self.instance)}",
            span=self.instance.span,
            entries=tuple(
                Constant(
                    f"{self.instance.name}.nexthops[{slot.index}]",
                    slot.text,
                    "a next hop",
                    InMap(name, slot.index.to_bytes(4, "little"), slot.value),
                    slot.span,
                )
                for slot in self.nexthops.slots
            ),
        )

    def _neighbours(self, version: int) -> MapDef:
        """Likewise."""
        return MapDef(
            name=map_name(self.instance.name, f"neighbours{version}"),
            type="BPF_MAP_TYPE_HASH",
            key_type=f"struct neighbour{version}_key",
            key_size=NEIGHBOUR_KEY[version].size,
            value_type="struct neighbour",
            value_size=NEIGHBOUR.size,
            max_entries=NEIGHBOURS,
            scope=Scope.SERVICE,
            role=Role.STATE,
            layout=f"router neighbours/1 {port_order(self.instance)}",
            span=self.instance.span,
            field=f"neighbours{version}",
            service=self.instance.name,
        )

    def _neighbours_version(self) -> MapDef:
        return array(
            self.instance,
            "neighbours_version",
            "__u64",
            NEIGHBOURS_VERSION_SIZE,
            role=Role.STATE,
            layout="router neighbours version/1",
            span=self.instance.span,
            flags=BPF_F_MMAPABLE,
            field="neighbours_version",
        )

    def _recent(self, version: int) -> MapDef:
        """What each CPU remembers of the neighbours; a new generation looks them up anew."""
        return array(
            self.instance,
            f"recent{version}",
            f"struct recent{version}_places",
            RECENT_SIZE[version],
            role=Role.SCRATCH,
            layout="router recent/1",
            span=self.instance.span,
            per_cpu=True,
            field=f"recent{version}",
        )

    def _redirected(self) -> MapDef:
        """When each CPU has sent up a copy for whom."""
        return array(
            self.instance,
            "redirected",
            "struct redirect_places",
            REDIRECTED_SIZE,
            role=Role.SCRATCH,
            layout="router redirected/1",
            span=self.instance.span,
            per_cpu=True,
            field="redirected",
        )

    def functions(self) -> Iterator[GeneratedFunction]:
        yield self._function("egress", "egress.c.j2", self.instance.span, ports=list(self._ways_out()))
        here = self.model.port(self.port)
        for version in (4, 6):
            if not here.has(version):
                continue
            for field, ports in ((f"address{version}", self.model.ports), (f"port_address{version}", (here,))):
                addresses = list(own_addresses(ports, version))
                yield self._function(field, f"address{version}.c.j2", addresses[0].span, addresses=addresses)
            routes = [(route, self.nexthops.of_route[route]) for route in self.model.in_code_of(version)]
            tables = fib_literal(self.instance, self.model, version) if self.model.table_size else None
            yield self._function(
                f"route{version}", f"route{version}.c.j2", routes[0][0].span, steps=list(tree(routes)), tables=tables
            )

        if here.redirects:
            yield from self._neighbourhood(here)

    def _neighbourhood(self, here: RouterPort) -> Iterator[GeneratedFunction]:
        """Who is on the link of the port."""
        for version, field in ((4, "share_subnet4"), (6, "is_on_link6")):
            if subnets := here.subnets(version):
                yield self._function(
                    field, f"{field}.c.j2", here.span, subnets=subnets, words_under_mask=words_under_mask
                )

    def _function(self, field: str, template: str, span: Span, **values: object) -> GeneratedFunction:
        name = f"{port_name(self.port)}__{field}"
        rendering = Rendering(_TEMPLATES, template, {"name": name, "words": words, **values})
        return GeneratedFunction(field, name, rendering, span)

    def _ways_out(self) -> Iterator[tuple[Port, CText, CText]]:
        """Each port with the C of its MAC and of its MTU."""
        for port in self.model.ports:
            mac, mtu = self._egress(port)
            yield port.port, _loaded(mac), _loaded(mtu)


def _loaded(constant: Constant) -> CText:
    """The C of what the loader fills in."""
    match constant.home:
        case HostBound(_, fact, device):
            return loaded(host_symbol(fact, device))
        case _:
            return loaded(value_symbol(constant.path))


def words(address: Address | int) -> tuple[int, ...]:
    """An address or a mask of 128 bits as its 32-bit words, first on the wire first."""
    number = int(address)
    width = 32 if isinstance(address, IPv4Address) else 128
    return tuple(number >> shift & 0xFFFFFFFF for shift in range(width - 32, -1, -32))


def words_under_mask(subnet: IPv6Network) -> list[tuple[int, int]]:
    """The 32-bit words of a prefix that are not all of any value, each with its mask."""
    pairs = zip(words(subnet.network_address), words(subnet.netmask), strict=True)
    return [(word, mask) for word, mask in pairs if mask] or [(0, 0)]


_HZ = HostBound("hz", HostFact.HZ, None)
