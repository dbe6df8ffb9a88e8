"""A router in the chain file → its frozen model: ports with addresses, next hops, routes. Mistakes: R101 to R121."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Address

from msgspec import Struct

from schemas.diagnostic import Span
from schemas.services.router import FOLLOWED_PLACES, Kind, places

from ...addresses import (
    Address,
    InterfaceAddress,
    Prefix,
    parse_address,
    parse_interface_address,
    parse_mac,
    parse_prefix,
)
from ...model import Port, ServiceInstance
from ...source import Report, Value
from ...words import closest, listed, show
from .advertise import Advertisement, advertisement

MAIN_TABLE = 254  # RT_TABLE_MAIN
DEFAULT_KERNEL_ROUTES = 100_000

MOST_IN_CODE = 256
"""Static routes that become a decision tree; more of them go into tables, and nothing is compiled for one more."""

MOST_STATIC = 4096
"""maxItems of `routes` in the schema: tables have room for so many, so that they stay when routes are added."""

_REFUSALS = {"blackhole": Kind.BLACKHOLE, "unreachable": Kind.UNREACHABLE, "prohibit": Kind.PROHIBIT}


class PortAddress(Struct, frozen=True):
    """One of the router's own addresses, with its subnet."""

    interface: InterfaceAddress
    span: Span

    @property
    def ip(self) -> Address:
        return self.interface.ip

    @property
    def subnet(self) -> Prefix:
        return self.interface.network


class RouterPort(Struct, frozen=True):
    """A port: its own addresses; `mac` (six bytes) and `mtu` (bytes) where the file gives them."""

    port: Port
    addresses: tuple[PortAddress, ...]
    mac: bytes | None
    mac_span: Span
    mtu: int | None
    mtu_span: Span
    redirects: bool
    redirects_span: Span
    advertisement: Advertisement | None
    span: Span

    def has(self, version: int) -> bool:
        """Whether the port takes part in this IP version."""
        return any(address.ip.version == version for address in self.addresses)

    def subnets(self, version: int) -> tuple[Prefix, ...]:
        """Of one IP version, each once."""
        return tuple(dict.fromkeys(each.subnet for each in self.addresses if each.ip.version == version))


class NextHop(Struct, frozen=True):
    """One way to go. `port` and `gateway` where the kind has them; two routes with equal next hops share one."""

    kind: Kind
    port: Port | None = None
    gateway: Address | None = None

    @property
    def text(self) -> str:
        """`via 10.0.0.1 on wan`, `on lan`, `blackhole`."""
        if self.kind is Kind.VIA:
            return f"via {self.gateway} on {self.port.name if self.port else '?'}"
        return f"on {self.port.name}" if self.port else self.kind.name.lower()


class Route(Struct, frozen=True):
    """A destination prefix and its next hops, several for equal-cost paths."""

    prefix: Prefix
    nexthops: tuple[NextHop, ...]
    metric: int
    span: Span


class KernelRoutes(Struct, frozen=True):
    """The kernel table to follow: its number, its namespace (None: the first port's), for how many routes."""

    table: int
    netns: str | None
    size: int
    span: Span


class IcmpRates(Struct, frozen=True):
    """ICMP errors a second: to all receivers together, and to one."""

    all: int = 1000
    receiver: int = 10


class RouterModel(Struct, frozen=True):
    """A router's configuration. `routes` are those in use: connected ones, and the best static one to each prefix."""

    ports: tuple[RouterPort, ...]
    routes: tuple[Route, ...]
    connected: int  # how many of them are connected ones
    icmp: IcmpRates = IcmpRates()
    kernel_routes: KernelRoutes | None = None

    @property
    def in_code(self) -> tuple[Route, ...]:
        """The routes that programs know by themselves: all of them, or, where those are many, the ports' subnets."""
        return self.routes if self.connected + MOST_IN_CODE >= len(self.routes) else self.routes[: self.connected]

    @property
    def table_size(self) -> int:
        """For how many routes of each IP version tables have room, which `apply` fills; 0: there are none."""
        if self.kernel_routes:
            return MOST_STATIC + self.kernel_routes.size  # always: the tables stay when static routes become many
        return MOST_STATIC if len(self.in_code) < len(self.routes) else 0

    def port(self, port: Port) -> RouterPort:
        return next(each for each in self.ports if each.port == port)

    def in_code_of(self, version: int) -> tuple[Route, ...]:
        """Those of one IP version, in the order of the file, connected ones first."""
        return tuple(route for route in self.in_code if route.prefix.version == version)


def resolve(value: Value, ports: tuple[Port, ...], report: Report) -> RouterModel:
    """The model of one router. Reports C212, C214 and R101 to R113."""
    named = value.get("ports")
    settings = dict(named.items()) if named else {}
    routers = tuple(_port(port, settings[port.name], report) for port in ports if port.name in settings)
    _check_addresses(routers, report)
    connected = tuple(_connected(routers))
    listed_routes = value.get("routes")
    static = _Routes(routers, report).resolve(listed_routes.elements() if listed_routes else ())
    kernel_routes = value.get("kernel-routes")
    return RouterModel(
        routers,
        (*connected, *_best(static, connected, report)),
        len(connected),
        _icmp_rates(value),
        _kernel_routes(kernel_routes) if kernel_routes else None,
    )


def check(instance: ServiceInstance, report: Report) -> None:
    """Reports R114 and R115."""
    model = instance.config
    assert isinstance(model, RouterModel)
    if model.kernel_routes:
        _check_devices(instance, model.kernel_routes, report)
    if model.table_size:
        _check_room(model, report)


def _check_devices(instance: ServiceInstance, follows: KernelRoutes, report: Report) -> None:
    """R114: a route of the kernel names a device, of which each port that follows them needs one of its own."""
    for port in instance.ports:
        interface = instance.interface(port)
        if interface is not None and interface.vlan:
            report.error(
                "R114",
                f"routes of the kernel cannot lead to port `{port.name}`, which is a VLAN of a device",
                follows.span,
                label=f"a route by `{interface.device}` does not mean VLAN {interface.vlan}",
                notes=(f"interface `{interface.name}` is at {interface.span}",),
                help="give the port a device of its own, or write the routes under `routes:`",
            )


def _check_room(model: RouterModel, report: Report) -> None:
    """R115: whatever is in tables leads to next hops, which have room of their own; addresses have enough of it."""
    taken, seen = 0, set[tuple[NextHop, ...]]()
    for route in model.routes:
        if route.nexthops in seen:
            continue
        seen.add(route.nexthops)
        size = places(len(route.nexthops))
        taken += size
        if taken > FOLLOWED_PLACES:
            report.error(
                "R115",
                f"there is no room for the next hops of the route to `{route.prefix}`",
                route.span,
                label=f"its {len(route.nexthops)} next hops take {size} places",
                notes=(f"with those of the routes before it that is {taken}, and there are {FOLLOWED_PLACES}",),
                help="routes with the same gateways in the same order share their places",
            )
            return


def _kernel_routes(value: Value) -> KernelRoutes:
    table, netns, size = value.get("table"), value.get("netns"), value.get("size")
    assert table is not None, "the schema requires it"
    number = MAIN_TABLE if table.data == "main" else table.data
    return KernelRoutes(
        number, netns.data if netns else None, size.data if size else DEFAULT_KERNEL_ROUTES, value.key_span
    )


def _icmp_rates(value: Value) -> IcmpRates:
    every, receiver = value.get("icmp", "rate"), value.get("icmp", "receiver-rate")
    default = IcmpRates()
    return IcmpRates(every.data if every else default.all, receiver.data if receiver else default.receiver)


def _port(port: Port, value: Value, report: Report) -> RouterPort:
    address, mac, mtu, redirects = (value.get(key) for key in ("address", "mac", "mtu", "redirects"))
    parsed = (_own_address(item, report) for item in (address.elements() if address else ()))
    addresses, advertise = tuple(each for each in parsed if each), value.get("advertise")
    subnets = tuple(dict.fromkeys(each.subnet for each in addresses if each.ip.version == 6))
    return RouterPort(
        port=port,
        addresses=addresses,
        mac=_mac(mac, report) if mac else None,
        mac_span=mac.span if mac else value.key_span,
        mtu=mtu.data if mtu else None,
        mtu_span=mtu.span if mtu else value.key_span,
        redirects=redirects.data if redirects else True,
        redirects_span=redirects.span if redirects else value.key_span,
        advertisement=advertisement(advertise, subnets, mtu.data if mtu else None, report) if advertise else None,
        span=value.key_span,
    )


def _own_address(value: Value, report: Report) -> PortAddress | None:
    interface = parse_interface_address(value, report)
    if interface is None:
        return None
    if reason := _unfit_for_a_port(interface):
        report.error(
            "R101",
            f"{show(value.data)} cannot be a router's own address",
            value.span,
            label=reason,
            help="for example `10.0.0.1/24` or `2001:db8::1/64`",
        )
        return None
    return PortAddress(interface, value.span)


def _unfit_for_a_port(interface: InterfaceAddress) -> str:
    """Why it is no host's address on its subnet, or an empty string (RFC 1122 3.2.1.3, RFC 4291 2.5)."""
    ip, subnet = interface.ip, interface.network
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        return "a group, unspecified or loopback address"
    if ip.version == 6 and ip.is_link_local:
        return "every port has a link-local address by itself"
    if ip.version == 4 and ip.is_reserved:
        return "a reserved address"
    if subnet.prefixlen < ip.max_prefixlen - 1:
        if ip == subnet.network_address:
            return "the address of the subnet itself"
        if ip.version == 4 and ip == subnet.broadcast_address:
            return "the broadcast address of its subnet"
    return ""


def _mac(value: Value, report: Report) -> bytes | None:
    mac = parse_mac(value, report)
    if mac is not None and (mac[0] & 1 or not any(mac)):
        label = "a group address, or zero"
        report.error("R109", f"{show(value.data)} is not the address of one station", value.span, label=label)
        return None
    return mac


def _check_addresses(ports: Iterable[RouterPort], report: Report) -> None:
    """Each address once (R102), and each subnet on one port (R103)."""
    seen: list[tuple[RouterPort, PortAddress]] = []
    for port in ports:
        for address in port.addresses:
            clash = next(((p, a) for p, a in seen if a.subnet.overlaps(address.subnet)), None)
            same = next((a for _, a in seen if a.ip == address.ip), None)
            if same:
                notes, advice = (f"first at {same.span}",), "remove one of the two"
                report.error("R102", f"address `{address.ip}` is here twice", address.span, notes=notes, help=advice)
            elif clash and clash[0] != port:
                report.error(
                    "R103",
                    f"subnet `{address.subnet}` of port `{port.port.name}` overlaps `{clash[1].subnet}`",
                    address.span,
                    label=f"addresses that port `{clash[0].port.name}` has too",
                    notes=(f"the other one is at {clash[1].span}",),
                    help="give each port a subnet of its own",
                )
            seen.append((port, address))


def _connected(ports: Iterable[RouterPort]) -> Iterator[Route]:
    """A route for the subnet of each address; two addresses of one subnet have one route."""
    known: set[Prefix] = set()
    for port in ports:
        for address in port.addresses:
            if address.subnet not in known:
                known.add(address.subnet)
                yield Route(address.subnet, (NextHop(Kind.CONNECTED, port.port),), 0, address.span)


def _best(static: Iterable[Route], connected: Iterable[Route], report: Report) -> Iterator[Route]:
    """Of the routes to one prefix that with the lowest metric. Reports R106 and R111."""
    on_link = {route.prefix: route for route in connected}
    best: dict[Prefix, Route] = {}
    seen: dict[tuple[Prefix, int], Route] = {}
    for route in static:
        if route.prefix in on_link:
            report.error(
                "R111",
                f"route to `{route.prefix}`, which is connected",
                route.span,
                label="never used: the subnet of a port comes first",
                notes=(f"connected at {on_link[route.prefix].span}",),
                help="remove the route, or make its prefix longer",
            )
            continue
        first = seen.setdefault((route.prefix, route.metric), route)
        if first is not route:
            message = f"two routes to `{route.prefix}` with the same metric"
            advice = "for equal-cost paths write one route with `via: [A, B]`, for a spare one a higher `metric`"
            report.twice("R106", message, route.span, first.span, advice)
            continue
        if route.prefix not in best or route.metric < best[route.prefix].metric:
            best[route.prefix] = route
    yield from best.values()


class _Routes(Struct, frozen=True):
    """Resolves static routes against the ports that they lead to."""

    ports: tuple[RouterPort, ...]
    report: Report

    def resolve(self, values: Iterable[Value]) -> Iterator[Route]:
        subnets: Mapping[Prefix, Port] = {a.subnet: port.port for port in self.ports for a in port.addresses}
        own = {address.ip for port in self.ports for address in port.addresses}
        for value in values:
            to = value.get("to")
            prefix = parse_prefix(to, self.report) if to else None
            nexthops = self._nexthops(value, prefix, subnets, own)
            metric = value.get("metric")
            if prefix is not None and nexthops and self._routable(to, prefix):
                yield Route(prefix, nexthops, metric.data if metric else 0, to.span if to else value.span)

    def _routable(self, to: Value | None, prefix: Prefix) -> bool:
        """Groups, loopback and link-local destinations are never forwarded (RFC 1812 5.3.7, RFC 4291 2.5.6)."""
        address = prefix.network_address
        if prefix.prefixlen and to and (address.is_multicast or address.is_loopback or address.is_link_local):
            label = "group, loopback and link-local addresses are never forwarded"
            self.report.error("R110", f"`{prefix}` cannot be routed", to.span, label=label)
            return False
        return True

    def _nexthops(
        self, value: Value, prefix: Prefix | None, subnets: Mapping[Prefix, Port], own: set[Address]
    ) -> tuple[NextHop, ...]:
        port_value, via = value.get("port"), value.get("via")
        ways = [key for key in ("via", *_REFUSALS) if value.get(key)]
        if port_value and not via:
            ways.append("port")  # alone it says that the destinations are on the link
        if len(ways) != 1:
            self._no_single_way(value, ways)
            return ()
        if ways[0] in _REFUSALS:
            return (NextHop(_REFUSALS[ways[0]]),)
        port = self._port(port_value) if port_value else None
        if port_value and port is None:
            return ()
        if via is None:
            return (NextHop(Kind.CONNECTED, port),)
        gateways = (self._gateway(item, prefix, port, subnets, own) for item in via.elements())
        return tuple(dict.fromkeys(each for each in gateways if each))

    def _no_single_way(self, value: Value, ways: list[str]) -> None:
        found = f"`{'` and `'.join(ways)}`" if ways else "none of them"
        self.report.error(
            "R113",
            "a route needs just one way to go",
            value.span,
            label=f"has {found}",
            notes=("the ways: via, port, blackhole, unreachable, prohibit",),
            help="for example `{to: 0.0.0.0/0, via: 10.0.0.1}`",
        )

    def _port(self, value: Value) -> Port | None:
        names = {port.port.name: port.port for port in self.ports}
        if value.data in names:
            return names[value.data]
        meant = closest(value.data, names)
        self.report.error(
            "R107",
            f"route leads to unknown port {show(value.data)}",
            value.span,
            label="no port of this router has this name",
            notes=(f"ports here: {listed(sorted(names))}",),
            help=f"did you mean `{meant}`?" if meant else "",
        )
        return None

    def _gateway(
        self, value: Value, prefix: Prefix | None, port: Port | None, subnets: Mapping[Prefix, Port], own: set[Address]
    ) -> NextHop | None:
        gateway = parse_address(value, self.report)
        if gateway is None or prefix is None:
            return None
        if gateway.version != prefix.version:
            label = f"an IPv{gateway.version} address"
            message = f"IPv{prefix.version} packets cannot go via {show(value.data)}"
            self.report.error("R108", message, value.span, label=label)
            return None
        if isinstance(gateway, IPv6Address) and gateway.is_link_local:
            if port is None:
                label = "every port has link-local neighbours"
                advice = "say which with `port:`"
                message = f"link-local gateway `{gateway}` without a port"
                self.report.error("R112", message, value.span, label=label, help=advice)
                return None
            return NextHop(Kind.VIA, port, gateway)
        return self._on_a_subnet(value, gateway, port, subnets, own)

    def _on_a_subnet(
        self, value: Value, gateway: Address, port: Port | None, subnets: Mapping[Prefix, Port], own: set[Address]
    ) -> NextHop | None:
        subnet = next((each for each in subnets if gateway in each and port in (None, subnets[each])), None)
        if subnet is None:
            known = listed(sorted(f"{each} ({subnets[each].name})" for each in subnets))
            self.report.error(
                "R104",
                f"gateway `{gateway}` is on no subnet of {'this router' if port is None else f'port `{port.name}`'}",
                value.span,
                label="a gateway has to be a neighbour",
                notes=(f"subnets here: {known}",),
            )
            return None
        if gateway in own or _is_no_host(gateway, subnet):
            label = "the router's own address" if gateway in own else "the address of no single host"
            self.report.error("R105", f"`{gateway}` cannot be a gateway", value.span, label=label)
            return None
        return NextHop(Kind.VIA, subnets[subnet], gateway)


def _is_no_host(address: Address, subnet: Prefix) -> bool:
    if subnet.prefixlen >= address.max_prefixlen - 1:
        return False
    return address == subnet.network_address or (address.version == 4 and address == subnet.broadcast_address)
