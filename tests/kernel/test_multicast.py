"""Multicast over our bridge between real stacks: hosts join and leave, and the kernel's own bridge asks them."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from runtime.services.bridge_groups import groups
from schemas.manifest import Mode
from tests.rig.daemon import DaemonProcess, daemon, own_bpffs
from tests.rig.frames import Wire, collect
from tests.rig.lab import Cable, Lab, Namespace
from tests.rig.network import running

pytestmark = pytest.mark.kernel

every_mode = pytest.mark.parametrize("mode", [mode.value for mode in Mode])

V4, V6 = "239.1.1.1", "ff05::1:1"
PORT = 5007
PATIENCE_SECONDS = 30.0
QUERY_SECONDS, RESPONSE_SECONDS = 2, 1
IPV6_JOIN_GROUP, IPV6_LEAVE_GROUP = 20, 21  # linux/in6.h


@dataclass(slots=True)
class Hosts:
    """Hosts on the ports of our bridge, by the ports' names, each with a tap, and an asking bridge of the kernel's."""

    chain: str
    lab: Lab
    dut: Namespace
    stacks: Mapping[str, Namespace]
    cables: Mapping[str, Cable]
    wires: Mapping[str, Wire]
    process: DaemonProcess
    serial: Iterator[int] = field(default_factory=itertools.count)
    memberships: dict[tuple[str, str], socket.socket] = field(default_factory=dict)

    def join(self, host: str, group: str) -> None:
        """A socket on the host listens to a group."""
        self.memberships[host, group] = self.stacks[host].run(lambda: _member(group))

    def leave(self, host: str, group: str) -> None:
        self.memberships.pop((host, group)).close()

    def heard(self, sender: str, group: str, vlan: int = 0) -> set[str]:
        """The hosts that a datagram reaches, each once; `vlan` of those whose port is tagged is the test's to know."""
        content = b"multicast " + next(self.serial).to_bytes(8, "big")
        for wire in self.wires.values():
            wire.drain()
        self.stacks[sender].run(lambda: _datagram(group, content))
        arrived = collect(self.wires, {}, timeout=0.15)
        found = {host: sum(content in frame for frame in frames) for host, frames in arrived.items()}
        assert max(found.values()) <= 1, f"twice: {found}"
        return {host for host, count in found.items() if count}

    def wait_until(self, sender: str, group: str, wanted: set[str]) -> None:
        """Until a datagram reaches exactly these hosts."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := self.heard(sender, group)) != wanted:
            assert time.monotonic() < deadline, (group, found, wanted, groups(self.chain, "br0"), self.log())

    def wait_until_all(self, sender: str, wanted: set[str]) -> None:
        """The same for a group of each version of IP."""
        for group in (V4, V6):
            self.wait_until(sender, group, wanted)

    def log(self) -> str:
        return self.process.log.read_text()

    def others(self, host: str) -> set[str]:
        return set(self.stacks) - {host}


def _member(group: str) -> socket.socket:
    """On the namespace's only interface beside the loopback."""
    index = socket.if_nametoindex("eth0")
    if ip_address(group).version == 4:
        member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        request = socket.inet_aton(group) + bytes(4) + struct.pack("=i", index)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    else:
        member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=i", index)
        member.setsockopt(socket.IPPROTO_IPV6, IPV6_JOIN_GROUP, request)
    return member


def _datagram(group: str, content: bytes) -> None:
    index = socket.if_nametoindex("eth0")
    if ip_address(group).version == 4:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + struct.pack("=i", index))
            sender.sendto(content, (group, PORT))
    else:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(content, (group, PORT, 0, index))


def bridge(mode: str, ports: Mapping[str, Any], **multicast: Any) -> dict[str, Any]:
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": {"kind": "bridge", "multicast": multicast, "ports": dict(ports)}},
        "links": [[f"br0.{port}", port] for port in ports],
    }


@contextlib.contextmanager
def hosts(folder: Path, mode: str, ports: Mapping[str, Any], **multicast: Any) -> Iterator[Hosts]:
    """A host on each port; the chain and its daemon run."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_bpffs(folder))
        process = stack.enter_context(daemon(folder))
        lab = stack.enter_context(Lab())
        dut = lab.namespace("dut")
        stacks, cables = {}, {}
        for number, port in enumerate(ports, start=1):
            stacks[port] = lab.namespace(port)
            cables[port] = lab.cable((dut, port), (stacks[port], "eth0"), (f"10.0.0.{number}/24", f"fe80::{number}/64"))
        wires = {port: stack.enter_context(Wire(cable.station)) for port, cable in cables.items()}
        compiled = stack.enter_context(running(dut, bridge(mode, ports, **multicast), folder))
        name = compiled.chain.manifest.chain
        process.wait_for(name, "br0", "running")
        yield Hosts(name, lab, dut, stacks, cables, wires, process)


def ask(host: Namespace, **more: Any) -> None:
    """Makes a host's `eth0` a port of a bridge of the kernel's that asks who listens; once more: changes it."""
    hundredths = {
        "br_mcast_query_intvl": 100 * QUERY_SECONDS,
        "br_mcast_startup_query_intvl": 100 * QUERY_SECONDS,
        "br_mcast_query_response_intvl": 100 * RESPONSE_SECONDS,
        "br_mcast_igmp_version": 3,
        "br_mcast_mld_version": 2,
    }
    with host.netlink() as netlink:
        netlink.link("add", ifname="br0", kind="bridge", br_mcast_querier=1, **hundredths, **more)
        (index,) = netlink.link_lookup(ifname="br0")
        (port,) = netlink.link_lookup(ifname="eth0")
        host.sysctl("net/ipv6/conf/br0/disable_ipv6", "0")
        netlink.addr("add", index=index, address="fe80::99", prefixlen=64)
        netlink.addr("add", index=index, address="10.0.0.99", prefixlen=24)
        netlink.link("set", index=port, master=index)
        netlink.link("set", index=index, state="up")


def stop_asking(host: Namespace) -> None:
    with host.netlink() as netlink:
        (index,) = netlink.link_lookup(ifname="br0")
        netlink.link("del", index=index)


FOUR: dict[str, Any] = {"a": {}, "b": {}, "c": {}, "up": {}}


@every_mode
def test_multicast_goes_where_it_is_asked_for(mode: str, tmp_path: Path) -> None:
    """Nobody asks: to all. The kernel's bridge asks: to members and to it. A leave ends it, and so does silence."""
    with hosts(tmp_path, mode, FOUR) as net:
        net.join("b", V4)
        net.join("b", V6)
        for group in (V4, V6):
            assert net.heard("a", group) == {"b", "c", "up"}
        ask(net.stacks["up"], br_mcast_query_use_ifaddr=1)
        net.wait_until_all("a", {"b", "up"})
        for group in (V4, V6):
            net.join("c", group)
        net.wait_until_all("a", {"b", "c", "up"})
        for group in (V4, V6):
            net.leave("b", group)
        net.wait_until_all("a", {"c", "up"})
        assert net.heard("a", "239.9.9.9") == {"up"}, "nobody's group goes to routers"
        for always in ("224.0.0.251", "ff02::1"):
            assert net.heard("a", always) == {"b", "c", "up"}, always
        stop_asking(net.stacks["up"])
        net.wait_until_all("a", {"b", "c", "up"})
