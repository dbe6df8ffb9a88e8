"""The name of a network device in, what the host knows about it out: index, MAC address, MTU."""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from schemas.diagnostic import Diagnostic, LoadFailed

from .netns import NETNS_DIRECTORY, entered

_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("16s24s")
_IFF_UP, _IFF_RUNNING = 1 << 0, 1 << 6
_SIOCETHTOOL = 0x8946
_ETHTOOL_GSET, _ETHTOOL_CMD_SIZE = 0x1, 44  # struct ethtool_cmd
_SPEED_AT = (12, 28)  # its speed and speed_hi
_SPEED_UNKNOWN = 0xFFFFFFFF
_MAC_AT = 2  # behind sa_family of struct sockaddr


@dataclass(frozen=True, slots=True)
class Device:
    """A network device as it is now; `mac` has 6 bytes, zeros where the device has none."""

    name: str
    netns: str | None
    ifindex: int
    mac: bytes
    mtu: int


def find_device(name: str, netns: str | None = None) -> Device | None:
    """The device, or None where there is none of this name (or no such namespace)."""
    if netns is not None and not (NETNS_DIRECTORY / netns).exists():
        return None
    with entered(netns):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                ifindex = _ask(asker, _SIOCGIFINDEX, name)
                address = _ask(asker, _SIOCGIFHWADDR, name)
                mtu = _ask(asker, _SIOCGIFMTU, name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
    return Device(name, netns, _u32(ifindex), address[_MAC_AT : _MAC_AT + 6], _u32(mtu))


def has_carrier(name: str, netns: str | None = None) -> bool:
    """Whether the device is up and its far end is too; False where there is none."""
    if netns is not None and not (NETNS_DIRECTORY / netns).exists():
        return False
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            flags = int.from_bytes(_ask(asker, _SIOCGIFFLAGS, name)[:2], "little")
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
    return bool(flags & _IFF_UP and flags & _IFF_RUNNING)


def link_speed(name: str, netns: str | None = None) -> int | None:
    """Megabits a second that the device says it has; None where it does not, or is not there."""
    if netns is not None and not (NETNS_DIRECTORY / netns).exists():
        return None
    settings = array.array("B", _ETHTOOL_GSET.to_bytes(4, "little").ljust(_ETHTOOL_CMD_SIZE, b"\0"))
    request = struct.pack("16sQ", name.encode(), settings.buffer_info()[0]).ljust(_IFREQ.size, b"\0")
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            fcntl.ioctl(asker, _SIOCETHTOOL, request)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise
    low, high = (int.from_bytes(settings[at : at + 2].tobytes(), "little") for at in _SPEED_AT)
    speed = high << 16 | low
    return None if speed in (0, _SPEED_UNKNOWN, 0xFFFF) else speed


def require_device(name: str, netns: str | None, span: str = "") -> Device:
    """The device. Raises `LoadFailed` (A101) where it does not exist; `span` is who asks for it."""
    found = find_device(name, netns)
    if found is not None:
        return found
    with entered(netns):
        present = ", ".join(sorted(device for _, device in socket.if_nameindex()))
    where = f" in network namespace `{netns}`" if netns else ""
    notes = (f"devices here: {present}", *([f"the chain file asks for it at {span}"] if span else []))
    raise LoadFailed(Diagnostic("A101", f"there is no device `{name}`{where}", notes=notes))


def _ask(asker: socket.socket, request: int, name: str) -> bytes:
    """What follows the name in struct ifreq."""
    ifreq = _IFREQ.pack(name.encode(), b"")
    content: bytes = _IFREQ.unpack(fcntl.ioctl(asker, request, ifreq))[1]
    return content


def _u32(content: bytes) -> int:
    return int.from_bytes(content[:4], "little")


DeviceFinder = Callable[[str, str | None], Device | None]
"""`find_device`, or what stands for it in tests."""
