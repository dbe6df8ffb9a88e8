"""Router advertisements and the kernel's own hosts: addresses, routes and the MTU that they take from them."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import bpfchain
from runtime.netns import entered
from schemas.manifest import Mode
from tests.rig.daemon import DaemonProcess, daemon, own_bpffs
from tests.rig.frames import MLD_REPORTS, Wire
from tests.rig.lab import Cable, Lab
from tests.rig.network import running
from tests.rig.tools import pings
from tests.rig.waiting import eventually, until
from tests.services.router_frames import IPV6, ethernet, icmp6, link_local

pytestmark = pytest.mark.kernel
every_mode = pytest.mark.parametrize("mode", list(Mode), ids=str)

FAR, MTU = "fd00:2::20", 1400
HOSTS = {"accept_ra": "2", "addr_gen_mode": "0", "router_solicitations": "3", "disable_ipv6": "0"}
ALL_ROUTERS_MAC = "33:33:00:00:00:02"


def chain(mode: Mode, left: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mode": mode.value,
        "interfaces": {"left": {"device": "left"}, "right": {"device": "right"}},
        "services": {
            "gw": {
                "kind": "router",
                "ports": {"left": {"address": "fd00:1::1/64", **left}, "right": {"address": "fd00:2::1/64"}},
            }
        },
        "links": [["left", "gw.left"], ["gw.right", "right"]],
    }


@dataclass(frozen=True, slots=True)
class Host:
    """One whose addresses come from the router on its link."""

    cable: Cable

    def listen(self) -> None:
        for key, value in HOSTS.items():
            self.cable.station.namespace.sysctl(f"net/ipv6/conf/eth0/{key}", value)

    def routers(self) -> list[str]:
        """The default routers that it believes in."""
        found = self._ip("-6", "route", "show", "default")
        return [hop["gateway"] for route in found for hop in route.get("nexthops", [route]) if "gateway" in hop]

    def addresses(self) -> list[str]:
        found = self._ip("-6", "addr", "show", "dev", "eth0", "scope", "global")
        return [each["local"] for device in found for each in device["addr_info"] if each]

    def mtu(self) -> int:
        """Of IPv6 packets on its link."""

        def read() -> int:
            return int(Path("/proc/sys/net/ipv6/conf/eth0/mtu").read_text())

        return self.cable.station.namespace.run(read)

    def _ip(self, *arguments: str) -> list[dict[str, Any]]:
        command = ["ip", "-json", "-n", self.cable.station.namespace.name, *arguments]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found: list[dict[str, Any]] = json.loads(printed or "[]")
        return [each for each in found if each]


@contextlib.contextmanager
def advertised(mode: Mode, folder: Path, left: Mapping[str, Any]) -> Iterator[tuple[Host, DaemonProcess, str]]:
    """host ── router ── far: a host that knows nothing yet, the daemon, and the chain's name."""
    with own_bpffs(folder), daemon(folder) as process, Lab() as lab:
        dut, near, far = (lab.namespace(label) for label in ("dut", "near", "far"))
        cable = lab.cable((dut, "left"), (near, "eth0"), offloads=mode is Mode.TC)
        lab.cable((dut, "right"), (far, "eth0"), (f"{FAR}/64",), offloads=mode is Mode.TC)
        with far.netlink() as netlink:
            netlink.route("add", dst="::/0", gateway="fd00:2::1")
        with running(dut, chain(mode, left), folder) as compiled:
            process.wait_for(compiled.chain.manifest.chain, "gw", "running")
            yield Host(cable), process, compiled.chain.manifest.chain


def own_address(cable: Cable) -> str:
    """What a host makes of the prefix and its MAC (RFC 4862 5.5.3)."""
    return link_local(cable.station.mac).replace("fe80::", "fd00:1::")


@every_mode
def test_a_host_finds_its_way(mode: Mode, tmp_path: Path) -> None:
    with advertised(mode, tmp_path, {"advertise": {}, "mtu": MTU}) as (host, process, _):
        host.listen()
        until(lambda: host.routers() == [link_local(host.cable.port.mac)], process.log.read_text)
        eventually(host.addresses, [own_address(host.cable)])
        eventually(host.mtu, MTU)
        assert pings(host.cable.station.namespace, FAR) == 3


def is_advertisement(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 134


def next_lifetime(wire: Wire) -> int:
    """That of the next advertisement: the router's, in seconds."""
    while (frame := wire.receive(10)) is None or not is_advertisement(frame):
        assert frame is not None, "nothing is advertised"
    return int.from_bytes(frame[60:62], "big")


def test_who_asks_is_answered_and_who_ceases_says_so(tmp_path: Path) -> None:
    """The second one of itself comes after 16 s: what comes before is the answer. A daemon that ends says nothing."""
    left = {"advertise": {"interval": "30m", "lifetime": "2h"}}
    with advertised(Mode.NATIVE, tmp_path, left) as (host, process, name):
        station = host.cable.station
        with Wire(station, passed_over=(MLD_REPORTS,)) as wire:
            wire.send(
                ethernet(station.mac, ALL_ROUTERS_MAC, IPV6, icmp6("fe80::10", "ff02::2", bytes((133,)) + bytes(7)))
            )
            assert next_lifetime(wire) == 7200
            host.listen()
            eventually(host.routers, [link_local(host.cable.port.mac)])
            assert process.stop() == 0
            wire.drain()
            process.start()
            process.wait_for(name, "gw", "running")
            assert next_lifetime(wire) == 7200
            file = tmp_path / "changed.yaml"
            file.write_text(yaml.safe_dump({"chain": name, **chain(Mode.NATIVE, {})}, sort_keys=False))
            with entered(host.cable.port.namespace.name):
                bpfchain.apply(bpfchain.compile(file, tmp_path / "changed"))
            while next_lifetime(wire):
                pass
            until(lambda: not host.routers(), process.log.read_text)


def test_a_chain_that_goes_says_so(tmp_path: Path) -> None:
    with own_bpffs(tmp_path), daemon(tmp_path) as process, Lab() as lab:
        dut, near = lab.namespace("dut"), lab.namespace("near")
        cable = lab.cable((dut, "left"), (near, "eth0"))
        lab.cable((dut, "right"), (near, "eth1"))
        with Wire(cable.station, passed_over=(MLD_REPORTS,)) as wire:
            with running(dut, chain(Mode.NATIVE, {"advertise": {}}), tmp_path) as compiled:
                process.wait_for(compiled.chain.manifest.chain, "gw", "running")
                assert next_lifetime(wire) == 1800
            while next_lifetime(wire):
                pass
