"""The name of a network device in, what the host knows about it out: index, MAC address, MTU."""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Callable

from msgspec import Struct

from schemas.diagnostic import Diagnostic, LoadFailed

from .netns import NETNS_DIRECTORY, entered

_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("16s24s")
_IFF_UP, _IFF_RUNNING = 1 << 0, 1 << 6
_SIOCETHTOOL = 0x8946
_ETHTOOL_GSET, _ETHTOOL_GLINK = 0x1, 0xA
_ETHTOOL_CMD = struct.Struct("=IIIHB13xH14x")  # struct ethtool_cmd: cmd, …, speed, duplex, …, speed_hi
_SPEED_UNKNOWN = (0, 0xFFFF, 0xFFFFFFFF)
_DUPLEX_HALF = 0
_MAC_AT = 2  # behind sa_family of struct sockaddr


class Device(Struct, frozen=True):
    """A network device as it is now; `mac` has 6 bytes, zeros where the device has none."""

    name: str
    netns: str | None
    ifindex: int
    mac: bytes
    mtu: int


class DeviceSocket:
    """Asks for the devices of one namespace, again and again, without entering it each time."""

    def __init__(self, netns: str | None) -> None:
        self.netns = netns
        self._asker: socket.socket | None = None
        self._inode: int | None = None

    def find(self, name: str) -> Device | None:
        """The device, or None where there is none of this name (or no such namespace)."""
        asker = self._opened()
        if asker is None:
            return None
        try:
            ifindex = _ask(asker, _SIOCGIFINDEX, name)
            address = _ask(asker, _SIOCGIFHWADDR, name)
            mtu = _ask(asker, _SIOCGIFMTU, name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return Device(name, self.netns, _u32(ifindex), address[_MAC_AT : _MAC_AT + 6], _u32(mtu))

    def has_carrier(self, name: str) -> bool:
        """Whether the device is up and its far end is too; False where there is none.

        The flags say so a second late at worst (linkwatch_schedule_work(), net/core/link_watch.c). Of a carrier that is
        new that is right, because until then what is sent is lost; one that has gone the driver knows of at once.
        """
        asker = self._opened()
        if asker is None:
            return False
        try:
            flags = int.from_bytes(_ask(asker, _SIOCGIFFLAGS, name)[:2], "little")
            return bool(flags & _IFF_UP and flags & _IFF_RUNNING) and _driver_has_link(asker, name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise

    @property
    def is_there(self) -> bool:
        """Whether the namespace still is the one that was asked last; a socket alone would keep a dead one alive."""
        return self._asker is not None and self._inode == self._now()

    def open(self) -> bool:
        """Whether there is such a namespace: the one that is asked from now on. Raises `LoadFailed` (L151)."""
        return self._opened() is not None

    def _opened(self) -> socket.socket | None:
        if self.is_there:
            return self._asker
        self.close()
        self._inode = self._now()
        if self.netns is not None and self._inode is None:
            return None
        with entered(self.netns):
            self._asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        return self._asker

    def _now(self) -> int | None:
        """The inode of the namespace; None where there is none, or it is the thread's own."""
        if self.netns is None:
            return None
        try:
            return (NETNS_DIRECTORY / self.netns).stat().st_ino
        except FileNotFoundError:
            return None

    def close(self) -> None:
        if self._asker:
            self._asker.close()
        self._asker = None

    def __enter__(self) -> DeviceSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_device(name: str, netns: str | None = None) -> Device | None:
    """The device, or None where there is none of this name (or no such namespace)."""
    with DeviceSocket(netns) as asker:
        return asker.find(name)


class LinkMode(Struct, frozen=True):
    """How a device's link works: megabits a second, None where it does not say, and whether its ends take turns."""

    speed: int | None = None
    half_duplex: bool = False


def link_mode(name: str, netns: str | None = None) -> LinkMode:
    """What the device says of its link; nothing is known of one that is not there or does not say."""
    if netns is not None and not (NETNS_DIRECTORY / netns).exists():
        return LinkMode()
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            settings = _ask_driver(asker, name, _ETHTOOL_CMD.pack(_ETHTOOL_GSET, 0, 0, 0, 0, 0))
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL):
                return LinkMode()
            raise
    _, _, _, low, duplex, high = _ETHTOOL_CMD.unpack(settings)
    speed = high << 16 | low
    return LinkMode(None if speed in _SPEED_UNKNOWN else speed, duplex == _DUPLEX_HALF)


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


def _driver_has_link(asker: socket.socket, name: str) -> bool:
    """Whether the driver has a carrier now; True where it does not say."""
    try:
        return bool(_u32(_ask_driver(asker, name, struct.pack("=II", _ETHTOOL_GLINK, 0))[4:]))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return True
        raise


def _ask_driver(asker: socket.socket, name: str, question: bytes) -> bytes:
    """One ethtool command, and the same structure as the driver has filled it in."""
    content = array.array("B", question)
    request = struct.pack("16sQ", name.encode(), content.buffer_info()[0]).ljust(_IFREQ.size, b"\0")
    fcntl.ioctl(asker, _SIOCETHTOOL, request)
    return content.tobytes()


def _u32(content: bytes) -> int:
    return int.from_bytes(content[:4], "little")


DeviceFinder = Callable[[str, str | None], Device | None]
"""`find_device`, or what stands for it in tests."""
