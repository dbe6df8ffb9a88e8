"""A control plane and its place in a running chain in; the control plane at work out, started anew when it fails.

Everything that a control plane does runs in here, called from one event loop: what it raises ends this one instance of
it and nothing else. It is started again after a while, longer each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct

from schemas.manifest import Hook, HostFact

from .control import ControlPlane, Packet, Port
from .control_maps import ControlMap, Layout
from .downcalls import Way
from .log import Log
from .netlink_watch import Deliver, NetlinkWatch
from .rtnetlink import Change, Lost

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
GOOD_SECONDS = 60.0
"""Whoever has worked for so long begins with the first pause again."""


class State(StrEnum):
    """How a control plane is, as `status` says it."""

    RUNNING = "running"
    FAILED = "failed"
    STOPPED = "stopped"


class Place(Protocol):
    """A service in one generation of a running chain: what a context hands on to."""

    chain: str
    service: str
    netns: str | None

    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def ports(self) -> Mapping[str, Port]: ...
    def loaded(self, fact: HostFact, interface: str) -> bytes | None: ...
    def open_map(self, name: str, key: Layout | None, value: Layout | None) -> ControlMap: ...
    def out_of(self, port: str) -> Way: ...
    def into(self, service: str, port: str, hook: Hook | None) -> Way: ...


class _Handle:
    """A timer, a watch or a task of a control plane, which ends with it."""

    def __init__(self, owner: InstanceContext, cancel: Callable[[], object]) -> None:
        self._owner = owner
        self._cancel = cancel
        owner.handles.add(self)

    def replace(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel

    def cancel(self) -> None:
        if self in self._owner.handles:
            self._owner.handles.remove(self)
            self._cancel()


class InstanceContext:
    """The context (control.py) of one instance; its place is another one after each reload."""

    def __init__(self, instance: Instance, place: Place, log: Log) -> None:
        self.chain, self.service = place.chain, place.service
        self.log = log
        self.state: Any = None
        self.problems: dict[str, str] = {}
        self.handles: set[_Handle] = set()
        self.opened: list[ControlMap] = []
        self.netlink: NetlinkWatch | None = None
        self._instance = instance
        self._place = place
        self._loop = asyncio.get_running_loop()

    @property
    def config(self) -> Mapping[str, Any]:
        return self._place.config

    @property
    def ports(self) -> Mapping[str, Port]:
        return self._place.ports

    @property
    def netns(self) -> str | None:
        return self._place.netns

    def loaded(self, fact: HostFact, interface: str) -> bytes | None:
        return self._place.loaded(fact, interface)

    def map(self, name: str, key: Layout | None = None, value: Layout | None = None) -> ControlMap:
        opened = self._place.open_map(name, key, value)
        self.opened.append(opened)
        return opened

    def send(self, port: Port | str, frame: bytes) -> bool:
        return self._place.out_of(_name(port)).send(frame)

    def send_many(self, port: Port | str, frames: Sequence[bytes]) -> int:
        return self._place.out_of(_name(port)).send_many(frames)

    def inject(self, port: Port | str, frame: bytes, hook: Hook | None = None) -> bool:
        return self._into(port, hook).send(frame)

    def inject_many(self, port: Port | str, frames: Sequence[bytes], hook: Hook | None = None) -> int:
        return self._into(port, hook).send_many(frames)

    def _into(self, port: Port | str, hook: Hook | None) -> Way:
        service, _, name = _name(port).rpartition(".")
        return self._place.into(service or self.service, name, hook)

    def after(self, seconds: float, call: Callable[[], object]) -> _Handle:
        def fire() -> None:
            self.handles.discard(handle)
            self._instance.guarded(call)

        handle = _Handle(self, self._loop.call_later(seconds, fire).cancel)
        return handle

    def every(self, seconds: float, call: Callable[[], object]) -> _Handle:
        def fire() -> None:
            self._instance.guarded(call)
            if handle in self.handles:
                handle.replace(self._loop.call_later(seconds, fire).cancel)

        handle = _Handle(self, self._loop.call_later(seconds, fire).cancel)
        return handle

    def watch(self, file: Any, call: Callable[[], object]) -> _Handle:
        self._loop.add_reader(file, self._instance.guarded, call)
        return _Handle(self, lambda: self._loop.remove_reader(file))

    def spawn(self, work: Coroutine[Any, Any, object]) -> _Handle:
        task = self._loop.create_task(work)
        handle = _Handle(self, task.cancel)

        def done(ended: asyncio.Task[object]) -> None:
            self.handles.discard(handle)
            if not ended.cancelled() and (error := ended.exception()) is not None:
                self._instance.fail(error)

        task.add_done_callback(done)
        return handle

    def listen(self, deliver: Deliver, *, anew: bool) -> None:
        """To the kernel, in the namespaces of the ports' devices; goes on as before where these are the same."""
        namespaces = {port.netns for port in self.ports.values() if port.device} or {self.netns}
        if self.netlink:
            if self.netlink.namespaces == namespaces and not anew:
                return
            self.netlink.close()
        self.netlink = NetlinkWatch(namespaces, deliver)

    def moved(self, place: Place) -> list[ControlMap]:
        """Goes over to another generation; gives the maps of the one before, for whoever is done with them to close."""
        before, self.opened, self._place = self.opened, [], place
        return before

    def close(self) -> None:
        for handle in list(self.handles):
            handle.cancel()
        for opened in self.opened:
            opened.close()
        self.opened = []
        if self.netlink:
            self.netlink.close()


def _name(port: Port | str) -> str:
    return port.name if isinstance(port, Port) else port


class _Backoff(Struct):
    """How long to wait before the next start."""

    pause: float = FIRST_PAUSE_SECONDS

    def next(self, worked_seconds: float) -> float:
        if worked_seconds >= GOOD_SECONDS:
            self.pause = FIRST_PAUSE_SECONDS
        pause = self.pause
        self.pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return pause


class Instance:
    """One service's control plane, from the first start to the last stop."""

    def __init__(self, kind: str, find: Callable[[str], ControlPlane], place: Place, log: Log) -> None:
        """`find` gives the control plane of a kind, or raises; it is asked again for every start."""
        self.kind = kind
        self.state = State.STOPPED
        self.failures = 0
        self._find = find
        self._place = place
        self._log = log
        self._plane: ControlPlane | None = None
        self._context: InstanceContext | None = None
        self._backoff = _Backoff()
        self._again: asyncio.TimerHandle | None = None
        self._started = 0.0

    @property
    def problems(self) -> tuple[str, ...]:
        """What it says that somebody should look at."""
        return tuple(self._context.problems.values()) if self._context else ()

    def start(self) -> None:
        """Starts it; a failure is logged, and it is tried again later."""
        self._again = None
        self.state = State.STOPPED
        self._started = asyncio.get_running_loop().time()
        try:
            self._plane = self._find(self.kind)
        except Exception as error:
            self.fail(error)
            return
        self._context = InstanceContext(self, self._place, self._log)
        self.state = State.RUNNING
        self._log.info("control plane starts")
        self._listen()
        self._call("start")
        if self._plane and self._plane.tick and self._context:  # unless it has failed by now
            self._context.every(self._plane.tick_seconds, lambda: self._call("tick"))

    def deliver(self, packets: Sequence[Packet]) -> bool:
        """Hands packets over, oldest first; false where nobody takes them, because it is not running."""
        plane, context = self._plane, self._context
        if plane is None or context is None:
            return False
        try:
            if plane.on_packets:
                plane.on_packets(context, packets)
            elif plane.on_packet:
                for packet in packets:
                    plane.on_packet(context, packet)
        except Exception as error:
            self.fail(error)
        return True

    def link_changed(self, port: Port) -> None:
        """The interface of a port is another one, or up or down."""
        self._call("on_link", port)

    def namespaces_changed(self) -> None:
        """A namespace of a port's device is another one of the same name, is gone, or there again."""
        self._listen(anew=True)

    def _listen(self, *, anew: bool = False) -> None:
        """Where the control plane has `on_netlink`. If it is begun `anew`, it is told that something may be missing."""
        plane, context = self._plane, self._context
        if plane is None or context is None or plane.on_netlink is None:
            return

        def deliver(netns: str | None, changes: Sequence[Change]) -> None:
            self._call("on_netlink", netns, changes)

        self.guarded(lambda: context.listen(deliver, anew=anew))
        if anew and self._context and context.netlink:
            for netns in sorted(context.netlink.namespaces, key=str):
                deliver(netns, [Lost()])

    def move(self, place: Place) -> None:
        """To another generation of the chain: by its own `reload`, or by a stop and a start."""
        self._place = place
        plane, context = self._plane, self._context
        if plane is None or context is None or plane.reload is None:
            self.stop()
            self._backoff = _Backoff()
            self.start()
            return
        before = context.moved(place)
        self._log.info("control plane reloads")
        self._listen()
        self._call("reload")
        for old in before:
            old.close()

    def stop(self) -> None:
        """Ends it for good, or until the next start."""
        if self._again:
            self._again.cancel()
            self._again = None
        self._call("stop")
        self._end(State.STOPPED)

    def guarded(self, call: Callable[[], object]) -> None:
        """Calls something of the control plane's own; what it raises ends this instance."""
        try:
            call()
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Ends it now and starts it again after a pause."""
        if self.state is State.FAILED:
            return
        loop = asyncio.get_running_loop()
        pause = self._backoff.next(loop.time() - self._started)
        self.failures += 1
        self._log.error("control plane failed", error, again_in=f"{pause:g}s")
        self._end(State.FAILED)
        self._again = loop.call_later(pause, self.start)

    def _call(self, name: str, *arguments: object) -> None:
        """One of the control plane's known functions, if it has it and is running."""
        function, context = getattr(self._plane, name, None), self._context
        if function and context:
            self.guarded(lambda: function(context, *arguments))

    def _end(self, state: State) -> None:
        context, self._context, self._plane = self._context, None, None
        self.state = state
        if context:
            context.close()
