"""`Source` in, `Chain` out; or every mistake of the file at once, of shape and of meaning."""

from __future__ import annotations

from schemas.diagnostic import InvalidChain, Span
from schemas.manifest import Mode

from .devices import check_devices, with_sorted_devices
from .links import RESERVED, Ends, resolve_links
from .model import Chain, Interface, Port, ServiceInstance, SlowPath
from .service import Service, registry
from .source import Pointer, Report, Source, Value
from .topology import check_tail_calls, check_topology, with_interfaces
from .validate import in_order, shape_errors, sound_part, told
from .words import did_you_mean, listed, show

DEFAULT_SLOW_PATH_RATE = 10_000  # packets a second: what leaves a control plane a tenth of a CPU busy
DEVICE_NAME_BYTES = 15  # IFNAMSIZ without its NUL


def resolve(source: Source) -> Chain:
    """Resolve a chain file. Raises InvalidChain with all of its diagnostics, in the order of the file."""
    shape = shape_errors(source)
    report = Report(list(told(source, shape)))
    chain = _Resolver(source, frozenset(error.pointer for error in shape), report).chain()
    if report.diagnostics:
        raise InvalidChain(in_order(set(report.diagnostics)))
    return chain


class _Resolver:
    """Resolves what can be relied on: a part with a mistake of shape is passed over, the rest is not."""

    def __init__(self, source: Source, broken: frozenset[Pointer], report: Report) -> None:
        self._root = source.root()
        self._wrong = broken
        self._unsound = frozenset(pointer[:depth] for pointer in broken for depth in range(len(pointer) + 1))
        self._report = report

    def chain(self) -> Chain:
        """The chain; complete only where nothing was reported."""
        name, mode = self._root.get("chain"), self._mode(self._root.get("mode"), Mode.NATIVE)
        interfaces = self._interfaces(mode)
        services = self._services()
        self._check_names()
        known = self._known("interfaces"), self._known("services")
        missing = frozenset(key for key in ("interfaces", "services") if not self._readable(key))
        ends = Ends(interfaces, services, *known, self._open_services(), missing)
        links = resolve_links(self._root.get("links") if self._readable("links") else None, ends, self._report)
        services = with_interfaces(services, links)
        self._check_services(services)
        check_topology(interfaces, services, links, self._report, complete=not self._report.diagnostics)
        text = name.data if name is not None and isinstance(name.data, str) else ""
        source = self._root.source
        chain = Chain(text, mode, interfaces, services, links, self._slow_path(), source.file, source.sha256)
        return chain if self._report.diagnostics else self._with_sorted_devices(chain)

    def _with_sorted_devices(self, chain: Chain) -> Chain:
        sorting = with_sorted_devices(chain)
        if sorting.shared:
            check_tail_calls(sorting, self._report)
        return sorting

    def _slow_path(self) -> SlowPath:
        rate = self._root.get("slow-path", "rate")
        if rate is None or not self._sound(rate):
            return SlowPath(DEFAULT_SLOW_PATH_RATE, self._root.span)
        return SlowPath(rate.data, rate.span)

    def _sound(self, value: Value | None) -> bool:
        """Whether neither the value nor anything in it has a mistake of shape."""
        return value is not None and value.pointer not in self._unsound

    def _readable(self, key: str) -> bool:
        """Whether a section is there, of the right type and not empty; what is in it may be wrong."""
        return self._root.get(key) is not None and (key,) not in self._wrong

    def _entries(self, key: str) -> list[tuple[str, Value]]:
        section = self._root.get(key)
        return list(section.items()) if section is not None and isinstance(section.data, dict) else []

    def _known(self, key: str) -> dict[str, Span]:
        """Every name that the section has, whether what stands under it is right or not."""
        return {name: value.key_span for name, value in self._entries(key)}

    def _mode(self, value: Value | None, default: Mode) -> Mode:
        return Mode(value.data) if value is not None and self._sound(value) else default

    def _check_names(self) -> None:
        services = dict(self._entries("services"))
        for name, value in [*self._entries("interfaces"), *services.items()]:
            if name in RESERVED:
                label = "choose another name"
                self._report.error("C222", f"name `{name}` is reserved", value.key_span, label=label)
        for name, value in self._entries("interfaces"):
            if name in services:
                notes = (f"the service is at {services[name].key_span}",)
                message = f"`{name}` names an interface and a service"
                self._report.error("C222", message, value.key_span, label="choose another name", notes=notes)

    def _interfaces(self, chain_mode: Mode) -> tuple[Interface, ...]:
        resolved: list[tuple[Interface, Value]] = []
        for name, value in self._entries("interfaces"):
            device = value.get("device")
            if self._sound(value) and device is not None:
                resolved.append((self._interface(name, value, device.data, chain_mode), value))
        check_devices(
            [found for found in resolved if self._check_device(found[1].get("device") or found[1])], self._report
        )
        return tuple(interface for interface, _ in resolved)

    def _interface(self, name: str, value: Value, device: str, chain_mode: Mode) -> Interface:
        netns, vlan, others = value.get("netns"), value.get("vlan"), value.get("others")
        return Interface(
            name=name,
            device=device,
            mode=self._mode(value.get("mode"), chain_mode),
            netns=netns.data if netns else None,
            span=value.key_span,
            vlan=vlan.data if vlan else 0,
            others=others.data if others else "",
        )

    def _check_device(self, value: Value) -> bool:
        """What dev_valid_name() in net/core/dev.c accepts."""
        device: str = value.data
        size = len(device.encode())
        if size > DEVICE_NAME_BYTES:
            message, label = f"device name {show(device)} is too long", f"{size} bytes"
            notes = (f"the kernel's limit is {DEVICE_NAME_BYTES} bytes",)
            self._report.error("C210", message, value.span, label=label, notes=notes)
        elif device in ("", ".", "..") or any(c in "/:" or c.isspace() or not c.isprintable() for c in device):
            notes = ("no `/`, no `:`, no spaces, and neither `.` nor `..`",)
            self._report.error("C210", f"{show(device)} cannot be a device's name", value.span, notes=notes)
        else:
            return True
        return False

    def _services(self) -> tuple[ServiceInstance, ...]:
        resolved = []
        for name, value in self._entries("services"):
            kind = value.get("kind")
            if kind is None or not isinstance(kind.data, str):
                continue
            service = registry().get(kind.data)
            if service is None:
                self._unknown_kind(kind)
            else:
                resolved.append(self._instance(name, service, value))
        return tuple(resolved)

    def _check_services(self, services: tuple[ServiceInstance, ...]) -> None:
        for instance in services:
            value = self._root.get("services", instance.name)
            if instance.service.check and self._sound(value):
                instance.service.check(instance, self._report)

    def _unknown_kind(self, kind: Value) -> None:
        self._report.error(
            "C209",
            f"unknown kind of service {show(kind.data)}",
            kind.span,
            label="no such kind",
            notes=(f"kinds here: {listed(sorted(registry()))}",),
            help=did_you_mean(kind.data, registry()),
        )

    def _instance(self, name: str, service: Service, value: Value) -> ServiceInstance:
        ports = self._ports(name, service, value)
        sound = value if self._sound(value) else sound_part(value, service)
        resolve = service.resolve if sound is not None else None
        config = resolve(sound, ports, self._report) if resolve and sound is not None else None
        chain = self._root.get("chain")
        return ServiceInstance(name, service, ports, config, value.key_span, str(chain.data) if chain else "")

    def _ports(self, name: str, service: Service, value: Value) -> tuple[Port, ...]:
        if service.ports is not None:
            return tuple(Port(name, port, index, value.key_span) for index, port in enumerate(service.ports))
        named = value.get("ports")
        if named is None or not isinstance(named.data, dict):
            return ()
        return tuple(Port(name, port, index, item.key_span) for index, (port, item) in enumerate(named.items()))

    def _open_services(self) -> frozenset[str]:
        """Services whose ports are not known, because their kind or their `ports` is wrong."""
        wrong = set()
        for name, value in self._entries("services"):
            kind = value.get("kind")
            service = registry().get(kind.data) if kind is not None and isinstance(kind.data, str) else None
            ports = value.get("ports")
            named = ports is not None and isinstance(ports.data, dict) and ports.pointer not in self._wrong
            if service is None or (service.ports is None and not named):
                wrong.add(name)
        return frozenset(wrong)
