"""The daemon: packets go up, are decided about and come down; whatever dies or fails, the rest goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import bpfchain
from runtime.bpffs import bpffs_root
from runtime.daemon import Daemon
from runtime.log import Log
from runtime.netns import entered
from runtime.pin import chain_pins
from runtime.protocols.internet import checksum
from schemas.diagnostic import LoadFailed
from schemas.manifest import Mode
from tests.kernel.test_downcalls import TAG, three_probes
from tests.kernel.test_slow_path import CALM, FLOOD, frame
from tests.rig import probe
from tests.rig.daemon import DaemonProcess, daemon, own_bpffs
from tests.rig.frames import Wire
from tests.rig.lab import Lab
from tests.rig.network import Network, network, running
from tests.rig.probe.control import ACROSS, BEACON, BOUNCE, COUNT, LISTEN, NOTHING, PASS, PLAIN, RAISE, plain
from tests.rig.traffic import send_udp
from tests.rig.waiting import eventually

pytestmark = [pytest.mark.kernel]

SOAK_SECONDS = float(os.environ.get("BPFCHAIN_SOAK_SECONDS", "2"))


@contextlib.contextmanager
def served(chain: dict[str, Any], folder: Path) -> Iterator[tuple[Network, DaemonProcess, str]]:
    """A chain that a daemon serves."""
    with (
        probe.installed(),
        own_bpffs(folder),
        daemon(folder) as process,
        network("p1", "p2") as net,
        running(net.dut, chain, folder) as compiled,
    ):
        name = compiled.manifest.chain
        for service in chain["services"]:
            process.wait_for(name, service, "running")
        yield net, process, name


def one_probe(mode: Mode = Mode.NATIVE) -> dict[str, Any]:
    return {
        "mode": mode.value,
        "slow-path": {"rate": 100_000},
        "interfaces": {"p1": {"device": "p1"}, "p2": {"device": "p2"}},
        "services": {"probe": {"kind": "probe"}},
        "links": [["p1", "probe.outside"], ["probe.inside", "p2"]],
    }


def two_probes() -> dict[str, Any]:
    return {
        **one_probe(),
        "services": {"first": {"kind": "probe"}, "last": {"kind": "probe"}},
        "links": [["p1", "first.outside"], ["first.inside", "last.outside"], ["last.inside", "p2"]],
    }


def ask(net: Network, port: str = "p1") -> tuple[int, int]:
    """What the control plane has seen: packets, reloads."""
    net.send(port, frame(CALM, COUNT))
    (answer,) = net.arrivals(**{port: 1})[port]
    return int.from_bytes(answer[14:18], "big"), int.from_bytes(answer[18:22], "big")


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_packets_go_up_and_come_down_whole(mode: Mode, tmp_path: Path) -> None:
    frames = [frame(number % 2, PASS, 30 + 21 * number, tag=TAG if number % 3 else b"") for number in range(70)]
    with served(three_probes(mode), tmp_path) as (net, _, _):
        net.send("p1", *frames)
        assert net.arrivals(p2=len(frames)) == {"p2": [plain(each) for each in frames]}
        bounced, across = frame(CALM, BOUNCE, 100), frame(CALM, ACROSS, 200)
        net.send("p1", bounced, across)
        assert net.arrivals(p1=1, p2=1) == {"p1": [plain(bounced)], "p2": [plain(across)]}


def test_checksums_that_were_left_to_the_device_are_finished(tmp_path: Path) -> None:
    """At TC, a datagram of a stack whose device offers to sum it goes up, and down again with the right checksum."""
    all_up = {**one_probe(Mode.TC), "services": {"probe": {"kind": "probe", "all": ACROSS}}}
    with probe.installed(), own_bpffs(tmp_path), daemon(tmp_path) as process, Lab("offload") as lab:
        dut, far = lab.namespace("dut"), lab.namespace("far")
        near, other = (
            lab.cable((dut, port), (far, f"to-{port}"), addresses, offloads=True)
            for port, addresses in (("p1", ["10.0.0.1/24"]), ("p2", []))
        )
        with far.netlink() as netlink:
            ifindex = near.station.ifindex
            netlink.neigh("add", dst="10.0.0.2", lladdr=other.station.mac, ifindex=ifindex, state="permanent")
        with running(dut, all_up, tmp_path) as compiled, Wire(other.station) as wire:
            process.wait_for(compiled.manifest.chain, "probe", "running")
            send_udp(far, "10.0.0.1", ("10.0.0.2", 9000), [bytes(range(200))])
            (arrived,) = wire.collect(1, timeout=10)
        addresses, datagram = arrived[26:34], arrived[34:]
        assert datagram[8:] == bytes(range(200))
        assert checksum(addresses + (17).to_bytes(2, "big") + len(datagram).to_bytes(2, "big") + datagram) == 0


def test_what_the_kernel_tells_reaches_a_control_plane(tmp_path: Path) -> None:
    """Links, neighbours and routes of both IP versions, also after a reload."""
    with served(one_probe(), tmp_path) as (net, _, name), net.dut.netlink() as netlink:
        index = net.cables["p2"].port.ifindex
        net.dut.sysctl("net/ipv6/conf/p2/disable_ipv6", "0")
        net.send("p1", frame(CALM, LISTEN))
        ask(net)
        netlink.addr("add", index=index, address="10.0.0.1", prefixlen=24)
        netlink.addr("add", index=index, address="fd00::1", prefixlen=64)
        netlink.neigh("add", ifindex=index, dst="10.0.0.9", lladdr="52:54:00:00:00:09", state="permanent")
        netlink.route("add", dst="10.64.0.0/16", gateway="10.0.0.9")
        netlink.route("add", family=socket.AF_INET6, dst="fd64::/32", gateway="fd00::9")
        told = [
            "neighbour 0a000009 525400000009 there",
            "route a400000/16 there",
            f"route fd64{0:028x}/32 there",
        ]
        assert missing(net, told) == set()
        file = tmp_path / "again.yaml"
        file.write_text(bpfchain_yaml({**one_probe(), "slow-path": {"rate": 50_000}}, name))
        with entered(net.dut.name):
            bpfchain.apply(bpfchain.compile(file))
        netlink.neigh("del", ifindex=index, dst="10.0.0.9")
        netlink.link("set", index=index, state="down")
        assert missing(net, [f"link {index} down"]) == set()


def missing(net: Network, expected: list[str], patience: float = 20.0) -> set[str]:
    """What does not come of what the control plane should tell of the machine's namespace."""
    left = {f"{net.dut.name} {each}" for each in expected}
    deadline = time.monotonic() + patience
    while left and time.monotonic() < deadline:
        left -= {each[14:].rstrip(b"\0").decode() for each in net.arrivals().get("p1", []) if each[12:14] == PLAIN}
    return left


def test_a_killed_daemon_is_missed_by_nobody_but_the_slow_path(tmp_path: Path) -> None:
    """Traffic goes on without it; what waited is handled by the next one, once."""
    passing, waiting = frame(CALM, 0, 100, PLAIN), frame(CALM, PASS, 90)
    with served(one_probe(), tmp_path) as (net, process, name):
        assert ask(net) == (1, 0)
        process.kill()
        assert process.status() is None
        for _ in range(3):
            net.send("p1", passing)
            net.send("p2", passing)
            assert net.arrivals(p1=1, p2=1) == {"p1": [passing], "p2": [passing]}
        with entered(net.dut.name):
            found = bpfchain.status(name)
        assert found.service("probe").control_plane == "no daemon"
        assert "no daemon serves probe: `bpfchain daemon`" in found.problems
        net.send("p1", waiting, waiting)
        process.start()
        assert net.arrivals(p2=2) == {"p2": [plain(waiting)] * 2}
        assert ask(net) == (3, 0)


def test_a_failing_control_plane_is_started_again_and_stops_no_other(tmp_path: Path) -> None:
    with served(two_probes(), tmp_path) as (net, process, name):
        assert ask(net, "p2") == (1, 0)
        for round_ in range(3):
            net.send("p1", frame(CALM, RAISE))
            process.wait_for(name, "first", "failed")
            assert ask(net, "p2") == (2 + round_, 0)
            process.wait_for(name, "first", "running")
        assert process.failures(name, "first") == 3
        assert process.failures(name, "last") == 0
        assert ask(net, "p1") == (1, 0)
        log = process.log.read_text().splitlines()
        failed = [line for line in log if 'event="control plane failed"' in line]
        assert ["again_in=0.1s" in failed[0], "again_in=0.2s" in failed[1], "again_in=0.4s" in failed[2]] == [True] * 3
        assert all(f"chain={name}" in line and "service=first" in line and "told to fail" in line for line in failed)


def test_a_chain_that_is_half_removed_stops_no_other(tmp_path: Path) -> None:
    with served(one_probe(), tmp_path) as (net, process, name):
        half = chain_pins(bpffs_root(), "a-half")  # it is looked at first
        half.finished(1).make()
        process.kill()
        process.start()
        process.wait_for(name, "probe", "running")
        assert ask(net) == (1, 0)
        half.finished(1).remove()
        half.remove_if_empty()


def test_apply_and_detach_are_picked_up(tmp_path: Path) -> None:
    """A reload keeps what the control plane knows; a chain that goes takes its control planes with it."""
    with served(one_probe(), tmp_path) as (net, process, name):
        assert ask(net) == (1, 0)
        file = tmp_path / "again.yaml"
        for reloads in range(1, 4):
            file.write_text(bpfchain_yaml({**one_probe(), "slow-path": {"rate": 1000 * reloads}}, name))
            with entered(net.dut.name):
                assert bpfchain.apply(bpfchain.compile(file)).generation == 1 + reloads
            eventually(lambda: (process.status() or {})["chains"][name]["generation"], 1 + reloads)
            assert ask(net) == (1 + reloads, reloads)
    assert "chain is gone" in process.log.read_text()


def bpfchain_yaml(chain: dict[str, Any], name: str) -> str:
    return yaml.safe_dump({"chain": name, **chain})


def test_ticks_and_links(tmp_path: Path) -> None:
    with served(one_probe(), tmp_path) as (net, _, _):
        net.send("p2", frame(CALM, BEACON))
        beacons = net.wires["p1"].collect(3)
        assert len(beacons) >= 3
        assert set(beacons) == {bytes(12) + PLAIN + b"beacon"}
        with net.dut.netlink() as netlink:
            netlink.link("set", index=net.cables["p1"].port.ifindex, state="down")
            (told_down,) = net.wires["p2"].collect(1, timeout=5)
            netlink.link("set", index=net.cables["p1"].port.ifindex, state="up")
            told_up = net.wires["p2"].collect(1, timeout=5)
        assert told_down[14:] == b"outside down"
        assert told_up[-1][14:] == b"outside up"


def test_there_is_one_daemon(tmp_path: Path) -> None:
    with own_bpffs(tmp_path) as root, daemon(tmp_path):
        with pytest.raises(LoadFailed) as caught:
            asyncio.run(Daemon(root, Log()).run())
        (found,) = caught.value.diagnostics
        assert (found.code, found.message) == ("A120", f"another daemon serves the chains under `{root}`")


def test_systemd_hears_of_it(tmp_path: Path) -> None:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(os.fspath(tmp_path / "notify"))
    heard.settimeout(10)
    with own_bpffs(tmp_path), heard:
        with daemon(tmp_path, NOTIFY_SOCKET=os.fspath(tmp_path / "notify"), WATCHDOG_USEC="200000") as process:
            assert heard.recv(100) == b"READY=1"
            assert [heard.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            assert process.stop() == 0
        last = b""
        while last != b"STOPPING=1":
            last = heard.recv(100)


def test_a_flood_leaves_the_daemon_small_and_the_rest_served(tmp_path: Path) -> None:
    """Packets as fast as they can be sent, for BPFCHAIN_SOAK_SECONDS: what is too much is dropped in the kernel."""
    flood, transit = [frame(FLOOD, NOTHING, 1400)] * 64, [frame(CALM, 0, 100, PLAIN)] * 8
    with served({**one_probe(), "slow-path": {"rate": 2000}}, tmp_path) as (net, process, name):
        net.send("p1", *flood)
        before = resident(process.pid)
        end = time.monotonic() + SOAK_SECONDS
        while time.monotonic() < end:
            net.send("p1", *flood, *transit)
        net.send("p1", frame(CALM, COUNT))
        assert len(net.wires["p1"].collect(1, timeout=10)) == 1
        assert resident(process.pid) - before < 32 << 20
        with entered(net.dut.name):
            probed = bpfchain.status(name).service("probe")
        outside = probed.port("outside")
        assert set(outside.drops) <= {"slow-path-rate", "slow-path-full"}
        refused = sum(count.packets for count in outside.drops.values())
        sent_up = sum(probed.labelled[f"slow-path {reason} sent up"].packets for reason in probe.REASONS)
        assert refused
        assert outside.received.packets == probed.port("inside").sent.packets + refused + sent_up


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
