"""Programs on devices: attached through a bpf_link where the kernel has one, by netlink where it has not.

The only netlink of the runtime is here (pyroute2, imported when first needed: it costs a quarter of a second). Every
function runs in the network namespace that its attach point names.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from msgspec import Struct, structs

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Mode

from . import features, sys
from .info import link_by_id, link_info, links, prog_by_id
from .netns import entered
from .uapi import AttachFlag, AttachType, LinkType, XdpFlag

CLSACT_INGRESS = 0xFFFFFFF2
_CLSACT_EGRESS = 0xFFFFFFF3
_FILTER_PRIORITY = 1
_FILTER_HANDLE = 1
_OWN_QDISC = "q"
_TCA_BPF_ID = 11  # include/uapi/linux/pkt_cls.h
_NLA_HEADER = 4
_XDP_FLAGS = {Mode.NATIVE: XdpFlag.XDP_FLAGS_DRV_MODE, Mode.GENERIC: XdpFlag.XDP_FLAGS_SKB_MODE}
_XDP_MODES = {
    "IFLA_XDP_DRV_PROG_ID": Mode.NATIVE,
    "IFLA_XDP_SKB_PROG_ID": Mode.GENERIC,
    "IFLA_XDP_HW_PROG_ID": Mode.NATIVE,  # in the device itself: nothing of ours ever is
}


class AttachPoint(Struct, frozen=True):
    """A hook of a device, under the chain's name for it (an interface, or an internal link's far end)."""

    name: str
    device: str
    netns: str | None
    mode: Mode

    def __str__(self) -> str:
        where = f" in `{self.netns}`" if self.netns else ""
        return f"{self.device} ({self.mode}){where}"

    @property
    def place(self) -> tuple[str | None, str, Mode]:
        """Two points of one place are the same hook."""
        return self.netns, self.device, self.mode


class Owner(Struct, frozen=True):
    """Whose a TC filter is: said in its name, because a filter has nothing else that tells."""

    chain: str
    point: str
    prog_id: int
    made_qdisc: bool = False

    def __str__(self) -> str:
        return f"bpfchain:{self.chain}:{self.point}:{self.prog_id}:{_OWN_QDISC if self.made_qdisc else ''}"

    @classmethod
    def parse(cls, name: str) -> Owner | None:
        parts = name.split(":")
        if len(parts) != 5 or parts[0] != "bpfchain" or not parts[3].isdecimal():
            return None
        return cls(parts[1], parts[2], int(parts[3]), parts[4] == _OWN_QDISC)


class Holder(StrEnum):
    """What holds a program on its hook."""

    XDP_LINK = "XDP link"
    XDP_NETLINK = "XDP by netlink"
    XDP = "XDP"
    """By either: only CAP_SYS_ADMIN may list links."""
    TCX_LINK = "TCX link"
    TCX = "TCX without a link"
    FILTER = "TC filter"


class Filter(Struct, frozen=True):
    """A filter on clsact, and how it is found again: `info` is its priority and protocol as struct tcmsg has them."""

    kind: str
    name: str
    info: int
    handle: int
    prog_id: int


class Occupant(Struct, frozen=True):
    """What is on a hook: a program's id (0: a filter that is none), the mode it runs in, and what holds it there."""

    prog_id: int
    holder: Holder
    mode: Mode
    link_id: int = 0
    filter: Filter | None = None

    @property
    def how(self) -> str:
        if self.filter:
            return f"{self.holder} `{self.filter.name}`"
        return f"{self.holder} {self.link_id}" if self.link_id else str(self.holder)

    @property
    def owner(self) -> Owner | None:
        """The chain whose filter it is; a link or a netlink attachment does not tell."""
        return Owner.parse(self.filter.name) if self.filter else None


def has_link(mode: Mode) -> bool:
    """Whether this kernel attaches through links at a hook."""
    return features.has("link:tcx" if mode is Mode.TC else "link:xdp")


def attach(point: AttachPoint, ifindex: int, prog_fd: sys.Fd, owner: Owner) -> sys.Fd | None:
    """Puts a program on a hook: the link, or None where there is none to hold. Raises `LoadFailed` (A104).

    An XDP hook must be empty. At TC it goes before whatever is there, and what it decides about nobody else sees.
    """
    if not has_link(point.mode):
        if point.mode is Mode.TC:
            _add_filter(point, ifindex, prog_fd, owner)
        else:
            _set_xdp(point, ifindex, prog_fd.fileno(), XdpFlag.XDP_FLAGS_UPDATE_IF_NOEXIST)
        return None
    attach_type = AttachType.BPF_TCX_INGRESS if point.mode is Mode.TC else AttachType.BPF_XDP
    try:
        with entered(point.netns):
            return sys.link_create(prog_fd, ifindex, attach_type, _XDP_FLAGS.get(point.mode, AttachFlag.BPF_F_BEFORE))
    except sys.SyscallFailed as failure:
        raise _refused(point, failure.errno, _in_words(point, ifindex, prog_fd, failure)) from failure


def _in_words(point: AttachPoint, ifindex: int, prog_fd: sys.Fd, failure: sys.SyscallFailed) -> str:
    """Why a link cannot be made: bpf(2) has an error number only, netlink refuses the same with the kernel's words."""
    if point.mode is not Mode.TC and failure.errno not in (errno.EBUSY, errno.EEXIST):
        try:
            _request_xdp(point, ifindex, prog_fd.fileno(), XdpFlag.XDP_FLAGS_UPDATE_IF_NOEXIST)
        except NetlinkRefused as refused:
            return str(refused) if refused.said else str(failure)
        _request_xdp(point, ifindex, -1, XdpFlag.XDP_FLAGS_REPLACE, expected_fd=prog_fd.fileno())
    return str(failure)


def replace(point: AttachPoint, ifindex: int, link: sys.Fd | None, new: sys.Fd, old: sys.Fd, owner: Owner) -> None:
    """Puts `new` in the place of `old`, in one step that no packet sees. Raises `LoadFailed` (A104)."""
    try:
        if link is not None:
            sys.link_update(link, new, old)
        elif point.mode is Mode.TC:
            _replace_filter(point, ifindex, new, owner)
        else:
            _set_xdp(point, ifindex, new.fileno(), XdpFlag.XDP_FLAGS_REPLACE, expected_fd=old.fileno())
    except sys.SyscallFailed as failure:
        # EPERM: `old` is not what the link has now (bpf_xdp_link_update, net/core/dev.c; tcx_link_update).
        number = errno.EBUSY if failure.errno == errno.EPERM else failure.errno
        raise _refused(point, number, str(failure)) from failure


def detach(point: AttachPoint, ifindex: int, link: sys.Fd | None, old: sys.Fd | None = None) -> None:
    """Empties the hook; without a link, only if `old` (XDP) or our filter (TC) is still there."""
    if link is not None:
        empty(link)
    elif point.mode is Mode.TC:
        _remove_filter(point, ifindex)
    elif old is not None:
        _set_xdp(point, ifindex, -1, XdpFlag.XDP_FLAGS_REPLACE, expected_fd=old.fileno())


def empty(link: sys.Fd) -> None:
    """Detaches a link now; one whose device is gone has been detached by the kernel (ENOLINK)."""
    try:
        sys.link_detach(link)
    except sys.SyscallFailed as failure:
        if failure.errno != errno.ENOLINK:
            raise


def occupants(point: AttachPoint, ifindex: int) -> tuple[Occupant, ...]:
    """Everything on a hook, ours or not."""
    if point.mode is not Mode.TC:
        return _xdp_occupants(point, ifindex)
    by_link: tuple[Occupant, ...] = ()
    if has_link(point.mode):
        with entered(point.netns):
            found = sys.prog_query(ifindex, AttachType.BPF_TCX_INGRESS)
        by_link = tuple(
            Occupant(prog_id, Holder.TCX_LINK if link_id else Holder.TCX, Mode.TC, link_id)
            for prog_id, link_id in zip(found.prog_ids, found.link_ids, strict=True)
        )
    return by_link + _filters(point, ifindex)


def evict(point: AttachPoint, ifindex: int, found: Occupant) -> None:
    """Takes a program of somebody else off a hook, whatever holds it there, if it is still that program.

    For XDP by netlink the kernel compares. For everything else that is done here, right before: neither BPF_LINK_DETACH
    nor a request to delete a filter takes a program to expect.
    """
    match found.holder:
        case Holder.XDP_LINK | Holder.TCX_LINK:
            with _if_there(), link_by_id(found.link_id) as link:
                if link_info(link).prog_id == found.prog_id:
                    empty(link)
        case Holder.XDP_NETLINK | Holder.XDP:
            with _if_there(), prog_by_id(found.prog_id) as old:
                where = structs.replace(point, mode=found.mode)
                _set_xdp(where, ifindex, -1, XdpFlag.XDP_FLAGS_REPLACE, expected_fd=old.fileno())
        case Holder.TCX:
            with _if_there(), prog_by_id(found.prog_id) as old, entered(point.netns):
                sys.prog_detach(ifindex, old, AttachType.BPF_TCX_INGRESS)
        case Holder.FILTER:
            assert found.filter
            with netlink(point.netns) as rtnl:
                if found.filter in _ingress_filters(rtnl, ifindex):
                    _delete_filter(rtnl, ifindex, found.filter)


def put_back(point: AttachPoint, ifindex: int, found: Occupant, prog_fd: sys.Fd) -> None:
    """Puts an evicted XDP program on its hook again, by netlink: a link that was detached stays so."""
    _set_xdp(structs.replace(point, mode=found.mode), ifindex, prog_fd.fileno(), XdpFlag.XDP_FLAGS_UPDATE_IF_NOEXIST)


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    """Passes over what has gone by itself."""
    try:
        yield
    except sys.SyscallFailed as failure:
        if failure.errno != errno.ENOENT:
            raise


def _refused(point: AttachPoint, number: int, reason: str) -> LoadFailed:
    meanings = {
        errno.EBUSY: "another program is there",
        errno.EEXIST: "another program is there",
        errno.EOPNOTSUPP: "the device's driver cannot do it",
        errno.EINVAL: "the device cannot do it as it is set up (MTU, queues, offloads)",
        errno.ERANGE: "the MTU is too large for native XDP",
        errno.ENODEV: "the device is gone",
    }
    notes = (meanings[number],) if number in meanings else ()
    ways_on = "set `mode: generic` or `mode: tc` for this interface" if point.mode is Mode.NATIVE else ""
    message = f"the kernel refuses the program on {point}: {reason}"
    return LoadFailed(Diagnostic("A104", message, notes=notes, help=ways_on if number != errno.EBUSY else ""))


# --- netlink --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def netlink(netns: str | None) -> Iterator[Any]:
    """A netlink socket of a namespace; what the kernel refuses becomes `SyscallFailed` with the kernel's own words."""
    from pyroute2 import IPRoute, NetlinkError

    with entered(netns):
        socket = IPRoute(ext_ack=True)
    with socket:
        try:
            yield socket
        except NetlinkError as error:
            raise NetlinkRefused(int(error.code), str(error.args[1] if len(error.args) > 1 else "")) from error


class NetlinkRefused(sys.SyscallFailed):
    """A netlink request that the kernel refused; `said` is its extended ack."""

    def __init__(self, number: int, said: str) -> None:
        super().__init__(number, "netlink")
        self.said = said

    def __str__(self) -> str:
        return f"{self.said} ({errno.errorcode.get(self.errno, self.errno)})" if self.said else super().__str__()


def _set_xdp(point: AttachPoint, ifindex: int, prog_fd: int, flags: XdpFlag, *, expected_fd: int | None = None) -> None:
    try:
        _request_xdp(point, ifindex, prog_fd, flags, expected_fd=expected_fd)
    except NetlinkRefused as refused:
        raise _refused(point, refused.errno, str(refused)) from refused


def _request_xdp(
    point: AttachPoint, ifindex: int, prog_fd: int, flags: XdpFlag, *, expected_fd: int | None = None
) -> None:
    attrs: list[tuple[str, int]] = [("IFLA_XDP_FD", prog_fd), ("IFLA_XDP_FLAGS", flags | _XDP_FLAGS[point.mode])]
    if expected_fd is not None:
        attrs.append(("IFLA_XDP_EXPECTED_FD", expected_fd))
    with netlink(point.netns) as rtnl:
        rtnl.link("set", index=ifindex, xdp={"attrs": attrs})


def _xdp_occupants(point: AttachPoint, ifindex: int) -> tuple[Occupant, ...]:
    """Native and generic exclude each other, so whatever XDP program is there counts."""
    with netlink(point.netns) as rtnl:
        (device,) = rtnl.link("get", index=ifindex)
    xdp = device.get_attr("IFLA_XDP")
    ids = {} if xdp is None else {value: name for name, value in xdp["attrs"] if name in _XDP_MODES and value}
    return tuple(_xdp_occupant(prog_id, _XDP_MODES[name], ifindex) for prog_id, name in sorted(ids.items()))


def _xdp_occupant(prog_id: int, mode: Mode, ifindex: int) -> Occupant:
    try:
        for link in links():
            if (link.type, link.ifindex, link.prog_id) == (LinkType.BPF_LINK_TYPE_XDP, ifindex, prog_id):
                return Occupant(prog_id, Holder.XDP_LINK, mode, link.id)
    except sys.SyscallFailed as failure:
        if failure.errno != errno.EPERM:  # listing links takes CAP_SYS_ADMIN
            raise
        return Occupant(prog_id, Holder.XDP, mode)
    return Occupant(prog_id, Holder.XDP_NETLINK, mode)


def _filters(point: AttachPoint, ifindex: int) -> tuple[Occupant, ...]:
    with netlink(point.netns) as rtnl:
        found = _ingress_filters(rtnl, ifindex)
    return tuple(Occupant(each.prog_id, Holder.FILTER, Mode.TC, filter=each) for each in found)


def _ingress_filters(rtnl: Any, ifindex: int, parent: int = CLSACT_INGRESS) -> list[Filter]:
    """The filters on clsact; those of other classifiers have their kind for a name."""
    found = []
    for message in rtnl.get_filters(index=ifindex, parent=parent):
        options = message.get_attr("TCA_OPTIONS")
        if message["handle"] and options is not None:
            kind = message.get_attr("TCA_KIND")
            name = options.get_attr("TCA_BPF_NAME") or kind
            found.append(Filter(kind, name, message["info"], message["handle"], _filter_program(options)))
    return found


def _filter_program(options: Any) -> int:
    """The program's id, an attribute that pyroute2 does not know by name."""
    for name, value in options["attrs"]:
        if name == "UNKNOWN" and value["header"]["type"] == _TCA_BPF_ID:
            content = value.data[value.offset + _NLA_HEADER : value.offset + value.length]
            return int.from_bytes(content, "little")
    return 0


def _delete_filter(rtnl: Any, ifindex: int, found: Filter) -> None:
    rtnl.tc("del-filter", found.kind, ifindex, handle=found.handle, parent=CLSACT_INGRESS, info=found.info)


def _add_filter(point: AttachPoint, ifindex: int, prog_fd: sys.Fd, owner: Owner) -> None:
    with netlink(point.netns) as rtnl:
        made_qdisc = not _has_clsact(rtnl, ifindex)
        if made_qdisc:
            rtnl.tc("add", "clsact", ifindex)
        try:
            _tc(rtnl, "add-filter", ifindex, prog_fd, Owner(owner.chain, owner.point, owner.prog_id, made_qdisc))
        except BaseException:
            if made_qdisc:
                rtnl.tc("del", "clsact", ifindex)
            raise


def _replace_filter(point: AttachPoint, ifindex: int, prog_fd: sys.Fd, owner: Owner) -> None:
    """One netlink request: cls_bpf puts the new filter in the old one's place (cls_bpf_change, net/sched/cls_bpf.c)."""
    with netlink(point.netns) as rtnl:
        ours = [found for each in _ingress_filters(rtnl, ifindex) if (found := Owner.parse(each.name))]
        made_qdisc = any(found.made_qdisc for found in ours)
        _tc(rtnl, "replace-filter", ifindex, prog_fd, Owner(owner.chain, owner.point, owner.prog_id, made_qdisc))


def _tc(rtnl: Any, command: str, ifindex: int, prog_fd: sys.Fd, owner: Owner) -> None:
    rtnl.tc(
        command,
        "bpf",
        ifindex,
        handle=_FILTER_HANDLE,
        fd=prog_fd.fileno(),
        name=str(owner),
        parent=CLSACT_INGRESS,
        prio=_FILTER_PRIORITY,
        direct_action=True,
    )


def _remove_filter(point: AttachPoint, ifindex: int) -> None:
    """Our filter, and the qdisc if we made it and nobody else uses it by now."""
    with netlink(point.netns) as rtnl:
        before = _ingress_filters(rtnl, ifindex)
        ours = [found for each in before if (found := Owner.parse(each.name))]
        if not ours:
            return
        rtnl.tc("del-filter", "bpf", ifindex, handle=_FILTER_HANDLE, parent=CLSACT_INGRESS, prio=_FILTER_PRIORITY)
        others = len(before) > len(ours) or _ingress_filters(rtnl, ifindex, _CLSACT_EGRESS)
        if ours[0].made_qdisc and not others:
            rtnl.tc("del", "clsact", ifindex)


def _has_clsact(rtnl: Any, ifindex: int) -> bool:
    qdiscs = rtnl.get_qdiscs(index=ifindex)
    return any(found["index"] == ifindex and found.get_attr("TCA_KIND") == "clsact" for found in qdiscs)
