"""Multicast over our bridge between real stacks: hosts join and leave, and the kernel's own bridge asks them."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import bpfchain
from runtime.cli import commands
from runtime.netns import entered
from runtime.services.bridge_groups import Group, Groups, Snooped, groups
from schemas.diagnostic import LoadFailed
from schemas.manifest import Mode
from tests.rig.daemon import DaemonProcess, daemon, own_bpffs
from tests.rig.frames import Wire, collect
from tests.rig.lab import Cable, Lab, Namespace
from tests.rig.network import running
from tests.rig.switch import asking_switch
from tests.rig.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.kernel

every_mode = pytest.mark.parametrize("mode", [mode.value for mode in Mode])

V4, V6 = "239.1.1.1", "ff05::1:1"
PORT = 5007
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

    def apply(self, chain: Mapping[str, Any]) -> None:
        """Another generation of the chain."""
        file = self.process.log.with_name("again.yaml")
        file.write_text(yaml.safe_dump({"chain": self.chain, **chain}, sort_keys=False))
        with entered(self.dut.name):
            bpfchain.apply(bpfchain.compile(file))

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

    def wait_until(self, sender: str, group: str, wanted: set[str], always: Set[str] = frozenset()) -> None:
        """Until a datagram reaches exactly these hosts; some get it all the while."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := self.heard(sender, group)) != wanted:
            assert found >= always, (group, found, groups(self.chain, "br0"), self.log())
            assert time.monotonic() < deadline, (group, found, wanted, groups(self.chain, "br0"), self.log())

    def wait_until_all(self, sender: str, wanted: set[str], always: Set[str] = frozenset()) -> None:
        """The same for a group of each version of IP."""
        for group in (V4, V6):
            self.wait_until(sender, group, wanted, always)

    def log(self) -> str:
        return self.process.log.read_text()


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


def bridge(mode: str, ports: Mapping[str, Any], multicast: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": {"kind": "bridge", "multicast": dict(multicast), "ports": dict(ports), **more}},
        "links": [[f"br0.{port}", port] for port in ports],
    }


@contextlib.contextmanager
def hosts(
    folder: Path, mode: str, ports: Mapping[str, Any], multicast: Mapping[str, Any] | None = None, **more: Any
) -> Iterator[Hosts]:
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
        compiled = stack.enter_context(running(dut, bridge(mode, ports, multicast or {}, **more), folder))
        name = compiled.chain.manifest.chain
        process.wait_for(name, "br0", "running")
        yield Hosts(name, lab, dut, stacks, cables, wires, process)


def ask(host: Namespace, **more: Any) -> None:
    """Makes a host's `eth0` a port of a bridge of the kernel's that asks who listens; once more: changes it."""
    asking_switch(host, ("eth0",), QUERY_SECONDS, RESPONSE_SECONDS, **more)


def stop_asking(host: Namespace) -> None:
    with host.netlink() as netlink:
        (index,) = netlink.link_lookup(ifname="br0")
        netlink.link("del", index=index)


QUERIERS = {
    "native": {"br_mcast_igmp_version": 3, "br_mcast_mld_version": 2, "br_mcast_query_use_ifaddr": 1},
    "generic": {"br_mcast_igmp_version": 2, "br_mcast_mld_version": 1},
    "tc": {"br_mcast_igmp_version": 3, "br_mcast_mld_version": 2},
}
"""Each mode has another querier: of the new versions or the old ones, with an address or, in IPv4, from 0.0.0.0."""

TIMES = {"query-interval": f"{QUERY_SECONDS}s", "max-response": f"{RESPONSE_SECONDS}s"}
FOUR: dict[str, Any] = {"a": {}, "b": {}, "c": {}, "up": {}}


@every_mode
def test_multicast_goes_where_it_is_asked_for(mode: str, tmp_path: Path) -> None:
    """Nobody asks: to all. The kernel's bridge asks: to members and to it. A leave ends it, and so does silence."""
    with hosts(tmp_path, mode, FOUR, TIMES) as net:
        net.join("b", V4)
        net.join("b", V6)
        for group in (V4, V6):
            assert net.heard("a", group) == {"b", "c", "up"}
        ask(net.stacks["up"], **QUERIERS[mode])
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


ASKING = {"querier": True, **TIMES}
VLANS: dict[str, Any] = {
    "a10": {"vlan": {"access": 10}},
    "b10": {"vlan": {"access": 10}},
    "c20": {"vlan": {"access": 20}},
    "d20": {"vlan": {"access": 20}},
    "trunk": {"vlan": {"trunk": [10], "native": 20}},
}


def test_it_asks_by_itself_in_every_vlan(tmp_path: Path) -> None:
    """Membership is of one VLAN; queries have the form that the VLAN has at each port."""
    with hosts(tmp_path, "native", VLANS, ASKING) as net:
        for host, group in itertools.product(("b10", "d20"), (V4, V6)):
            net.join(host, group)
        net.wait_until_all("a10", {"b10"}, always={"b10"})
        net.wait_until_all("c20", {"d20"}, always={"d20"})
        for group in (V4, V6):
            net.leave("d20", group)
        net.wait_until_all("c20", set())
        net.wait_until_all("a10", {"b10"}, always={"b10"})
        net.wires["trunk"].drain()
        frames = collect({"trunk": net.wires["trunk"]}, {"trunk": 4})["trunk"]
        tags = {(frame[12:14] == b"\x81\x00" and frame[14:16].hex(), frame[:3].hex()) for frame in frames}
        assert tags >= {(form, version) for form in ("000a", False) for version in ("01005e", "333300")}


def test_without_its_daemon_everything_is_flooded_and_nothing_is_lost(tmp_path: Path) -> None:
    """From killed to started anew the member gets every datagram; so it does when the chain is applied again."""
    ports = {port: FOUR[port] for port in ("a", "b", "c")}
    with hosts(tmp_path, "native", ports, ASKING) as net:
        net.join("b", V4)
        net.wait_until("a", V4, {"b"}, always={"b"})
        net.process.kill()
        net.wait_until("a", V4, {"b", "c"}, always={"b"})
        assert groups(net.chain, "br0") == Groups()
        net.process.start()
        net.wait_until("a", V4, {"b"}, always={"b"})
        net.apply(bridge("native", ports, ASKING, fdb={"aging": "100s"}))
        net.wait_until("a", V4, {"b"}, always={"b"})
        net.join("c", V4)
        net.wait_until("a", V4, {"b", "c"}, always={"b"})


def test_with_a_spanning_tree(tmp_path: Path) -> None:
    """Ports that open after the first question are asked by themselves; one that loses its link is forgotten."""
    ports: dict[str, Any] = {"a": {"stp": {"edge": True}}, "b": {"stp": {"edge": "auto"}}, "c": {}}
    with hosts(tmp_path, "native", ports, ASKING, stp={}) as net:
        net.join("b", V4)
        net.wait_until("a", V4, {"b"})
        net.join("c", V4)
        net.wait_until("a", V4, {"b", "c"}, always={"b"})
        assert Group(None, V4, ("b", "c")) in groups(net.chain, "br0").groups
        net.apply(bridge("native", ports, ASKING, stp={"priority": 4096}))
        eventually(lambda: "root=1000" in net.log(), True)  # the new tree, whose ports are closed at first
        net.wait_until("a", V4, {"b", "c"})
        net.wait_until("b", V4, {"c"})
        with net.dut.netlink() as netlink:
            netlink.link("set", index=net.cables["b"].port.ifindex, state="down")
        net.wait_until("a", V4, {"c"})
        eventually(lambda: Group(None, V4, ("c",)) in groups(net.chain, "br0").groups, True)


def test_what_is_known_is_shown(tmp_path: Path) -> None:
    ports: dict[str, Any] = {"a": {}, "b": {}, "c": {}, "up": {"multicast": {"router": True}}}
    static = {"static": [{"group": "239.7.7.7", "port": "a"}], "unregistered": "flood"}
    (mdb,) = [command for command in commands if command.name == "mdb"]
    with hosts(tmp_path, "tc", ports, ASKING | static) as net:
        flooded = CliRunner().invoke(mdb, ["show", net.chain, "br0"])
        assert flooded.output.startswith("all multicast is flooded: "), "nobody has been asked yet"
        net.join("b", V4)
        net.wait_until("a", V4, {"b", "up"})
        eventually(lambda: len(groups(net.chain, "br0").snooped), 2)
        found = groups(net.chain, "br0")
        assert found.snooped == (Snooped(None, 4, ("up",), None), Snooped(None, 6, ("up",), None))
        assert {Group(None, V4, ("b",)), Group(None, "239.7.7.7", ("a",))} <= set(found.groups)
        shown = [line.split() for line in CliRunner().invoke(mdb, ["show", net.chain, "br0"]).output.splitlines()]
        assert shown[:3] == [["group", "vlan", "ports"], [V4, "-", "b"], ["239.7.7.7", "-", "a"]]
        assert shown[-2:] == [["IPv6", "routers", "-", "up"], ["other", "IPv6", "-", "all"]]
        told = json.loads(CliRunner().invoke(mdb, ["show", net.chain, "br0", "--format", "json"]).output)
        assert told["snooped"][0] == {"vlan": None, "ip": 4, "routers": ["up"], "unregistered": None}
        assert [port.note for port in bpfchain.status(net.chain).service("br0").ports] == [
            "",
            "",
            "",
            "multicast router",
        ]
        net.apply(bridge("tc", ports, {"snooping": False}))
        with pytest.raises(LoadFailed) as caught:
            groups(net.chain, "br0")
        (diagnostic,) = caught.value.diagnostics
        assert (diagnostic.code, diagnostic.message) == (
            "B102",
            "bridge `br0` does not snoop: all multicast is flooded",
        )
        assert net.heard("a", V4) == {"b", "c", "up"}
