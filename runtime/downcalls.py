"""Frames of control planes in; out of interfaces, or into ports of the chain as if they had arrived there.

Both ways are packet sockets: out of the interface's device, or into the chain's injection link, with a label on the
frame that names the port (compiler/bpf/inject.h). Metadata travels with the frame, so it never slips.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from msgspec import Struct

from schemas.diagnostic import LoadFailed
from schemas.manifest import Hook, InternalLinkRecord, Manifest
from schemas.slow_path import INJECT_LINK, LABEL, LABEL_ETHERTYPE, LABEL_HEADER, LABEL_MAGIC

from . import sys
from .netns import entered
from .veth import veth_pair

_SOL_PACKET = 263
_PACKET_QDISC_BYPASS = 20
_SEND_BUFFER = 4 << 20
_NOT_TAKEN = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE})
_GONE = frozenset({errno.ENETDOWN, errno.ENXIO, errno.ENODEV})


@dataclass(slots=True)
class FrameSocket:
    """Sends whole Ethernet frames out of one device, opened when first used, and anew when its device was replaced.

    `unsent` counts frames that were not taken: the device is away or down, its queue is full, its MTU is smaller.
    """

    device: str
    netns: str | None
    unsent: int = 0
    _socket: socket.socket | None = None
    _batch: sys.MessageBatch = field(default_factory=sys.MessageBatch)

    def send(self, frame: bytes) -> bool:
        """Whether the device has taken the frame. Raises OSError for what is wrong beside the device and the frame."""
        taken = self._taken(lambda opened: opened.send(frame) and 1)
        self.unsent += 1 - taken
        return bool(taken)

    def send_many(self, frames: Sequence[bytes]) -> int:
        """How many frames the device has taken, with one system call for many; the rest are not sent."""
        sent = 0
        while sent < len(frames):
            taken = self._taken(partial(self._send_batch, frames[sent : sent + sys.MessageBatch.LIMIT]))
            if not taken:
                break
            sent += taken
        self.unsent += len(frames) - sent
        return sent

    def _send_batch(self, frames: Sequence[bytes], opened: socket.socket) -> int:
        return self._batch.send(opened.fileno(), frames)

    def _taken(self, send: Callable[[socket.socket], int]) -> int:
        """How much was taken; where the device is another one by now, by a socket that is opened anew."""
        for _ in range(2):
            try:
                return send(self._socket or self._open())
            except LoadFailed:  # its namespace has gone
                break
            except OSError as error:
                if error.errno in _NOT_TAKEN:
                    break
                if error.errno not in _GONE:
                    raise
                self.close()
        return 0

    def _open(self) -> socket.socket:
        with entered(self.netns):
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            opened.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            opened.bind((self.device, 0))
        except OSError:
            opened.close()
            raise
        self._socket = opened
        return opened

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None


class Way(Protocol):
    """One way down: out of an interface, or into a port."""

    def send(self, frame: bytes) -> bool: ...
    def send_many(self, frames: Sequence[bytes]) -> int: ...


class _Entrance(Struct, frozen=True):
    """The way to one port's program: which link, and the label that names the port there, before or behind a frame."""

    socket: FrameSocket
    header: bytes
    trailer: bytes

    def send(self, frame: bytes) -> bool:
        return self.socket.send(self.header + frame + self.trailer)

    def send_many(self, frames: Sequence[bytes]) -> int:
        header, trailer = self.header, self.trailer
        return self.socket.send_many([header + frame + trailer for frame in frames])


@dataclass(slots=True)
class Downcalls:
    """The ways down into one generation of a chain. `home` is the namespace that it was applied in."""

    manifest: Manifest
    home: str | None
    _entrances: dict[tuple[str, str, Hook], _Entrance] = field(default_factory=dict)
    _interfaces: dict[str, FrameSocket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for interface in self.manifest.interfaces:
            self._interfaces[interface.name] = FrameSocket(interface.device, interface.netns or self.home)
        for link in self.manifest.internal_links:
            if link.name.startswith(INJECT_LINK):
                self._entrances |= self._behind(link)

    def _behind(self, link: InternalLinkRecord) -> Mapping[tuple[str, str, Hook], _Entrance]:
        """The ports that frames can be sent to by one injection link."""
        pair = veth_pair(self.manifest, link, self.home)
        opened = FrameSocket(pair.a, pair.netns)
        programs = {program.name: program for program in self.manifest.programs}
        array = f"{link.program}_ports"
        found = {}
        for slot in self.manifest.tail_slots:
            program = programs[slot.program]
            if slot.map == array and program.service and program.port:
                label = LABEL.pack(LABEL_MAGIC, slot.index)
                header = LABEL_HEADER.pack(label, LABEL_ETHERTYPE)
                before, behind = (header, b"") if program.hook is Hook.XDP else (b"", label)
                found[program.service, program.port, program.hook] = _Entrance(opened, before, behind)
        return found

    def send(self, interface: str, frame: bytes) -> bool:
        """Out of an interface, under the chain's name for it; whether its device has taken the frame."""
        return self._interfaces[interface].send(frame)

    def inject(self, service: str, port: str, frame: bytes, hook: Hook | None = None) -> bool:
        """Into a port, as if the frame had arrived there. Raises LookupError as `into` does."""
        return self.into(service, port, hook).send(frame)

    def out_of(self, interface: str) -> Way:
        """The way out of an interface."""
        return self._interfaces[interface]

    def into(self, service: str, port: str, hook: Hook | None = None) -> Way:
        """The way into a port: at `hook`, or at the one that the port has, XDP first.

        Raises LookupError where packets can never arrive at that port, or the chain has no way in.
        """
        for at in (hook,) if hook else Hook:
            entrance = self._entrances.get((service, port, at))
            if entrance:
                return entrance
        raise LookupError(f"there is no way into `{service}.{port}`{f' at the {hook} hook' if hook else ''}")

    @property
    def unsent(self) -> int:
        """How many frames no device took."""
        entrances = {id(entrance.socket): entrance.socket for entrance in self._entrances.values()}
        return sum(opened.unsent for opened in (*entrances.values(), *self._interfaces.values()))

    def close(self) -> None:
        for entrance in self._entrances.values():
            entrance.socket.close()
        for opened in self._interfaces.values():
            opened.close()
