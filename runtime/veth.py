"""Internal links in, veth pairs out: how a flood reaches another service's port without leaving the machine.

A copy is sent into end `a` and received at end `b`, which carries the receiving program. Nothing else ever uses the
pair: no IPv6, no ARP, no addresses.
"""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

from msgspec import Struct

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Hook, InternalLinkRecord, Manifest, Mode

from .attach import AttachPoint, NetlinkRefused, netlink
from .devices import find_device
from .netns import entered

INJECTED_BYTES = 24
"""What a frame that is sent in can be longer by than the MTU says: a label (schemas/slow_path.py) and two tags."""

_MAX_MTU = {Hook.XDP: 3498, Hook.TC: 65535}
"""veth takes native XDP only where a frame fits one page (veth_xdp_set, drivers/net/veth.c)."""


class VethPair(Struct, frozen=True):
    """The devices of an internal link."""

    link: str
    chain: str
    hook: Hook
    netns: str | None
    mode: Mode

    @property
    def a(self) -> str:
        """Where copies are sent into. 12 characters: device names have 15 at most."""
        return f"bc{self._digest}a"

    @property
    def b(self) -> str:
        """Where the receiving program is."""
        return f"bc{self._digest}b"

    @property
    def _digest(self) -> str:
        return hashlib.sha256(f"{self.chain} {self.link}".encode()).hexdigest()[:9]

    def mac(self, end: str) -> str:
        """The address of `a` or `b`, given when it is made: so the pair is ours from its first moment on."""
        return "02:" + hashlib.sha256(f"{self.alias} {end}".encode()).digest()[:5].hex(":")

    @property
    def alias(self) -> str:
        """What `ip link` shows, and how the pair is known to be ours and complete."""
        return f"bpfchain {self.chain} {self.link}"

    @property
    def attach_point(self) -> AttachPoint:
        return AttachPoint(self.link, self.b, self.netns, self.mode)


def veth_pair(manifest: Manifest, link: InternalLinkRecord, home: str | None = None) -> VethPair:
    """The pair of an internal link; `home` is the namespace that the chain was applied in."""
    beside = next(interface for interface in manifest.interfaces if interface.name == link.interface)
    return VethPair(link.name, manifest.chain, link.hook, beside.netns or home, _mode(manifest, link.hook))


def _mode(manifest: Manifest, hook: Hook) -> Mode:
    """How the far end receives. Generic where all of the chain is: a native program cannot send to every device."""
    if hook is Hook.TC:
        return Mode.TC
    modes = {interface.mode for interface in manifest.interfaces if interface.mode.hook is hook}
    return Mode.GENERIC if modes == {Mode.GENERIC} else Mode.NATIVE


def veth_pairs(manifest: Manifest, home: str | None = None) -> tuple[VethPair, ...]:
    """Every pair that a chain needs."""
    return tuple(veth_pair(manifest, link, home) for link in manifest.internal_links)


def create(pair: VethPair, mtu: int) -> None:
    """Makes the pair and sets it up; the MTU is cut to what the hook can. Raises `LoadFailed` (A105)."""
    try:
        with netlink(pair.netns) as rtnl:
            if _is_begun(pair, pair.a):
                remove(pair)
            peer = {"ifname": pair.b, "address": pair.mac(pair.b)}
            rtnl.link("add", ifname=pair.a, kind="veth", address=pair.mac(pair.a), peer=peer)
            for name in (pair.a, pair.b):
                _silence(name, pair.netns)
                (ifindex,) = rtnl.link_lookup(ifname=name)
                rtnl.link(
                    "set",
                    index=ifindex,
                    ifalias=pair.alias,
                    mtu=min(max(mtu, 1500), _MAX_MTU[pair.hook]),
                    arp=False,
                    state="up",
                )
    except NetlinkRefused as refused:
        if refused.errno != errno.EEXIST:
            remove(pair)
        raise LoadFailed(
            Diagnostic(
                "A105", f"cannot make the veth pair {pair.a}, {pair.b} for internal link `{pair.link}`: {refused}"
            )
        ) from refused


def is_ours(pair: VethPair) -> bool:
    """Whether the pair was made for this internal link, wholly. Raises `LoadFailed` (A105) if it is another's."""
    ends = (pair.a, pair.b)
    if all(find_device(name, pair.netns) is None for name in ends):
        return False
    complete = [find_device(name, pair.netns) is not None and _alias(name, pair.netns) == pair.alias for name in ends]
    if not all(done or _is_begun(pair, name) for done, name in zip(complete, ends, strict=True)):
        message = f"device `{pair.a}` or `{pair.b}` is there, and is not internal link `{pair.link}`"
        raise LoadFailed(Diagnostic("A105", message, help=f"`ip link delete {pair.a}`, if nobody needs it"))
    return all(complete)


def remove(pair: VethPair) -> None:
    """Removes both ends; nothing is done where there is none."""
    with netlink(pair.netns) as rtnl:
        for ifindex in rtnl.link_lookup(ifname=pair.a):
            rtnl.link("del", index=ifindex)


def remove_ours(pair: VethPair) -> None:
    """Removes the pair if it is there and was made for this internal link."""
    if find_device(pair.a, pair.netns) and (_alias(pair.a, pair.netns) == pair.alias or _is_begun(pair, pair.a)):
        remove(pair)


def _is_begun(pair: VethPair, name: str) -> bool:
    """Whether an end is ours, even if whoever made it did not get any further."""
    found = find_device(name, pair.netns)
    return found is not None and found.mac.hex(":") == pair.mac(name)


def _alias(name: str, netns: str | None) -> str | None:
    with netlink(netns) as rtnl:
        (ifindex,) = rtnl.link_lookup(ifname=name)
        alias: str | None = rtnl.link("get", index=ifindex)[0].get_attr("IFLA_IFALIAS")
    return alias


def _silence(name: str, netns: str | None) -> None:
    """No IPv6, so neither solicitations nor duplicate address detection. /proc/sys/net is the thread's namespace's."""
    with entered(netns):
        switch = Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
        if switch.exists():
            switch.write_text("1")
