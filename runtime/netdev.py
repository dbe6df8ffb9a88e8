"""The name of a network device in, how it is set up out: by netlink, and by the ioctl that `ethtool -k` makes.

For `doctor`. What every command needs of a device is in devices.py and costs less.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum, IntFlag
from typing import Any

from msgspec import Struct

from schemas.diagnostic import LoadFailed

from . import sys
from .attach import NetlinkRefused, netlink
from .devices import find_device
from .home import is_reachable
from .netns import NETNS_DIRECTORY, current_netns, entered

VETH = "veth"
_IFF_UP = 1
_SIOCETHTOOL = 0x8946
_IFREQ_SIZE = 40
_ETH_SS_FEATURES = 4
_NAME_SIZE = 32  # ETH_GSTRING_LEN
_FEATURE_BLOCK = struct.Struct("IIII")  # ethtool_get_features_block: available, requested, active, never changed
_NETDEV_CMD_DEV_GET = 1


class _Ethtool(IntEnum):
    """Commands of linux/ethtool.h."""

    ETHTOOL_GSTRINGS = 0x1B
    ETHTOOL_GSSET_INFO = 0x37
    ETHTOOL_GFEATURES = 0x3A


class XdpFeature(IntFlag):
    """enum netdev_xdp_act of linux/netdev.h: what a driver does at native XDP."""

    BASIC = 1
    REDIRECT = 2
    NDO_XMIT = 4


class FarEnd(Struct, frozen=True):
    """Where the other end of a veth is; `netns` is None in the caller's own namespace."""

    ifindex: int
    netns: str | None


class Netdev(Struct, frozen=True):
    """A device as it is set up now.

    `kind` is `veth`, `macvlan`, …, empty for hardware. `xdp` is None where the kernel does not tell. `offloads` are the
    features that are on, by ethtool's long names. `far` is None for what is no veth, and for a veth whose other end is
    in a namespace that has no name here.
    """

    name: str
    netns: str | None
    ifindex: int
    kind: str
    mtu: int
    up: bool
    operstate: str
    qdisc: str
    promiscuous: bool
    xdp: XdpFeature | None
    offloads: frozenset[str]
    far: FarEnd | None

    @property
    def sends(self) -> bool:
        """Whether frames leave it: there is a carrier, and the kernel has noticed. A tap has no such state."""
        return self.operstate in ("UP", "UNKNOWN") and self.qdisc != "noop"


def read_netdev(name: str, netns: str | None = None) -> Netdev | None:
    """The device, or None where there is none of this name (or no such namespace). Raises `LoadFailed` (L151)."""
    device = find_device(name, netns)
    return _read(device.ifindex, netns) if device else None


def read_far_end(device: Netdev) -> Netdev | None:
    """The other end of a veth; None where it cannot be looked at."""
    if device.far is None or not is_reachable(device.far.netns):
        return None
    try:
        return _read(device.far.ifindex, device.far.netns)
    except LoadFailed:  # its namespace cannot be entered without CAP_SYS_ADMIN
        return None


def _read(ifindex: int, netns: str | None) -> Netdev | None:
    try:
        return _asked(ifindex, netns)
    except OSError as error:
        if error.errno == errno.ENODEV:  # it went while we looked
            return None
        raise


def _asked(ifindex: int, netns: str | None) -> Netdev:
    with netlink(netns) as rtnl:
        (link,) = rtnl.link("get", index=ifindex)
        about = link.get_attr("IFLA_LINKINFO")
        kind = about.get_attr("IFLA_INFO_KIND") if about else ""
        far = _far_end(rtnl, link, netns) if kind == VETH else None
    name = link.get_attr("IFLA_IFNAME")
    return Netdev(
        name=name,
        netns=netns,
        ifindex=ifindex,
        kind=kind,
        mtu=link.get_attr("IFLA_MTU"),
        up=bool(link["flags"] & _IFF_UP),
        operstate=link.get_attr("IFLA_OPERSTATE"),
        qdisc=link.get_attr("IFLA_QDISC") or "",
        promiscuous=bool(link.get_attr("IFLA_PROMISCUITY")),
        xdp=_xdp_features(ifindex, netns),
        offloads=frozenset(_offloads(name, netns)),
        far=far,
    )


def _far_end(rtnl: Any, link: Any, netns: str | None) -> FarEnd | None:
    """The other end of a veth, if the namespace that it is in can be called by a name, or is the caller's."""
    ifindex, wanted = link.get_attr("IFLA_LINK"), link.get_attr("IFLA_LINK_NETNSID")
    if not ifindex:
        return None
    if wanted is None:  # both ends in one namespace
        return FarEnd(ifindex, netns)
    for name, fd in _namespaces():
        with fd:
            if _nsid(rtnl, fd) == wanted:
                return FarEnd(ifindex, name)
    return None


def _nsid(rtnl: Any, namespace: sys.Fd) -> int | None:
    """The number by which the socket's namespace knows another one; None for a file that is none, or not any more."""
    from pyroute2 import NetlinkError

    try:
        return int(rtnl.get_netnsid(fd=namespace.fileno())["nsid"])
    except NetlinkError as error:
        if error.code == errno.EINVAL:
            return None
        raise


def _namespaces() -> Iterator[tuple[str | None, sys.Fd]]:
    yield None, current_netns()
    for path in sorted(NETNS_DIRECTORY.glob("*")):
        with contextlib.suppress(OSError):  # removed meanwhile, or not to be opened
            yield path.name, sys.Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _xdp_features(ifindex: int, netns: str | None) -> XdpFeature | None:
    """What the generic netlink family `netdev` says (kernel commit d3d854fd6a1d, "netdev-genl: create a simple family
    for netdev stuff", 6.3)."""
    from pyroute2 import NetlinkError
    from pyroute2.netlink import NLM_F_REQUEST, genlmsg
    from pyroute2.netlink.generic import GenericNetlinkSocket

    class Message(genlmsg):  # type: ignore[misc]  # pyroute2 is not typed
        nla_map = (
            ("NETDEV_A_DEV_UNSPEC", "none"),
            ("NETDEV_A_DEV_IFINDEX", "uint32"),
            ("NETDEV_A_DEV_PAD", "none"),
            ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        )

    request = Message()
    request["cmd"], request["version"] = _NETDEV_CMD_DEV_GET, 1
    request["attrs"] = [("NETDEV_A_DEV_IFINDEX", ifindex)]
    with entered(netns):
        asker = GenericNetlinkSocket()
    with asker:
        try:
            asker.bind("netdev", Message)
            (answer, *_) = asker.nlm_request(request, msg_type=asker.prid, msg_flags=NLM_F_REQUEST)
        except NetlinkError as error:
            if error.code == errno.ENOENT:  # no such family
                return None
            raise NetlinkRefused(int(error.code), "netdev") from error
    return XdpFeature(answer.get_attr("NETDEV_A_DEV_XDP_FEATURES") & sum(XdpFeature))


# --- ethtool --------------------------------------------------------------------------------------------------------


def _offloads(device: str, netns: str | None) -> list[str]:
    """Names of the features that are on; none where the driver knows no ethtool."""
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            count = struct.unpack_from("I", _ask(asker, device, _counting(), 4), 16)[0]
            names = _ask(
                asker, device, struct.pack("III", _Ethtool.ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, count), count * 32
            )
            blocks = (count + 31) // 32
            states = _ask(asker, device, struct.pack("II", _Ethtool.ETHTOOL_GFEATURES, blocks), blocks * 16)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
    active = [block[2] for block in _FEATURE_BLOCK.iter_unpack(states[8:])]
    return [name for bit, name in enumerate(_names(names[12:], count)) if active[bit // 32] >> bit % 32 & 1]


def _counting() -> bytes:
    """struct ethtool_sset_info: how many features there are."""
    return struct.pack("IIQ", _Ethtool.ETHTOOL_GSSET_INFO, 0, 1 << _ETH_SS_FEATURES)


def _names(content: bytes, count: int) -> Sequence[str]:
    pieces = (content[at * _NAME_SIZE : (at + 1) * _NAME_SIZE] for at in range(count))
    return [piece.split(b"\0", 1)[0].decode("ascii", "replace") for piece in pieces]


def _ask(asker: socket.socket, device: str, question: bytes, room: int) -> bytes:
    """One ethtool command: the question, with what the kernel wrote into it and into the room behind it."""
    content = array.array("B", question + bytes(room))
    address, _ = content.buffer_info()
    fcntl.ioctl(asker, _SIOCETHTOOL, struct.pack("16sQ", device.encode(), address).ljust(_IFREQ_SIZE, b"\0"))
    return content.tobytes()
