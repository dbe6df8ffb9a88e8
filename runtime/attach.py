"""Programs on devices: attached through a bpf_link where the kernel has one, by netlink where it has not.

The only netlink of the runtime is here (pyroute2, imported when first needed: it costs a quarter of a second). Every
function runs in the network namespace that its attach point names.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Mode

from . import features, sys
from .info import links
from .netns import entered
from .uapi import AttachType, LinkType, XdpFlag

CLSACT_INGRESS = 0xFFFFFFF2
_CLSACT_EGRESS = 0xFFFFFFF3
_FILTER_PRIORITY = 1
_FILTER_HANDLE = 1
_OWN_QDISC = "q"
_XDP_FLAGS = {Mode.NATIVE: XdpFlag.XDP_FLAGS_DRV_MODE, Mode.GENERIC: XdpFlag.XDP_FLAGS_SKB_MODE}


@dataclass(frozen=True, slots=True)
class AttachPoint:
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


@dataclass(frozen=True, slots=True)
class Owner:
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


@dataclass(frozen=True, slots=True)
class Occupant:
    """What is on a hook: a program's id (0: not known), and how it got there."""

    prog_id: int
    how: str
    owner: Owner | None = None


def has_link(mode: Mode) -> bool:
    """Whether this kernel attaches through links at a hook."""
    return features.has("link:tcx" if mode is Mode.TC else "link:xdp")


def attach(point: AttachPoint, ifindex: int, prog_fd: sys.Fd, owner: Owner) -> sys.Fd | None:
    """Puts a program on an empty hook: the link, or None where there is none to hold. Raises `LoadFailed` (A104)."""
    if not has_link(point.mode):
        if point.mode is Mode.TC:
            _add_filter(point, ifindex, prog_fd, owner)
        else:
            _set_xdp(point, ifindex, prog_fd.fileno(), XdpFlag.XDP_FLAGS_UPDATE_IF_NOEXIST)
        return None
    attach_type = AttachType.BPF_TCX_INGRESS if point.mode is Mode.TC else AttachType.BPF_XDP
    try:
        with entered(point.netns):
            return sys.link_create(prog_fd, ifindex, attach_type, _XDP_FLAGS.get(point.mode, 0))
    except sys.SyscallFailed as failure:
        raise _refused(point, failure.errno, str(failure)) from failure


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
        raise _refused(point, failure.errno, str(failure)) from failure


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
            Occupant(prog_id, f"TCX link {link_id}" if link_id else "TCX without a link")
            for prog_id, link_id in zip(found.prog_ids, found.link_ids, strict=True)
        )
    return by_link + _filters(point, ifindex)


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
    attrs: list[tuple[str, int]] = [("IFLA_XDP_FD", prog_fd), ("IFLA_XDP_FLAGS", flags | _XDP_FLAGS[point.mode])]
    if expected_fd is not None:
        attrs.append(("IFLA_XDP_EXPECTED_FD", expected_fd))
    try:
        with netlink(point.netns) as rtnl:
            rtnl.link("set", index=ifindex, xdp={"attrs": attrs})
    except NetlinkRefused as refused:
        raise _refused(point, refused.errno, str(refused)) from refused


def _xdp_occupants(point: AttachPoint, ifindex: int) -> tuple[Occupant, ...]:
    """Native and generic exclude each other, so whatever XDP program is there counts."""
    with netlink(point.netns) as rtnl:
        (device,) = rtnl.link("get", index=ifindex)
    xdp = device.get_attr("IFLA_XDP")
    ids = {} if xdp is None else {name: value for name, value in xdp["attrs"] if name.endswith("PROG_ID")}
    prog_ids = sorted({value for value in ids.values() if value})
    return tuple(Occupant(prog_id, _how(prog_id, ifindex)) for prog_id in prog_ids)


def _how(prog_id: int, ifindex: int) -> str:
    try:
        for link in links():
            if (link.type, link.ifindex, link.prog_id) == (LinkType.BPF_LINK_TYPE_XDP, ifindex, prog_id):
                return f"XDP link {link.id}"
    except sys.SyscallFailed as failure:
        if failure.errno != errno.EPERM:  # listing links takes CAP_SYS_ADMIN
            raise
        return "XDP"
    return "XDP by netlink"


def _filters(point: AttachPoint, ifindex: int) -> tuple[Occupant, ...]:
    with netlink(point.netns) as rtnl:
        found = _ingress_filters(rtnl, ifindex)
    return tuple(
        Occupant(owner.prog_id if owner else 0, f"TC filter `{name}`", owner)
        for name in found
        for owner in [Owner.parse(name)]
    )


def _ingress_filters(rtnl: Any, ifindex: int, parent: int = CLSACT_INGRESS) -> list[str]:
    """Names of the filters on clsact; those of other classifiers are called by their kind."""
    names = []
    for message in rtnl.get_filters(index=ifindex, parent=parent):
        options = message.get_attr("TCA_OPTIONS")
        if message["handle"] and options is not None:
            names.append(options.get_attr("TCA_BPF_NAME") or message.get_attr("TCA_KIND"))
    return names


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
        ours = [found for name in _ingress_filters(rtnl, ifindex) if (found := Owner.parse(name))]
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
        ours = [found for name in before if (found := Owner.parse(name))]
        if not ours:
            return
        rtnl.tc("del-filter", "bpf", ifindex, handle=_FILTER_HANDLE, parent=CLSACT_INGRESS, prio=_FILTER_PRIORITY)
        others = len(before) > len(ours) or _ingress_filters(rtnl, ifindex, _CLSACT_EGRESS)
        if ours[0].made_qdisc and not others:
            rtnl.tc("del", "clsact", ifindex)


def _has_clsact(rtnl: Any, ifindex: int) -> bool:
    qdiscs = rtnl.get_qdiscs(index=ifindex)
    return any(found["index"] == ifindex and found.get_attr("TCA_KIND") == "clsact" for found in qdiscs)
