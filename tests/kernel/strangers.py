"""Programs of somebody else on the devices of a machine, put there in every way that the kernel knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runtime import sys
from runtime.attach import CLSACT_INGRESS, AttachPoint, Holder, Occupant, occupants
from runtime.info import prog_info
from runtime.load import load_object
from runtime.netns import entered
from runtime.object import read_object
from runtime.uapi import AttachType, XdpFlag
from schemas.manifest import Mode
from tests.clang.c import compile_c
from tests.rig.network import Network

FOREIGN = """
SEC("xdp") int stranger(struct xdp_md *ctx) { return 2; }
SEC("tc") int other(void *skb) { return -1; }
"""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Programs of somebody else, on devices of the machine under test."""

    net: Network
    xdp: sys.Fd
    tc: sys.Fd

    @property
    def xdp_id(self) -> int:
        return prog_info(self.xdp).id

    @property
    def tc_id(self) -> int:
        return prog_info(self.tc).id

    def ifindex(self, port: str) -> int:
        return self.net.cables[port].port.ifindex

    def by_netlink(self, port: str, flag: XdpFlag = XdpFlag.XDP_FLAGS_DRV_MODE, program: sys.Fd | None = None) -> None:
        with self.net.dut.netlink() as netlink:
            attrs = [("IFLA_XDP_FD", (program or self.xdp).fileno()), ("IFLA_XDP_FLAGS", int(flag))]
            netlink.link("set", index=self.ifindex(port), xdp={"attrs": attrs})

    def by_link(self, port: str, attach_type: AttachType, flags: int = 0) -> sys.Fd:
        program = self.xdp if attach_type is AttachType.BPF_XDP else self.tc
        with entered(self.net.dut.name):
            return sys.link_create(program, self.ifindex(port), attach_type, flags)

    def without_a_link(self, port: str) -> None:
        with entered(self.net.dut.name):
            sys.prog_attach(self.ifindex(port), self.tc, AttachType.BPF_TCX_INGRESS)

    def by_filter(self, port: str, *, beside_ours: bool = False) -> None:
        """Of our filter's priority or of a later one; of one priority, the newest filter comes first."""
        with self.net.dut.netlink() as netlink:
            if not beside_ours:
                netlink.tc("add", "clsact", self.ifindex(port))
            netlink.tc(
                "add-filter",
                "bpf",
                self.ifindex(port),
                fd=self.tc.fileno(),
                name="stranger.o:[tc]",
                parent=CLSACT_INGRESS,
                prio=1 if beside_ours else 7,
                handle=2,
                direct_action=True,
            )

    def on(self, port: str, mode: Mode) -> tuple[Occupant, ...]:
        return occupants(AttachPoint(port, port, self.net.dut.name, mode), self.ifindex(port))


@contextlib.contextmanager
def strangers(net: Network) -> Iterator[Foreign]:
    """Programs that are loaded, and on no hook yet."""
    with load_object(read_object(compile_c(FOREIGN)), maps={}) as loaded:
        yield Foreign(net, loaded.programs["stranger"], loaded.programs["other"])


@dataclass(frozen=True, slots=True)
class Case:
    """A way to be on a hook, the mode of the chain that comes, and what holds the hook afterwards."""

    put: Callable[[Foreign], sys.Fd | None]
    mode: str
    holder: Holder
    interrupts: bool = False


XDP = AttachType.BPF_XDP
CASES = {
    "netlink": Case(lambda f: f.by_netlink("p2"), "native", Holder.XDP_NETLINK),
    "generic netlink": Case(lambda f: f.by_netlink("p2", XdpFlag.XDP_FLAGS_SKB_MODE), "generic", Holder.XDP_NETLINK),
    "link": Case(lambda f: f.by_link("p2", XDP), "native", Holder.XDP_LINK),
    "generic link": Case(lambda f: f.by_link("p2", XDP, XdpFlag.XDP_FLAGS_SKB_MODE), "generic", Holder.XDP_LINK),
    "netlink in another mode": Case(lambda f: f.by_netlink("p2"), "generic", Holder.XDP_LINK, interrupts=True),
    "link in another mode": Case(lambda f: f.by_link("p2", XDP), "generic", Holder.XDP_LINK, interrupts=True),
    "TCX link": Case(lambda f: f.by_link("p2", AttachType.BPF_TCX_INGRESS), "tc", Holder.TCX_LINK),
    "TCX without a link": Case(lambda f: f.without_a_link("p2"), "tc", Holder.TCX_LINK),
    "filter": Case(lambda f: f.by_filter("p2"), "tc", Holder.TCX_LINK),
}
