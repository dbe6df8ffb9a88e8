"""A bridge of the kernel's as a switch that snoops on IGMP and MLD, and asks who listens."""

from __future__ import annotations

from collections.abc import Iterable

from .lab import Namespace

NAME = "br0"


def asking_switch(
    namespace: Namespace, ports: Iterable[str], query_seconds: int, response_seconds: int, **more: int
) -> None:
    """Makes devices of a namespace the ports of a bridge that asks every few seconds; `more`: what it is else."""
    hundredths = {
        "br_mcast_query_intvl": 100 * query_seconds,
        "br_mcast_startup_query_intvl": 100 * query_seconds,
        "br_mcast_query_response_intvl": 100 * response_seconds,
    }
    with namespace.netlink() as netlink:
        netlink.link("add", ifname=NAME, kind="bridge", br_mcast_querier=1, **hundredths, **more)
        (index,) = netlink.link_lookup(ifname=NAME)
        namespace.sysctl(f"net/ipv6/conf/{NAME}/disable_ipv6", "0")
        netlink.addr("add", index=index, address="fe80::99", prefixlen=64)
        netlink.addr("add", index=index, address="10.0.0.99", prefixlen=24)
        for name in ports:
            (port,) = netlink.link_lookup(ifname=name)
            netlink.link("set", index=port, master=index)
        netlink.link("set", index=index, state="up")
