"""Real network stacks around routers: ping, traceroute, path MTU, 50 MB of TCP, in every mode and both IP versions."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.netns import entered
from schemas.manifest import Mode
from tests.rig.daemon import DaemonProcess, daemon, own_bpffs
from tests.rig.lab import Lab, Namespace
from tests.rig.network import running
from tests.rig.tools import curl, pings, tracepath, traceroute, web_server
from tests.rig.traffic import BackgroundPing, ping, send_udp, trace, udp_socket

pytestmark = pytest.mark.kernel
every_mode = pytest.mark.parametrize("mode", list(Mode), ids=str)

NEAR, FAR, NEAR6, FAR6 = "10.1.0.10", "10.2.0.10", "fd00:1::10", "fd00:2::10"
MIDDLE_MTU = 1300
IP_MTU_DISCOVER = 10  # linux/in.h
CONTENT = bytes(range(256)) * (50 * 4096)


def two_routers(mode: Mode) -> dict[str, Any]:
    """near ── br1 ── gw1 ── gw2 ── br2 ── far, with a smaller MTU between the routers."""
    return {
        "mode": mode.value,
        "slow-path": {"rate": 100_000},
        "interfaces": {"p1": {"device": "p1"}, "p2": {"device": "p2"}},
        "services": {
            "br1": {"kind": "bridge", "ports": {"station": {}, "gateway": {}}},
            "gw1": {
                "kind": "router",
                "ports": {
                    "near": {"address": ["10.1.0.1/24", "fd00:1::1/64"]},
                    "middle": {"address": ["10.9.0.1/30", "fd00:9::1/64"], "mtu": MIDDLE_MTU},
                },
                "routes": [{"to": "10.2.0.0/24", "via": "10.9.0.2"}, {"to": "fd00:2::/64", "via": "fd00:9::2"}],
            },
            "gw2": {
                "kind": "router",
                "ports": {
                    "middle": {"address": ["10.9.0.2/30", "fd00:9::2/64"], "mtu": MIDDLE_MTU},
                    "far": {"address": ["10.2.0.1/24", "fd00:2::1/64"]},
                },
                "routes": [{"to": "10.1.0.0/24", "via": "10.9.0.1"}, {"to": "fd00:1::/64", "via": "fd00:9::1"}],
            },
            "br2": {"kind": "bridge", "ports": {"gateway": {}, "station": {}}},
        },
        "links": [
            ["p1", "br1.station"],
            ["br1.gateway", "gw1.near"],
            ["gw1.middle", "gw2.middle"],
            ["gw2.far", "br2.gateway"],
            ["br2.station", "p2"],
        ],
    }


@dataclass(frozen=True, slots=True)
class Ends:
    """The two stacks, and the daemon in between."""

    near: Namespace
    far: Namespace
    process: DaemonProcess
    chain: str


@contextlib.contextmanager
def between(mode: Mode, folder: Path, described: dict[str, Any] | None = None) -> Iterator[Ends]:
    """Two stacks with the routers between them."""
    offloads = mode is Mode.TC
    with own_bpffs(folder), daemon(folder) as process, Lab() as lab:
        dut, near, far = (lab.namespace(label) for label in ("dut", "near", "far"))
        lab.cable((dut, "p1"), (near, "eth0"), (f"{NEAR}/24", f"{NEAR6}/64"), offloads=offloads)
        lab.cable((dut, "p2"), (far, "eth0"), (f"{FAR}/24", f"{FAR6}/64"), offloads=offloads)
        for namespace, gateways in ((near, ("10.1.0.1", "fd00:1::1")), (far, ("10.2.0.1", "fd00:2::1"))):
            with namespace.netlink() as netlink:
                for gateway, everywhere in zip(gateways, ("0.0.0.0/0", "::/0"), strict=True):
                    netlink.route("add", dst=everywhere, gateway=gateway)
        with running(dut, described or two_routers(mode), folder) as compiled:
            for router in ("gw1", "gw2"):
                process.wait_for(compiled.manifest.chain, router, "running")
            yield Ends(near, far, process, compiled.manifest.chain)


@every_mode
def test_everything_a_network_engineer_tries(mode: Mode, tmp_path: Path) -> None:
    with between(mode, tmp_path) as ends:
        with udp_socket(ends.far, FAR, 7000) as receiver:
            receiver.settimeout(5)
            send_udp(ends.near, NEAR, (FAR, 7000), [b"first"])
            assert receiver.recv(100) == b"first", "the packet that had to wait for three neighbours"
            receiver.settimeout(0.3)
            with pytest.raises(TimeoutError):
                receiver.recv(100)
        for target in (FAR, FAR6, "10.1.0.1", "10.9.0.2", "10.2.0.1", "fd00:1::1", "fd00:9::2", "fd00:2::1"):
            assert pings(ends.near, target) == 3, target
        assert pings(ends.far, NEAR6) == 3
        assert traceroute(ends.near, FAR) == ["10.1.0.1", "10.9.0.2", FAR]
        assert traceroute(ends.near, FAR6) == ["fd00:1::1", "fd00:9::2", FAR6]
        assert trace(ends.near, "10.3.0.1", 2)[1] == "10.1.0.1", "no route from there"
        _cut_arrives_whole(ends)
        for target in (FAR, FAR6, "fd00:9::2"):
            assert tracepath(ends.near, target) == MIDDLE_MTU
        for target in ("10.1.0.1", "10.9.0.2", "fd00:1::1", "fd00:9::2"):
            assert pings(ends.near, target, size=8000) == 3, f"in fragments, {target}"


@every_mode
def test_fifty_megabytes(mode: Mode, tmp_path: Path) -> None:
    """By HTTP, over IPv4 and IPv6; the connections learn the smaller MTU on the way by themselves."""
    served, fetched = tmp_path / "served", tmp_path / "fetched"
    served.mkdir()
    (served / "content").write_bytes(CONTENT)
    with between(mode, tmp_path) as ends, web_server(ends.far, served):
        for address in (FAR, FAR6):
            curl(ends.near, address, "content", fetched)
            assert fetched.read_bytes() == CONTENT
            fetched.unlink()


def _cut_arrives_whole(ends: Ends) -> None:
    """Datagrams that are too long for the middle, and may be cut."""
    datagram = bytes(index % 251 for index in range(1450))
    with udp_socket(ends.far, FAR, 7000) as receiver, udp_socket(ends.near, NEAR) as sender:
        receiver.settimeout(5)
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, 0)  # never "do not fragment"
        for _ in range(5):
            sender.sendto(datagram, (FAR, 7000))
            assert receiver.recv(4096) == datagram


def test_a_killed_daemon_is_missed_by_nobody_who_is_known(tmp_path: Path) -> None:
    with between(Mode.NATIVE, tmp_path) as ends:
        assert ping(ends.near, FAR, timeout=3).lost == 0
        assert ping(ends.near, FAR6, timeout=3).lost == 0
        with BackgroundPing(ends.near, FAR) as pinging:
            ends.process.kill()
            time.sleep(0.5)
            assert ping(ends.near, "10.1.0.1", count=1, timeout=0.3).lost == 1, "its own answers come from the daemon"
            ends.process.start()
            ends.process.wait_for(ends.chain, "gw1", "running")
            time.sleep(0.3)
        assert pinging.result.sent > 50
        assert pinging.result.lost == 0
        assert ping(ends.near, "10.1.0.1", timeout=3).lost == 0
        assert ping(ends.near, FAR6).lost == 0
        assert trace(ends.near, FAR, 2)[0] == "10.1.0.1"


def _flood(namespace: str, seconds: float) -> None:
    """Datagrams whose TTL ends at the first router, as fast as one process can send them."""
    with entered(namespace):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(100):
                with contextlib.suppress(OSError):  # the queue of the device is full
                    sender.sendto(bytes(20), (FAR, 33434))


def _resident_kilobytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def test_a_flood_of_upcalls_disturbs_nobody_else(tmp_path: Path) -> None:
    """BPFCHAIN_SOAK_SECONDS=600 makes ten minutes of it. A loaded machine may answer one ping or another too late."""
    seconds = float(os.environ.get("BPFCHAIN_SOAK_SECONDS", "4"))
    described = two_routers(Mode.NATIVE)
    del described["slow-path"]
    with between(Mode.NATIVE, tmp_path, described) as ends:
        assert ping(ends.near, FAR, timeout=3).lost == 0
        before = _resident_kilobytes(ends.process.pid)
        flooding = multiprocessing.get_context("spawn").Process(target=_flood, args=(ends.near.name, seconds))
        flooding.start()
        with BackgroundPing(ends.near, FAR) as pinging:
            flooding.join()
        assert flooding.exitcode == 0
        assert pinging.result.lost <= max(2, pinging.result.sent // 100)
        assert _resident_kilobytes(ends.process.pid) - before < 16 * 1024
        assert ends.process.failures(ends.chain, "gw1") == 0
        assert ping(ends.near, "10.1.0.1", timeout=3).lost == 0
