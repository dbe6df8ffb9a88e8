"""Raw Ethernet at a device: frames sent as they are, and every frame received, byte for byte with its VLAN tag."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Collection, Mapping

from runtime.netns import entered

from .lab import Device

ETH_P_ALL = 0x0003
SOL_PACKET = 263
SO_RCVBUFFORCE = 33
PACKET_AUXDATA = 8
PACKET_IGNORE_OUTGOING = 23
TP_STATUS_VLAN_VALID = 1 << 4
MAX_FRAME = 65536

_AUXDATA = struct.Struct("IIIHHHH")  # struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_ADDRESSES = 12  # bytes of a frame before its first tag

MLD_REPORTS = bytes.fromhex("333300000016")
"""Where MLDv2 reports go (RFC 3810 5.2.14): a router sends them at the start, and again and again."""

QUIET = 0.08
"""Seconds without a frame after which none is expected any more; a veth delivers in microseconds."""

ARRIVAL = 10.0
"""Seconds in which expected frames have to come; on a busy machine softirqs wait for their turn."""


class Wire:
    """A tap on a device: what is sent goes out of it, what is received came in from its far end.

    `buffer`: bytes that may wait to be received, where that is more than sockets have by themselves. Frames to
    the addresses in `passed_over` are not seen: what a router says when it likes is no part of what a test has asked.
    """

    def __init__(self, device: Device, buffer: int = 0, passed_over: Collection[bytes] = ()) -> None:
        self.device = device
        self._passed_over = passed_over
        with entered(device.namespace.name):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            if buffer:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
            self._socket.bind((device.name, ETH_P_ALL))

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._socket.send(frame)

    def collect(self, expected: int, timeout: float = ARRIVAL) -> list[bytes]:
        """As `collect`, for this wire alone."""
        return collect({"": self}, {"": expected}, timeout)[""]

    def drain(self) -> None:
        """Forgets what has arrived so far."""
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(MAX_FRAME)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, timeout: float) -> bytes | None:
        """The next frame, or None if none has come after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (frame := self._next(max(0, deadline - time.monotonic()))) is not None:
            if frame[:6] not in self._passed_over:
                break
        return frame

    def _next(self, timeout: float) -> bytes | None:
        """Whatever comes next."""
        self._socket.settimeout(timeout)
        try:
            frame, ancillary, _, _ = self._socket.recvmsg(MAX_FRAME, socket.CMSG_SPACE(_AUXDATA.size))
        except (TimeoutError, BlockingIOError):
            return None
        for level, kind, content in ancillary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                frame = _with_tag(frame, content)
        return frame


def _with_tag(frame: bytes, auxdata: bytes) -> bytes:
    """The frame as it was on the wire: the kernel has taken the outer tag out and tells it beside the frame."""
    status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(auxdata)
    if not status & TP_STATUS_VLAN_VALID:
        return frame
    return frame[:_ADDRESSES] + struct.pack("!HH", tpid, tci) + frame[_ADDRESSES:]


def is_probe(frame: bytes) -> bool:
    """Whether it asks if an address is free, from nobody's address (RFC 5227 2.1.1, RFC 4862 5.4.2)."""
    at = _ADDRESSES
    while frame[at : at + 2] == b"\x81\x00":
        at += 4
    packet = frame[at + 2 :]
    if frame[at : at + 2] == b"\x08\x06":
        return packet[14:18] == bytes(4)
    return frame[at : at + 2] == b"\x86\xdd" and packet[8:24] == bytes(16) and packet[40:41] == b"\x87"


def collect(
    wires: Mapping[str, Wire], expected: Mapping[str, int], timeout: float = ARRIVAL, *, probes: bool = False
) -> dict[str, list[bytes]]:
    """The frames that arrive at each wire until all that are expected (0 if not named) are there, or time is up.

    Then a quiet moment is waited out, so that duplicates and frames that should not be there are seen too. Probes,
    which a router sends in its own time, are left out unless wanted.
    """
    arrived: dict[str, list[bytes]] = {name: [] for name in wires}
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        complete = all(len(arrived[name]) >= count for name, count in expected.items())
        ready, _, _ = select.select(list(wires.values()), (), (), min(QUIET, left) if complete else left)
        if complete and not ready:
            break
        for name, wire in wires.items():
            if wire in ready and (frame := wire.receive(timeout=0)) is not None:
                arrived[name] += [frame] if probes or not is_probe(frame) else []
    return arrived
