"""What a bridge's spanning tree makes of its links: shut ports, duplex, VLANs of a device, other services."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.devices import LinkMode, link_mode
from runtime.netns import entered
from runtime.protocols.bpdu import Bpdu, PriorityVector, Times, Type
from tests.kernel.live import Host, host
from tests.rig.daemon import daemon, own_bpffs
from tests.rig.frames import Wire
from tests.rig.lab import Device, Namespace
from tests.rig.network import network
from tests.rig.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.kernel

OPEN, CLOSED, ALTERNATE = "designated, forwarding", "designated, discarding", "alternate, discarding"
SHUT, DOWN = "bpdu-guard, discarding", "disabled, discarding"

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_SIOCETHTOOL, _GSET, _SSET = 0x8946, 0x1, 0x2
_DUPLEX_AT, _HALF = 14, 0  # in struct ethtool_cmd


def bridge(ports: Mapping[str, Any], interfaces: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A bridge whose ports are linked to interfaces of their names."""
    return {
        "mode": "tc",
        "interfaces": dict(interfaces or {port: {"device": port} for port in ports}),
        "services": {"br0": {"kind": "bridge", "stp": {}, "ports": dict(ports)}, **more},
        "links": [[f"br0.{port}", port] for port in ports],
    }


def notes(machine: Host) -> dict[str, str]:
    """Role and state of each port of the bridge."""
    return {port.name: port.note for port in machine.status().service("br0").ports}


def notes_of_shut(machine: Host, port: str) -> dict[str, str]:
    """The same, whenever it is asked: this port forwards nothing."""
    found = notes(machine)
    assert found[port].endswith("discarding"), found
    return found


def set_link(device: Device, state: str) -> None:
    with device.namespace.netlink() as netlink:
        netlink.link("set", index=device.ifindex, state=state)


def bpdu_of_a_worse_bridge() -> bytes:
    address = 2 << 40
    own = PriorityVector(0xF000 << 48 | address, 0, 0xF000 << 48 | address, 0x8001)
    return Bpdu(Type.CONFIG, own, Times(0, 20, 2, 15)).frame(address.to_bytes(6))


def test_a_guarded_port_stays_shut_while_the_daemon_is_away(tmp_path: Path) -> None:
    """Until its link comes up again, or until it is guarded no more; a change of another port is neither."""
    edge, guarded = {"stp": {"edge": True}}, {"stp": {"edge": True, "bpdu-guard": True}}
    chain = bridge({"desk": guarded, "other": edge})
    with (
        own_bpffs(tmp_path),
        daemon(tmp_path) as process,
        network("desk", "other") as net,
        host(net.dut, tmp_path) as machine,
    ):
        machine.apply(chain)
        eventually(lambda: notes(machine), {"desk": OPEN, "other": OPEN})
        net.send("desk", bpdu_of_a_worse_bridge())
        eventually(lambda: notes(machine), {"desk": SHUT, "other": OPEN})
        for end in (process.kill, process.stop):
            end()
            process.start()
            eventually(lambda: notes_of_shut(machine, "desk"), {"desk": SHUT, "other": OPEN})
            process.wait_for(machine.name, "br0", "running")
            assert notes_of_shut(machine, "desk")
        machine.apply(bridge({"desk": guarded, "other": {"stp": {"edge": True, "priority": 16}}}))
        set_link(net.cables["other"].station, "down")
        eventually(lambda: notes_of_shut(machine, "desk"), {"desk": SHUT, "other": DOWN})
        for state, note in (("down", DOWN), ("up", OPEN)):
            set_link(net.cables["desk"].station, state)
            eventually(lambda: notes(machine)["desk"], note)
        with Wire(net.cables["desk"].station) as again:  # the one that was there has been told that its link was down
            again.send(bpdu_of_a_worse_bridge())
        eventually(lambda: notes(machine)["desk"], SHUT)
        machine.apply(bridge({"desk": edge, "other": edge}))
        eventually(lambda: notes(machine)["desk"], OPEN)


def trunks(mode: str) -> dict[str, Any]:
    """A bridge between two VLANs of a device, and with a port that leads to another service."""
    interfaces = {
        "red": {"device": "trunk", "vlan": 10},
        "green": {"device": "trunk", "vlan": 20},
        "street": {"device": "street"},
    }
    edge = {"stp": {"edge": True}}  # who hears nothing opens at once
    described = bridge({"red": edge, "green": edge, "up": edge}, interfaces, guard={"kind": "ddos", "block": {}})
    described["services"]["br0"]["stp"] = {"hello": 1}
    links = [["br0.red", "red"], ["br0.green", "green"], ["br0.up", "guard.inside"], ["guard.outside", "street"]]
    return described | {"mode": mode, "links": links}


@pytest.mark.parametrize("mode", ["native", "tc"])
def test_ports_on_vlans_of_a_device_have_its_link(mode: str, tmp_path: Path) -> None:
    """Two VLANs of a cable whose far end sends back what it gets are a loop; a port behind another service is up."""
    with (
        own_bpffs(tmp_path),
        daemon(tmp_path),
        network("trunk", "street") as net,
        host(net.dut, tmp_path) as machine,
    ):
        machine.apply(trunks(mode))
        eventually(lambda: notes(machine), {"red": OPEN, "green": OPEN, "up": OPEN})
        wire = net.wires["trunk"]
        wire.drain()
        sent = {tag: next(found for found in bpdus(wire.receive) if found[12:16].hex() == tag) for tag in TAGS}
        assert {frame[6:12] for frame in sent.values()} == {net.cables["trunk"].port.mac_bytes}
        for one, other in (TAGS, TAGS[::-1]):
            net.send("trunk", sent[one][:12] + bytes.fromhex(other) + sent[one][16:])
        eventually(lambda: notes(machine)["green"], "backup, discarding")
        set_link(net.cables["trunk"].station, "down")
        eventually(lambda: notes(machine), {"red": DOWN, "green": DOWN, "up": OPEN})
        set_link(net.cables["trunk"].station, "up")
        eventually(lambda: notes(machine), {"red": OPEN, "green": OPEN, "up": OPEN})


TAGS = ("8100000a", "81000014")


def bpdus(receive: Callable[[float], bytes | None]) -> Iterator[bytes]:
    """What arrives of them, for some time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        frame = receive(0.5)
        if frame and frame.startswith(bytes.fromhex("0180c2000000")):
            yield frame


@contextmanager
def tap(namespace: Namespace, name: str, *, half_duplex: bool) -> Iterator[None]:
    """A device that says what it is told to of its link, up for the length of the block."""
    with entered(namespace.name):
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        if half_duplex:
            _set_half_duplex(name)
    with namespace.netlink() as netlink:
        (index,) = netlink.link_lookup(ifname=name)
        netlink.link("set", index=index, state="up")
    try:
        yield
    finally:
        os.close(fd)


def _set_half_duplex(name: str) -> None:
    settings = array.array("B", _GSET.to_bytes(4, "little").ljust(44, b"\0"))
    request = struct.pack("16sQ16x", name.encode(), settings.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        fcntl.ioctl(asker, _SIOCETHTOOL, request)
        settings[0], settings[_DUPLEX_AT] = _SSET, _HALF
        fcntl.ioctl(asker, _SIOCETHTOOL, request)


def test_a_half_duplex_link_is_no_point_to_point_link(tmp_path: Path) -> None:
    """Unless the file says so. It is taken for an edge only after max-age: others on a shared link may be slow."""
    said = {"shared": "auto", "full": "auto", "given": True, "denied": False}
    chain = bridge({name: {"stp": {"point-to-point": each}} for name, each in said.items()})
    with (
        own_bpffs(tmp_path),
        daemon(tmp_path),
        network() as net,
        tap(net.dut, "shared", half_duplex=True),
        tap(net.dut, "given", half_duplex=True),
        tap(net.dut, "full", half_duplex=False),
        tap(net.dut, "denied", half_duplex=False),
        host(net.dut, tmp_path) as machine,
    ):
        half = {name: link_mode(name, net.dut.name).half_duplex for name in said}
        assert half == {name: name in ("shared", "given") for name in said}
        assert link_mode("nothing", net.dut.name) == link_mode("full", "no-such-namespace") == LinkMode()
        machine.apply(chain)
        eventually(lambda: notes(machine), {"shared": CLOSED, "full": OPEN, "given": OPEN, "denied": CLOSED})
