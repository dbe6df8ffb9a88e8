"""A Linux host that our router redirects: it takes the redirect, and sends to the better next hop directly then.

host ── br0 ── gw: the router has one port only, and all that is behind `second` has to go back to the same link.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import bpfchain
from schemas.manifest import Mode
from tests.rig.daemon import daemon, own_bpffs
from tests.rig.lab import Lab, Namespace
from tests.rig.network import running
from tests.rig.tools import pings, run
from tests.rig.waiting import eventually
from tests.services.router_frames import link_local

pytestmark = pytest.mark.kernel
every_mode = pytest.mark.parametrize("mode", list(Mode), ids=str)

BEHIND, BEHIND6 = "10.2.0.1", "fd00:2::1"


def one_armed(mode: Mode, second: str, *, redirects: bool) -> dict[str, Any]:
    return {
        "mode": mode.value,
        "interfaces": {"p1": {"device": "p1"}, "p2": {"device": "p2"}},
        "services": {
            "br0": {"kind": "bridge", "ports": {"host": {}, "second": {}, "gateway": {}}},
            "gw": {
                "kind": "router",
                "ports": {"lan": {"address": ["10.1.0.1/24", "fd00:1::1/64"], "redirects": redirects}},
                "routes": [
                    {"to": "10.2.0.0/24", "via": "10.1.0.2"},
                    {"to": "fd00:2::/64", "via": link_local(second), "port": "lan"},
                ],
            },
        },
        "links": [["p1", "br0.host"], ["p2", "br0.second"], ["br0.gateway", "gw.lan"]],
    }


@dataclass(frozen=True, slots=True)
class Lan:
    """A host whose gateway is the router, `gateway6` by its link-local address; `second6` is the better one's."""

    host: Namespace
    chain: str
    second6: str

    def way(self, target: str) -> str:
        """How the host's own stack would send there now."""
        return run(self.host, "ip", "route", "get", target)

    def forwarded(self) -> int:
        """Packets that left the router."""
        return bpfchain.status(self.chain).service("gw").port("lan").sent.packets


@contextlib.contextmanager
def lan(mode: Mode, folder: Path, *, redirects: bool = True) -> Iterator[Lan]:
    offloads = mode is Mode.TC
    with own_bpffs(folder), daemon(folder) as process, Lab() as lab:
        dut, host, second = (lab.namespace(label) for label in ("dut", "host", "second"))
        near = lab.cable((dut, "p1"), (host, "eth0"), ("10.1.0.10/24", "fd00:1::10/64"), offloads=offloads).station
        station = lab.cable((dut, "p2"), (second, "eth0"), ("10.1.0.2/24", "fd00:1::2/64"), offloads=offloads).station
        for device in (near, station):
            lab.address(device, f"{link_local(device.mac)}/64")
        second.sysctl("net/ipv6/conf/all/forwarding", "1")
        with second.netlink() as netlink:
            for address, length in ((BEHIND, 32), (BEHIND6, 128)):
                second.sysctl("net/ipv6/conf/lo/disable_ipv6", "0")
                netlink.addr("add", index=1, address=address, prefixlen=length)
        host.sysctl("net/ipv4/conf/all/accept_redirects", "1")
        host.sysctl("net/ipv6/conf/eth0/accept_redirects", "1")
        with running(dut, one_armed(mode, station.mac, redirects=redirects), folder) as compiled:
            chain = compiled.manifest.chain
            process.wait_for(chain, "gw", "running")
            gateway6 = link_local(_mac_of_the_router(host))
            run(host, "ip", "route", "add", "default", "via", "10.1.0.1")
            run(host, "ip", "-6", "route", "add", "default", "via", gateway6, "dev", "eth0")
            yield Lan(host, chain, link_local(station.mac))


def _mac_of_the_router(host: Namespace) -> str:
    assert pings(host, "10.1.0.1", 1) == 1
    shown = run(host, "ip", "neigh", "show", "10.1.0.1")
    return shown.split(" lladdr ")[1].split()[0]


@every_mode
def test_a_host_takes_the_redirect_and_sends_directly(mode: Mode, tmp_path: Path) -> None:
    with lan(mode, tmp_path) as net:
        for target, better in ((BEHIND, "10.1.0.2"), (BEHIND6, net.second6)):
            assert f"via {better}" not in net.way(target)
            assert pings(net.host, target) == 3, "forwarded all the same"
            eventually(partial(_redirected, net, target, better), True)
            assert pings(net.host, target, 1) == 1  # the neighbour is known by now
            before = net.forwarded()
            assert pings(net.host, target) == 3
            assert net.forwarded() == before, f"{target}: the router is still on the way"


def _redirected(net: Lan, target: str, better: str) -> bool:
    assert pings(net.host, target, 1) == 1
    return f"via {better}" in net.way(target)


def test_without_redirects_the_host_goes_on_as_before(tmp_path: Path) -> None:
    with lan(Mode.NATIVE, tmp_path, redirects=False) as net:
        for target, better in ((BEHIND, "10.1.0.2"), (BEHIND6, net.second6)):
            assert pings(net.host, target) == 3
            assert f"via {better}" not in net.way(target)
            before = net.forwarded()
            assert pings(net.host, target) == 3
            assert net.forwarded() >= before + 3
