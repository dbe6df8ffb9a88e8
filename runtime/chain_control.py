"""A running chain in; its control planes at work out: packets that come up are handed to the one that they are for.

One of these reads the ring of one generation. A new generation gets a new one, which takes the instances over.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from schemas.manifest import Hook, HostFact, InterfaceRecord, Manifest, MapRecord, ServiceRecord
from schemas.slow_path import RECORD

from . import sys
from .control import ControlPlane, Packet, Port
from .control_maps import ControlMap, Layout, service_map
from .downcalls import Downcalls, Way
from .home import name_of
from .link_watch import LinkWatch
from .log import Log
from .pin import GenerationPins
from .protocols.offload import finished
from .record import Record
from .ringbuf import RingBuffer
from .rtnetlink import Subscription
from .supervisor import Instance

BATCH_PACKETS = 256
"""So many are handled before anything else gets its turn."""

POLL_SECONDS = 0.001
QUIET_SECONDS = 0.03
"""A program wakes the reader once a jiffy, and a jiffy is 10 ms at most: until then the reader looks by itself."""

_HOOKS = (Hook.XDP, Hook.TC)
_new = tuple.__new__  # a NamedTuple's own, in Python, takes three times as long


def needs_daemon(manifest: Manifest) -> tuple[ServiceRecord, ...]:
    """The services that have a control plane."""
    return tuple(service for service in manifest.services if service.control is not None)


class ServicePlace:
    """A service in one generation (supervisor.Place)."""

    def __init__(self, control: ChainControl, record: ServiceRecord) -> None:
        self.chain, self.service = control.manifest.chain, record.name
        self.netns = control.home
        self.record = record
        self.ports: dict[str, Port] = dict(_ports(control.manifest, record))
        self.in_order: list[Port] = list(self.ports.values())
        self._ways: dict[str, Way] = {}
        self._control = control
        self.refresh()

    @property
    def config(self) -> Mapping[str, Any]:
        return self.record.control or {}

    def refresh(self) -> Iterator[Port]:
        """Looks at the devices again; gives the ports whose device is another one, or in another state."""
        changed = [fresh for port in self.ports.values() if (fresh := self._control.as_now(port)) != port]
        self.ports |= {port.name: port for port in changed}
        self.in_order[:] = self.ports.values()
        return iter(changed)

    def loaded(self, fact: HostFact, interface: str) -> bytes | None:
        """What programs were told of an interface when they were loaded."""
        symbols = (symbol for symbol in self._control.manifest.host_symbols if symbol.device == interface)
        found = next((symbol for symbol in symbols if symbol.fact is fact), None)
        return self._control.facts.get(found.symbol) if found else None

    def open_map(self, name: str, key: Layout | None, value: Layout | None) -> ControlMap:
        record = service_map(self._control.manifest, self.service, name)
        return ControlMap(self._control.open(record), record, key, value)

    def out_of(self, port: str) -> Way:
        """The way out of a port, worked out once. Raises LookupError where it leads nowhere."""
        way = self._ways.get(port)
        if way is None:
            way = self._ways[port] = self._way(self.ports[port])
        return way

    def _way(self, port: Port) -> Way:
        service, _, peer = port.peer.partition(".")
        if port.interface:
            return self._control.down.out_of(port.interface)
        if peer:
            return self.into(service, peer, None)
        where = port.peer or "nothing"
        raise LookupError(f"`{self.service}.{port.name}` leads to {where}, where nothing is sent to")

    def into(self, service: str, port: str, hook: Hook | None) -> Way:
        """The way into a port of the chain. Raises LookupError where there is none."""
        return self._control.down.into(service, port, hook)


def _ports(manifest: Manifest, service: ServiceRecord) -> Iterator[tuple[str, Port]]:
    """The ports of a service, each with what it is linked to."""
    programs = {program.name: program for program in manifest.programs}
    peers: dict[str, str] = {}
    for edge in manifest.edges:
        if edge.service == service.name:
            kind, _, name = edge.target.partition(" ")
            program = programs.get(name) if kind == "program" else None
            peers[edge.port] = f"{program.service}.{program.port}" if program else edge.target
    for attach in manifest.attach:
        program = programs[attach.program]
        if program.service == service.name and program.port:
            peers[program.port] = f"interface {attach.interface}"
    for index, name in enumerate(service.ports):
        yield name, Port(name, index, peers.get(name, ""))


def _interfaces_by_peer(manifest: Manifest) -> dict[str, InterfaceRecord]:
    """Interfaces by what ports say that they are linked to (`Port.peer`).

    For those that share a device it is a port of the service that sorts its frames, which the device leads into.
    """
    services = {program.name: program.service for program in manifest.programs}
    whole = {found.name: found for found in manifest.interfaces if found.vlan is None}
    leads_into = {
        (device.netns, device.device): services[attach.program]
        for attach in manifest.attach
        if (device := whole.get(attach.interface))
    }
    shares = {
        f"{leads_into[share.netns, share.device]}.{share.name}": share
        for share in manifest.interfaces
        if share.vlan is not None
    }
    return {f"interface {name}": interface for name, interface in whole.items()} | shares


class ChainControl:
    """The control planes of one generation, and the ring that their packets come up by."""

    def __init__(
        self,
        pins: GenerationPins,
        record: Record,
        find: Callable[[str], ControlPlane],
        log: Log,
        changed: Callable[[], None],
        before: ChainControl | None = None,
    ) -> None:
        """Takes over the instances of `before`, which is read to its end first. Raises SyscallFailed if it vanishes.

        `changed` is called when it is time to look at links.
        """
        self.pins = pins
        self.manifest = record.manifest
        self.facts = record.facts
        self.home = name_of(record.home)
        self.unclaimed = 0
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle | None = None
        self._heard = 0.0
        self._interfaces = _interfaces_by_peer(self.manifest)
        self._changed = changed
        self._links: dict[str | None, LinkWatch] = {}
        self.down = Downcalls(self.manifest, self.home)
        self.places = {service.name: ServicePlace(self, service) for service in needs_daemon(self.manifest)}
        self._tables = [self._table(service) for service in self.manifest.services]
        ring = next((found for found in self.manifest.maps if found.type == "BPF_MAP_TYPE_RINGBUF"), None)
        self._ring = RingBuffer(self.open(ring)) if ring else None
        self.instances: dict[str, Instance] = {}
        self._take_over(before, find)
        if self._ring:
            self._loop.add_reader(self._ring.fileno(), self.drain)

    def _take_over(self, before: ChainControl | None, find: Callable[[str], ControlPlane]) -> None:
        instances = before.finish() if before else {}
        for name, place in self.places.items():
            instance = instances.get(name)
            if instance and instance.kind == place.record.kind:
                self.instances[name] = instances.pop(name)
                instance.move(place)
            else:
                log = self._log.bound(service=name, kind=place.record.kind)
                self.instances[name] = Instance(place.record.kind, find, place, log)
                self.instances[name].start()
        for instance in instances.values():
            instance.stop()
        if before:
            before.close()

    def open(self, record: MapRecord) -> sys.Fd:
        return sys.obj_get(self.pins.map(record.name, record.layout))

    def as_now(self, port: Port) -> Port:
        """A port with what its device says now."""
        interface = self._interfaces.get(port.peer)
        if interface is None:
            return port
        netns = interface.netns or self.home
        devices = self._links_of(netns).devices
        found = devices.find(interface.device)
        if found is None:
            return replace(port, device=interface.device, netns=netns, ifindex=0, up=False)
        up = devices.has_carrier(interface.device)
        return replace(port, device=found.name, netns=netns, ifindex=found.ifindex, mac=found.mac, mtu=found.mtu, up=up)

    def _links_of(self, netns: str | None) -> LinkWatch:
        found = self._links.get(netns)
        if found is None:
            found = self._links[netns] = LinkWatch(netns, self._watch, self._changed)
            found.renew()
        return found

    def _watch(self, file: Subscription, call: Callable[[], None]) -> Callable[[], object]:
        self._loop.add_reader(file, call)
        return lambda: self._loop.remove_reader(file)

    def _table(self, service: ServiceRecord) -> tuple[list[Port], dict[int, str]]:
        """What the numbers in records of one service mean; its ports are kept as they are now."""
        place = self.places.get(service.name)
        return (place.in_order if place else []), dict(service.slow_path_reasons)

    def look_at_links(self) -> None:
        """Tells control planes what has changed with their interfaces; lets go of namespaces that have been removed."""
        same = [links.renew() for links in self._links.values()]
        if not all(same):
            self.down.close()
            for instance in self.instances.values():
                instance.namespaces_changed()
        for name, place in self.places.items():
            for port in place.refresh():
                self.instances[name].link_changed(port)

    # --- packets that come up ---

    def drain(self) -> None:
        """Hands over a batch; comes back at once if there is more, and soon while packets keep coming."""
        if self._next:
            self._next.cancel()
            self._next = None
        if self._deliver(BATCH_PACKETS):
            self._heard = self._loop.time()
            self._next = self._loop.call_soon(self.drain)
        elif self._loop.time() - self._heard < QUIET_SECONDS:
            self._next = self._loop.call_later(POLL_SECONDS, self.drain)

    def _deliver(self, limit: int) -> int:
        """How many packets there were."""
        if self._ring is None:
            return 0
        records = self._ring.read(limit, RECORD)
        batches: defaultdict[int, list[Packet]] = defaultdict(list)
        for (time_ns, length, note, service, port, reason, hook), frame in records:
            ports, reasons = self._tables[service]
            if hook and length == len(frame):
                frame = finished(frame)
            values = (ports[port], reasons[reason], frame, note, time_ns, length, _HOOKS[hook])
            batches[service].append(_new(Packet, values))
        for service, packets in batches.items():
            instance = self.instances.get(self.manifest.services[service].name)
            if instance is None or not instance.deliver(packets):
                self.unclaimed += len(packets)
        return len(records)

    # --- the end ---

    def finish(self) -> dict[str, Instance]:
        """Reads what is left, lets its instances go to whoever comes next."""
        if self._ring:
            self._loop.remove_reader(self._ring.fileno())
        if self._next:
            self._next.cancel()
            self._next = None
        while self._deliver(BATCH_PACKETS):
            pass
        instances, self.instances = self.instances, {}
        return instances

    def close(self) -> None:
        if self._ring:
            self._ring.close()
        self._ring = None
        self.down.close()
        for links in self._links.values():
            links.close()

    def stop(self) -> None:
        """Ends all of it."""
        for instance in self.finish().values():
            instance.stop()
        self.close()
