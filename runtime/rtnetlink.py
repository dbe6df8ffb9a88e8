"""Changes of a namespace's routes, neighbours, links and addresses, as the kernel tells them, and all routes at once.

The sockets and the decoding are our own: pyroute2 takes 0.3 ms for a route, of which 50,000 come in a burst (measured;
this takes a microsecond or two). Formats: linux/rtnetlink.h, rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from types import TracebackType
from typing import NamedTuple

from msgspec import Struct

from .netns import entered
from .sys import ReceiveBatch, SyscallFailed

NETLINK_ROUTE = 0
SO_RCVBUFFORCE = 33
NETLINK_GET_STRICT_CHK = 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
RECEIVE_BUFFER = 64 << 20
"""Bytes of the queue of changes: some 80,000 routes. The kernel takes them only as they are needed."""
_RECEIVE_SIZE = 1 << 18


class Group(IntEnum):
    """enum rtnetlink_groups: what to be told of."""

    RTNLGRP_LINK = 1
    RTNLGRP_NEIGH = 3
    RTNLGRP_IPV4_IFADDR = 5
    RTNLGRP_IPV4_ROUTE = 7
    RTNLGRP_IPV6_IFADDR = 9
    RTNLGRP_IPV6_ROUTE = 11
    RTNLGRP_NEXTHOP = 32


# Plain numbers, spelled as in the UAPI: comparing enumerations would take as long as all the rest of a message.
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_DELADDR = 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNEXTHOP, RTM_DELNEXTHOP = 104, 105

NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_DUMP, NLM_F_APPEND = 0x1, 0x10, 0x100, 0x300, 0x800

RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 1, 6, 7, 8

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 6, 9, 15, 18
RTM_F_CLONED = 0x200
RTNH_F_DEAD = 1
IFF_UP, IFF_RUNNING = 0x1, 0x40
_REQUESTS = {RTM_GETLINK: "RTM_GETLINK", RTM_GETROUTE: "RTM_GETROUTE", RTM_GETNEIGH: "RTM_GETNEIGH"}
NDA_DST, NDA_LLADDR = 1, 2
NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x80

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_ATTRIBUTE = struct.Struct("=HH")  # rtattr
_HOP = struct.Struct("=HBBi")  # rtnexthop
_LINK = struct.Struct("=BxHiII")  # ifinfomsg
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg
_NUMBER = struct.Struct("=I")
_TABLE_SIZE = 8  # the attribute RTA_TABLE
_BODY = _HEADER.size
_TYPE = 4  # where the low byte of a message's type is: no type needs more
_SEQUENCE = 8  # where a message's sequence number is, and behind it whom it answers
_ADDRESS = _BODY + _ROUTE.size + _TABLE_SIZE + _ATTRIBUTE.size  # where a route's message has its prefix's first address
_PREFIX_HEADERS = {size: _ATTRIBUTE.pack(_ATTRIBUTE.size + size, RTA_DST) for size in (4, 16)}
_MOST_KINDS = 1 << 14
_ATTRIBUTE_TYPE = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class Hop(NamedTuple):
    """One way of a route: the device, the gateway in network order (empty: on the link), how often it is taken."""

    ifindex: int
    gateway: bytes
    weight: int


Prefix = tuple[int, int, int]
"""Family, first address as a number, length."""


class Path(NamedTuple):
    """What a route says beside its prefix, which many routes have in common. `family` is AF_INET or AF_INET6.

    `hops` are sorted, and none of them is dead. `special` is set where the data plane has no such thing: a type of
    service, or a source prefix.
    """

    family: int
    metric: int
    type: int
    protocol: int
    table: int
    hops: tuple[Hop, ...]
    special: bool


class RouteChange(Struct, frozen=True, gc=False):
    """A route that is new (`flags` as the request had them) or gone."""

    prefix: Prefix
    path: Path
    gone: bool
    flags: int


class LinkChange(NamedTuple):
    """A device that has changed: `running` is whether it is up and has a carrier; `gone`, whether it is there."""

    ifindex: int
    running: bool
    gone: bool


class NeighbourChange(NamedTuple):
    """A neighbour: `state` is of NUD_*, `mac` empty where none is known."""

    family: int
    ifindex: int
    address: bytes
    mac: bytes
    state: int
    gone: bool


class Upheaval(NamedTuple):
    """Routes may have changed by the dozen, and the kernel does not say which: it tells that an address has gone, or a
    next hop object has changed, but not of the routes that went or change with it. `type` is of RTM_*.
    """

    type: int


class Lost(NamedTuple):
    """Changes that nobody will be told of, as they were too many, or came while nobody listened: only a dump helps."""


Change = RouteChange | LinkChange | NeighbourChange | Upheaval | Lost


class Overrun(Exception):
    """Changes were lost because they came faster than they were read (ENOBUFS): only a dump tells how things are."""


class Interrupted(Exception):
    """Routes changed while they were dumped, so that some may be missing (NLM_F_DUMP_INTR)."""


class Subscription:
    """Changes of one namespace (None: the caller's), as far as `groups` go, from the time when it is made."""

    def __init__(self, netns: str | None, groups: tuple[Group, ...], buffer: int = RECEIVE_BUFFER) -> None:
        self._socket = _open(netns)
        self._batch = ReceiveBatch()
        self._decoder = Decoder()
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._socket.setblocking(False)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self, limit: int) -> list[Change]:
        """What has come by now, at least `limit` changes if there are so many. Raises `Overrun`."""
        changes: list[Change] = []
        while len(changes) < limit:
            try:
                datagrams = self._batch.receive(self._socket.fileno())
            except SyscallFailed as error:
                if error.errno == errno.EAGAIN:
                    break
                if error.errno in (errno.ENOBUFS, errno.EMSGSIZE):
                    raise Overrun from error
                raise
            for datagram in datagrams:
                self._decoder.decode(datagram, changes)
        return changes

    def discard(self) -> None:
        """Throws away what has come. After an overrun the kernel adds nothing until the queue is empty, nor says so."""
        while True:
            try:
                self._socket.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


def routes(netns: str | None, family: int, table: int) -> Iterator[list[RouteChange]]:
    """The routes of a table, a few hundred at a time. Raises `Interrupted`, `SyscallFailed`."""
    body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + _ATTRIBUTE.pack(8, RTA_TABLE) + _NUMBER.pack(table)
    for found in _decoded(netns, RTM_GETROUTE, body):
        yield [change for change in found if isinstance(change, RouteChange) and change.path.table == table]


def links(netns: str | None) -> list[LinkChange]:
    """Every device as it is now. Raises `Interrupted`, `SyscallFailed`."""
    found = _decoded(netns, RTM_GETLINK, bytes(_LINK.size))
    return [change for changes in found for change in changes if isinstance(change, LinkChange)]


def neighbours(netns: str | None) -> list[NeighbourChange]:
    """Every neighbour as it is now. Raises `Interrupted`, `SyscallFailed`."""
    found = _decoded(netns, RTM_GETNEIGH, bytes(_NEIGHBOUR.size))
    return [change for changes in found for change in changes if isinstance(change, NeighbourChange)]


def _decoded(netns: str | None, request: int, body: bytes) -> Iterator[list[Change]]:
    """What the answer to a request for a dump says, a datagram at a time. Raises `Interrupted`, `SyscallFailed`."""
    decoder = Decoder()
    for datagram in _dumped(netns, request, body):
        changes: list[Change] = []
        decoder.decode(datagram, changes)
        yield changes


def _dumped(netns: str | None, request: int, body: bytes) -> Iterator[bytes]:
    """The datagrams that answer a request for a dump. Raises `Interrupted`, `SyscallFailed`."""
    with _open(netns) as sock:
        sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)  # the kernel then filters by table itself
        sock.send(_HEADER.pack(_HEADER.size + len(body), request, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        done = False
        while not done:
            datagram = sock.recv(_RECEIVE_SIZE)
            for message in _messages(datagram):
                _, kind, flags, _, _ = _HEADER.unpack_from(message)
                if flags & NLM_F_DUMP_INTR:
                    raise Interrupted
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    code = struct.unpack_from("=i", message, _BODY)[0] if len(message) >= _BODY + 4 else 0
                    if code and -code != errno.ENOENT:  # no such table: no routes
                        raise SyscallFailed(-code, _REQUESTS[request])
                    done = True
            yield datagram


def _open(netns: str | None) -> socket.socket:
    with entered(netns):
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
    try:
        sock.bind((0, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _messages(datagram: bytes) -> Iterable[bytes]:
    """Each message, from its header on. Notifications come one by one, answers many together."""
    if _NUMBER.unpack_from(datagram)[0] == len(datagram):
        return (datagram,)
    return _parted(datagram)


def _parted(datagram: bytes) -> Iterator[bytes]:
    at, size = 0, len(datagram)
    while at + _HEADER.size <= size:
        (length,) = _NUMBER.unpack_from(datagram, at)
        if length < _HEADER.size:
            return
        yield datagram[at : at + length]
        at += length + 3 & ~3


class _Alike(NamedTuple):
    """What messages say that differ in nothing but a route's address: `path` is None for an entry of a cache."""

    family: int
    length: int
    path: Path | None
    gone: bool
    flags: int


class Decoder:
    """Datagrams → changes. Routes differ in little but their addresses, so the rest of a message is decoded only once.

    The kernel writes the table and the prefix first (fib_dump_info(), net/ipv4/fib_semantics.c; rt6_fill_node(),
    net/ipv6/route.c); a message that is otherwise, or has no prefix, is decoded as any.
    """

    def __init__(self) -> None:
        self._alike: dict[bytes, _Alike] = {}
        self._paths: dict[Path, Path] = {}

    def decode(self, datagram: bytes, changes: list[Change]) -> None:
        """Adds the changes that a datagram tells of."""
        for message in _messages(datagram):
            kind = message[_TYPE]
            if kind in (RTM_NEWROUTE, RTM_DELROUTE):
                change: Change | None = self._route(message)
            else:
                change = _other(kind, message)
            if change is not None:
                changes.append(change)

    def _route(self, message: bytes) -> RouteChange | None:
        """The route that a message tells of; None where it is no route but an entry of a cache."""
        size = 16 if message[_BODY] == socket.AF_INET6 else 4
        address = message[_ADDRESS : _ADDRESS + size]
        rest = message[:_SEQUENCE] + message[_BODY:_ADDRESS] + message[_ADDRESS + size :]
        found = self._alike.get(rest)
        if found is None:
            found = self._read(message)
            if message[_ADDRESS - _ATTRIBUTE.size : _ADDRESS] == _PREFIX_HEADERS[size]:
                self._remember(rest, found)
            else:
                address = _address(message)
        family, length, path, gone, flags = found
        if path is None:
            return None
        return RouteChange((family, int.from_bytes(address, "big"), length), path, gone, flags)

    def _read(self, message: bytes) -> _Alike:
        """All that a route's message says but its address; equal paths are one."""
        _, kind, flags, _, _ = _HEADER.unpack_from(message)
        path = _path(message)
        if path is not None:
            path = self._paths.setdefault(path, path)
        return _Alike(message[_BODY], message[_BODY + 1], path, kind == RTM_DELROUTE, flags)

    def _remember(self, rest: bytes, found: _Alike) -> None:
        if len(self._alike) >= _MOST_KINDS:
            self._alike.clear()
            self._paths.clear()
        self._alike[rest] = found


def _other(kind: int, message: bytes) -> Change | None:
    """What a message says that is not about a route."""
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        _, _, ifindex, flags, _ = _LINK.unpack_from(message, _BODY)
        running = flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING
        return LinkChange(ifindex, running, kind == RTM_DELLINK)
    if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        return _neighbour(message, gone=kind == RTM_DELNEIGH)
    if kind in (RTM_DELADDR, RTM_NEWNEXTHOP, RTM_DELNEXTHOP):
        return Upheaval(kind)
    return None


def _attributes(message: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, begin and end of the value of each attribute."""
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < 4:
            return
        yield kind & _ATTRIBUTE_TYPE, at + 4, at + length
        at += length + 3 & ~3


def _address(message: bytes) -> bytes:
    """The first address of a route's prefix; nothing, where a message has none: it is 0."""
    for attribute, start, stop in _attributes(message, _BODY + _ROUTE.size, len(message)):
        if attribute == RTA_DST:
            return message[start:stop]
    return b""


def _path(message: bytes) -> Path | None:
    """What a message says of a route beside its prefix; None for what is no route but an entry of a cache."""
    family, _, source_length, tos, table, protocol, _, kind, flags = _ROUTE.unpack_from(message, _BODY)
    if flags & RTM_F_CLONED or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    metric = ifindex = 0
    gateway, hops = b"", None
    for attribute, start, stop in _attributes(message, _BODY + _ROUTE.size, len(message)):
        if attribute == RTA_OIF:
            ifindex = _NUMBER.unpack_from(message, start)[0]
        elif attribute == RTA_GATEWAY:
            gateway = message[start:stop]
        elif attribute == RTA_PRIORITY:
            metric = _NUMBER.unpack_from(message, start)[0]
        elif attribute == RTA_TABLE:
            table = _NUMBER.unpack_from(message, start)[0]
        elif attribute == RTA_VIA:
            gateway = message[start + 2 : stop]
        elif attribute == RTA_MULTIPATH:
            hops = tuple(sorted(_hops(message, start, stop)))
    if hops is None:
        hops = (Hop(ifindex, gateway, 1),) if ifindex and not flags & RTNH_F_DEAD else ()
    return Path(family, metric, kind, protocol, table, hops, bool(tos or source_length))


def _hops(message: bytes, at: int, end: int) -> Iterator[Hop]:
    """The ways of a multipath route that are not dead."""
    while at + _HOP.size <= end:
        length, flags, weight, ifindex = _HOP.unpack_from(message, at)
        if length < _HOP.size:
            return
        gateway = b""
        for attribute, start, stop in _attributes(message, at + _HOP.size, at + length):
            if attribute == RTA_GATEWAY:
                gateway = message[start:stop]
            elif attribute == RTA_VIA:
                gateway = message[start + 2 : stop]
        if not flags & RTNH_F_DEAD:
            yield Hop(ifindex, gateway, weight + 1)
        at += length + 3 & ~3


def _neighbour(message: bytes, *, gone: bool) -> NeighbourChange:
    family, ifindex, state, _, _ = _NEIGHBOUR.unpack_from(message, _BODY)
    attributes = _attributes(message, _BODY + _NEIGHBOUR.size, len(message))
    found = {kind: message[start:stop] for kind, start, stop in attributes}
    return NeighbourChange(family, ifindex, found.get(NDA_DST, b""), found.get(NDA_LLADDR, b""), state, gone)
