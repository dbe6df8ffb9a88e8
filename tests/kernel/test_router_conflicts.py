"""An address of the router that a Linux host has too: whoever comes second is told, and the router says so itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bpfchain
from schemas.manifest import Mode
from tests.rig.daemon import DaemonProcess, daemon, own_bpffs
from tests.rig.frames import MLD_REPORTS, Wire, collect, is_probe
from tests.rig.lab import Cable, Lab
from tests.rig.network import running
from tests.rig.tools import pings, run
from tests.rig.waiting import eventually, until
from tests.services.router_frames import (
    ARP,
    IPV6,
    TARGET_OPTION,
    advertisement,
    arp,
    ethernet,
    icmp6,
    link_local,
    option,
    solicitation,
)

pytestmark = pytest.mark.kernel
every_mode = pytest.mark.parametrize("mode", list(Mode), ids=str)

OWN, OWN6, NOBODY, BROADCAST = "10.7.1.1", "fd00:1::1", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"


def chain(mode: Mode) -> dict[str, Any]:
    return {
        "mode": mode.value,
        "interfaces": {"left": {"device": "left"}, "right": {"device": "right"}},
        "services": {
            "gw": {
                "kind": "router",
                "ports": {
                    "left": {"address": [f"{OWN}/24", f"{OWN6}/64"]},
                    "right": {"address": ["10.7.2.1/24", "fd00:2::1/64"]},
                },
            }
        },
        "links": [["left", "gw.left"], ["gw.right", "right"]],
    }


@dataclass(frozen=True, slots=True)
class Stage:
    """The router's machine, not yet a router, between two hosts; one on `left`, the other on `right`."""

    lab: Lab
    left: Cable
    right: Cable
    process: DaemonProcess
    folder: Path

    @contextlib.contextmanager
    def routing(self, mode: Mode) -> Iterator[str]:
        """The chain's name, for as long as it runs."""
        with running(self.left.port.namespace, chain(mode), self.folder) as compiled:
            self.process.wait_for(compiled.manifest.chain, "gw", "running")
            yield compiled.manifest.chain


@contextlib.contextmanager
def stage(mode: Mode, folder: Path) -> Iterator[Stage]:
    offloads = mode is Mode.TC
    with own_bpffs(folder), daemon(folder) as process, Lab() as lab:
        dut, far, other = (lab.namespace(label) for label in ("dut", "far", "other"))
        left = lab.cable((dut, "left"), (far, "eth0"), offloads=offloads)
        right = lab.cable((dut, "right"), (other, "eth0"), ("10.7.2.10/24", "fd00:2::10/64"), offloads=offloads)
        yield Stage(lab, left, right, process, folder)


@every_mode
def test_a_host_that_comes_second_does_not_use_the_address(mode: Mode, tmp_path: Path) -> None:
    """RFC 4862 5.4.3: its probe is answered. It has claimed nothing, so that there is no conflict."""
    with stage(mode, tmp_path) as at, at.routing(mode) as name:
        station = at.left.station
        station.namespace.sysctl("net/ipv6/conf/eth0/accept_dad", "1")
        at.lab.address(station, f"{OWN6}/64")
        until(lambda: "dadfailed" in run(station.namespace, "ip", "-6", "addr", "show", "dev", "eth0"))
        assert bpfchain.status(name).problems == ()
        assert "address-conflict" not in at.process.log.read_text()


@every_mode
def test_a_host_that_came_first_is_reported(mode: Mode, tmp_path: Path) -> None:
    """The router works all the same: it has other ports, and its address is no mistake of its own."""
    with stage(mode, tmp_path) as at:
        for own in (f"{OWN}/24", f"{OWN6}/64"):
            at.lab.address(at.left.station, own)
        with at.routing(mode) as name:
            expected = {f"gw: address {own} of port left is also that of {at.left.station.mac}" for own in (OWN, OWN6)}
            eventually(lambda: set(bpfchain.status(name).problems), expected)
            logged = [line for line in at.process.log.read_text().splitlines() if "event=address-conflict " in line]
            assert len(logged) == 2, "once for each address"
            assert all(f"mac={at.left.station.mac}" in line and "level=warning" in line for line in logged)
            for target in ("10.7.2.1", "fd00:2::1"):
                assert pings(at.right.station.namespace, target) == 3
            at.process.kill()
            at.process.start()
            eventually(lambda: set(bpfchain.status(name).problems), expected)


def test_a_link_that_comes_up_is_probed(tmp_path: Path) -> None:
    """The bytes of the probes; each address is announced too."""
    with stage(Mode.NATIVE, tmp_path) as at, at.routing(Mode.NATIVE):
        mac, station = at.left.port.mac, at.left.station
        expected = {ethernet(mac, BROADCAST, ARP, arp(1, (mac, "0.0.0.0"), (NOBODY, OWN))).ljust(60, b"\0")}
        for own, group in (
            (OWN6, "ff02::1:ff00:1"),
            (link_local(mac), f"ff02::1:ff{mac[9:11]}:{mac[12:14]}{mac[15:]}"),
        ):
            group_mac = "33:33:ff:" + (mac[9:] if own != OWN6 else "00:00:01")
            expected.add(ethernet(mac, group_mac, IPV6, icmp6("::", group, solicitation(own, b""))))
        wanted = {"left": 2 + 3 * len(expected)}
        heard: list[bytes] = []

        def flapped(down_seconds: float) -> bool:
            """A moment is too short for a daemon that is busy, and the tap may come too late."""
            with station.namespace.netlink() as netlink:
                netlink.link("set", index=station.ifindex, state="down")
                time.sleep(down_seconds)
                with Wire(station, passed_over=(MLD_REPORTS,)) as wire:
                    with contextlib.suppress(OSError):  # a tap says once that its device is down
                        wire.receive(0)
                    netlink.link("set", index=station.ifindex, state="up")
                    heard[:] = collect({"left": wire}, wanted, timeout=5, probes=True)["left"]
            return len(heard) >= wanted["left"]

        assert any(map(flapped, (0.1, 1, 5)))
        assert {frame for frame in heard if is_probe(frame)} == expected
        told = icmp6(OWN6, "ff02::1", advertisement(OWN6, option(TARGET_OPTION, mac), 0xA0))
        assert ethernet(mac, BROADCAST, ARP, arp(1, (mac, OWN), (NOBODY, OWN))).ljust(60, b"\0") in heard
        assert ethernet(mac, "33:33:00:00:00:01", IPV6, told) in heard
