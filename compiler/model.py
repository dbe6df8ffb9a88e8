"""A chain with its meaning resolved: what `resolve` makes of a `Source` and `lower` turns into programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from schemas.diagnostic import Span
from schemas.manifest import Mode

from .service import Service


class Interface(Struct, frozen=True):
    """A netdevice under the chain's name for it; `netns` None is the namespace that applies the chain.

    With `vlan` it is that VLAN of the device, whose frames come and go without their tag (0: none). `others` is where
    frames of VLANs without an interface go, or empty where that is not said here.
    """

    name: str
    device: str
    mode: Mode
    netns: str | None
    span: Span
    vlan: int = 0
    others: str = ""


class Port(Struct, frozen=True):
    """A virtual port: `index` counts within its service from 0, in the file's or the kind's order."""

    service: str
    name: str
    index: int
    span: Span

    def __str__(self) -> str:
        return f"{self.service}.{self.name}"


class ServiceInstance(Struct, frozen=True):
    """A service of the chain; `config` is the frozen model that the kind's own `resolve` made.

    `interfaces` has (port, interface) for each port that leads to an interface, be it through transparent services.
    Facts of that interface (its MAC, its MTU) are the port's.
    """

    name: str
    service: Service
    ports: tuple[Port, ...]
    config: object
    span: Span
    chain: str = ""
    interfaces: tuple[tuple[str, Interface], ...] = ()

    @property
    def kind(self) -> str:
        return self.service.kind

    def interface(self, port: Port) -> Interface | None:
        """The interface that `port` leads to, if it does."""
        return dict(self.interfaces).get(port.name)

    def port(self, name: str) -> Port:
        return next(port for port in self.ports if port.name == name)

    def ways_out(self, incoming: Port) -> tuple[Port, ...]:
        """The ports by which a packet that came in by `incoming` may leave."""
        if self.service.star and incoming != self.ports[0]:
            return self.ports[:1]
        return tuple(port for port in self.ports if port != incoming or self.service.hairpin)

    @property
    def control(self) -> Mapping[str, Any] | None:
        """What its control plane has to know; None where this instance has none."""
        return self.service.control(self) if self.service.control else None

    @property
    def slow_path_reasons(self) -> tuple[tuple[int, str], ...]:
        """Those of its kind that its configuration has a use for; none where it does without a control plane."""
        if self.service.control is not None and self.control is None:
            return ()
        reasons, used = self.service.slow_path_reasons, self.service.reasons_of
        return reasons if used is None else tuple(reason for reason in reasons if reason[1] in used(self))


class Host(Struct, frozen=True):
    """This machine's own network stack, as the end of a link."""


LinkEnd = Port | Interface | Host


class Link(Struct, frozen=True):
    """Two ends that are joined; at least one is a `Port`."""

    ends: tuple[LinkEnd, LinkEnd]
    span: Span

    def other(self, end: LinkEnd) -> LinkEnd:
        return self.ends[1] if self.ends[0] == end else self.ends[0]


class SlowPath(Struct, frozen=True):
    """How many packets a second one reason may send up on one CPU, and how many at once."""

    rate: int
    span: Span

    @property
    def burst(self) -> int:
        """A tenth of a second's worth, and at least a few."""
        return max(self.rate // 10, 16)


class Chain(Struct, frozen=True):
    """A whole, valid chain. `file` and `sha256` identify the text it came from.

    `shared` are interfaces of the file that are linked no more, because a service sorts the frames of their device.
    """

    name: str
    mode: Mode
    interfaces: tuple[Interface, ...]
    services: tuple[ServiceInstance, ...]
    links: tuple[Link, ...]
    slow_path: SlowPath
    file: str
    sha256: str
    shared: tuple[Interface, ...] = ()

    def service(self, name: str) -> ServiceInstance:
        return next(service for service in self.services if service.name == name)

    def link(self, end: Port | Interface) -> Link:
        """The one link at `end`."""
        return next(link for link in self.links if end in link.ends)

    def peer(self, end: Port | Interface) -> LinkEnd:
        """What the one link at `end` leads to."""
        return self.link(end).other(end)
