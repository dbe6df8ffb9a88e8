"""What a control plane is, and what it has to work with: docs/control-planes.md.

A control plane is a module with known names, all of them optional: `start`, `on_packet` or `on_packets`, `tick`,
`on_link`, `on_netlink`, `reload`, `stop`, `describe`, and `TICK_SECONDS`. A built-in one is `runtime/services/KIND.py`;
a third party's is an entry point of the group `bpfchain.control_planes` under the kind's name. (The same module may
have `migration`, `fill` and `inspect`, which need no daemon: runtime/migrate.py, filling.py, describe.py.)
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from schemas.manifest import Hook, HostFact

if TYPE_CHECKING:
    from .control_maps import ControlMap, Layout
    from .log import Log
    from .rtnetlink import Change

ENTRY_POINT_GROUP = "bpfchain.control_planes"
DEFAULT_TICK_SECONDS = 1.0


class Port(Struct, frozen=True):
    """A port of the service, as it is now.

    `peer` is what it is linked to: `interface wan`, `guard.inside`, `host`, or nothing that is known. Where that is an
    interface, the rest tells of its device: `mac` has 6 bytes; `up` is whether it has a carrier. An interface with
    `vlan` has a service before it, so `peer` is a port of that; the rest tells of the device that it shares.
    """

    name: str
    index: int
    peer: str
    device: str | None = None
    netns: str | None = None
    ifindex: int = 0
    mac: bytes = bytes(6)
    mtu: int = 0
    up: bool = False

    @property
    def interface(self) -> str | None:
        """The chain's name for the interface that the port is linked to."""
        return self.peer.removeprefix("interface ") if self.peer.startswith("interface ") else None


class Packet(NamedTuple):
    """A packet that came up. `length` is that of the frame on the wire, longer than `frame` where it was cut.

    `time_ns` is CLOCK_MONOTONIC_COARSE; `note` what the service wrote into `pkt->note`. The outer VLAN tag is in the
    frame, whatever the hook.
    """

    port: Port
    reason: str
    frame: bytes
    note: int
    time_ns: int
    length: int
    hook: Hook

    @property
    def truncated(self) -> bool:
        return len(self.frame) < self.length


class Timer(Protocol):
    """What `after` and `every` give."""

    def cancel(self) -> None: ...


class Context(Protocol):
    """A control plane's view of its service. What it raises in any of its functions has it started anew.

    `config` is what the compiler's half of the service says (`Service.control`); `ports` are by name; `state` belongs
    to the control plane and survives `reload`. `problems` are what somebody should look at, worded for people, each by
    a key of the control plane's own: `status` tells them as long as they are there. `netns` is the network namespace
    that the chain was applied in, None for the daemon's own.
    """

    chain: str
    service: str
    log: Log
    state: Any
    problems: dict[str, str]

    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def ports(self) -> Mapping[str, Port]: ...
    @property
    def netns(self) -> str | None: ...

    def loaded(self, fact: HostFact, interface: str) -> bytes | None:
        """What programs were told of an interface (the chain's name) when they were loaded; None if nothing."""

    def map(self, name: str, key: Layout | None = None, value: Layout | None = None) -> ControlMap:
        """A map of the service, by the part of its name behind the service's (`fdb`); open until reload or stop.

        Raises LookupError where there is none, ValueError where a layout has another size.
        """

    def send(self, port: Port | str, frame: bytes) -> bool:
        """Out of a port: to the interface or into the service that it is linked to; whether it was taken."""

    def inject(self, port: Port | str, frame: bytes, hook: Hook | None = None) -> bool:
        """Into a port of this service (or `service.port` of the chain), as if the frame had arrived there."""

    def send_many(self, port: Port | str, frames: Sequence[bytes]) -> int:
        """As `send`, with fewer system calls: how many frames were taken, from the first one on."""

    def inject_many(self, port: Port | str, frames: Sequence[bytes], hook: Hook | None = None) -> int:
        """As `inject`, with fewer system calls: how many frames were taken, from the first one on."""

    def after(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Calls once, later."""

    def every(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Calls again and again; a call that is late does not make up for it."""

    def watch(self, file: Any, call: Callable[[], object]) -> Timer:
        """Calls whenever a file or socket can be read, until that is cancelled."""

    def spawn(self, work: Coroutine[Any, Any, object]) -> Timer:
        """Runs a coroutine beside everything else."""


OpenMap = Callable[[str], "ControlMap"]
"""Gives a map of the service by its name without the service's. Raises LookupError."""


class ControlPlane(Struct, frozen=True):
    """The functions of a control plane's module, None for those that it does not have."""

    kind: str
    start: Callable[[Context], object] | None
    on_packet: Callable[[Context, Packet], object] | None
    on_packets: Callable[[Context, Sequence[Packet]], object] | None
    tick: Callable[[Context], object] | None
    on_link: Callable[[Context, Port], object] | None
    on_netlink: Callable[[Context, str | None, Sequence[Change]], object] | None
    reload: Callable[[Context], object] | None
    stop: Callable[[Context], object] | None
    describe: Callable[[Mapping[str, Any], Sequence[str], OpenMap], Mapping[str, str]] | None
    tick_seconds: float


class NoControlPlane(Exception):
    """There is no usable control plane of a kind here."""


def find_control_plane(kind: str) -> ControlPlane:
    """The control plane of a kind of service. Raises NoControlPlane, or whatever its module raises."""
    module = runtime_side(kind)
    if module is None:
        raise NoControlPlane(f"no control plane of kind `{kind}` is installed (entry points: `{ENTRY_POINT_GROUP}`)")
    return control_plane(kind, module)


def runtime_side(kind: str) -> object | None:
    """The module that a kind of service has at run time: built in, or a third party's; None where it has none."""
    name = f"{__package__}.services.{kind.replace('-', '_')}"
    if importlib.util.find_spec(name):
        return importlib.import_module(name)
    from importlib.metadata import entry_points  # slow to import, and built-in kinds do without

    return next((point.load() for point in entry_points(group=ENTRY_POINT_GROUP, name=kind)), None)


@functools.cache
def function_of(kind: str, name: str) -> Callable[..., Any] | None:
    """A function of a kind's run-time side that needs no daemon: `inspect`, `fill`.

    A built-in kind has it in a module of its own, `KIND_NAME.py`: no control plane is imported for it.
    """
    module = f"{__package__}.services.{kind.replace('-', '_')}"
    if importlib.util.find_spec(module) is None:
        return getattr(runtime_side(kind), name, None)
    alone = f"{module}_{name}"
    return getattr(importlib.import_module(alone), name, None) if importlib.util.find_spec(alone) else None


_FUNCTIONS = ("start", "on_packet", "on_packets", "tick", "on_link", "on_netlink", "reload", "stop", "describe")


def control_plane(kind: str, module: object) -> ControlPlane:
    """The control plane that a module is. Raises NoControlPlane where it has none of the known names."""
    functions = {name: getattr(module, name, None) for name in _FUNCTIONS}
    if not any(functions.values()):
        raise NoControlPlane(f"the control plane of kind `{kind}` has none of {', '.join(_FUNCTIONS)}")
    return ControlPlane(kind, **functions, tick_seconds=getattr(module, "TICK_SECONDS", DEFAULT_TICK_SECONDS))
