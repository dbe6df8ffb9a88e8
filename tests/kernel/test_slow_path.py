"""Packets that go up to a control plane: whole, with what is told beside them, bounded, and every refusal counted."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import sys as kernel
from runtime.bpffs import bpffs_root
from runtime.netns import entered
from runtime.pin import chain_pins
from runtime.ringbuf import RingBuffer
from runtime.status import ChainStatus, status
from runtime.upcalls import Upcall, read_upcalls
from schemas.manifest import Mode
from schemas.slow_path import FRAME_BYTES
from tests.rig import probe
from tests.rig.lab import Lab
from tests.rig.network import Network, network, running
from tests.rig.traffic import udp_socket

pytestmark = [pytest.mark.kernel]

A, B = (bytes.fromhex(f"02aa0000000{digit}") for digit in "ab")
CALM, FLOOD = 0, 1
UDP_SEGMENT = 103
RING = "chain_slow_path"


def frame(reason: int, note: int = 0, length: int = 60, ethertype: bytes = probe.UP, tag: bytes = b"") -> bytes:
    """A frame whose bytes are all different from their neighbours', as far as there are bytes."""
    head = B + A + tag + ethertype + bytes([reason, note])
    return head + bytes((number * 7 + (number >> 8)) & 0xFF for number in range(length - len(head)))


def chain(mode: Mode, rate: int = 1_000_000) -> dict[str, object]:
    return {
        "mode": mode.value,
        "slow-path": {"rate": rate},
        "interfaces": {"p1": {"device": "p1"}, "p2": {"device": "p2"}},
        "services": {"probe": {"kind": "probe"}},
        "links": [["p1", "probe.outside"], ["probe.inside", "p2"]],
    }


def opened_ring(name: str) -> RingBuffer:
    """The ring of a running chain."""
    (generation,) = chain_pins(bpffs_root(), name).generations()
    (path,) = (path for path in generation.pinned("maps") if path.name.startswith(RING))
    return RingBuffer(kernel.obj_get(path))


@contextlib.contextmanager
def probed(mode: Mode, folder: Path, rate: int = 1_000_000) -> Iterator[tuple[Network, RingBuffer, str]]:
    """A probe between p1 and p2, and its ring."""
    with probe.installed(), network("p1", "p2") as net, running(net.dut, chain(mode, rate), folder) as compiled:
        name = compiled.manifest.chain
        with opened_ring(name) as ring:
            yield net, ring, name


def arrived(ring: RingBuffer, expected: int) -> list[Upcall]:
    """What comes up, until as much as expected has, or time is up; more than that is seen too."""
    found: list[Upcall] = []
    deadline = time.monotonic() + 5
    while len(found) < expected and time.monotonic() < deadline:
        found += read_upcalls(ring, 1 << 16)
        time.sleep(0.002)
    return found + list(read_upcalls(ring, 1 << 16))


def counted(net: Network, name: str) -> ChainStatus:
    with entered(net.dut.name):
        return status(name)


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_packets_of_every_length_arrive_whole(mode: Mode, tmp_path: Path) -> None:
    with probed(mode, tmp_path) as (net, ring, name):
        sent = [frame(number & 1, number & 0xFF, number) for number in range(16, 1515)]
        for start in range(0, len(sent), 100):
            net.send("p1", *sent[start : start + 100])
        upcalls = arrived(ring, len(sent))
        assert [upcall.frame for upcall in upcalls] == sent
        for upcall in upcalls:
            assert upcall.length == len(upcall.frame)
            assert (upcall.reason, upcall.note) == (upcall.frame[14] & 1, upcall.frame[15])
            assert (upcall.service, upcall.port, upcall.hook) == (0, 0, int(mode is Mode.TC))
            assert abs(time.monotonic_ns() - upcall.time_ns) < 60 * 10**9
        service = counted(net, name).service("probe")
        assert service.labelled["slow-path calm sent up"].packets == sum(1 for each in sent if not each[14] & 1)
        outside = service.port("outside")
        assert (outside.received.packets, outside.received.bytes) == (len(sent), sum(map(len, sent)))
        assert outside.drops == {}


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_tags_are_in_the_frame_at_every_hook(mode: Mode, tmp_path: Path) -> None:
    with probed(mode, tmp_path) as (net, ring, _):
        sent = [frame(CALM, length=length, tag=bytes.fromhex("8100a064")) for length in (20, 60, 64, 300, 1518)]
        net.send("p2", *sent)
        upcalls = arrived(ring, len(sent))
        assert [(upcall.frame, upcall.port) for upcall in upcalls] == [(each, 1) for each in sent]


def test_of_a_packet_before_segmentation_the_beginning_comes(tmp_path: Path) -> None:
    """At TC a stack hands over more at once than fits a frame; most of it lies in pages beside the skb."""
    everything = {**chain(Mode.TC), "services": {"probe": {"kind": "probe", "all": 9}}}
    with probe.installed(), Lab("gso") as lab:
        dut, far = lab.namespace("dut"), lab.namespace("far")
        cables = [
            lab.cable((dut, port), (far, f"to-{port}"), [address], offloads=True)
            for port, address in (("p1", "10.0.0.1/24"), ("p2", "10.0.1.1/24"))
        ]
        with far.netlink() as netlink:
            mac = cables[0].port.mac
            netlink.neigh("add", dst="10.0.0.2", lladdr=mac, ifindex=cables[0].station.ifindex, state="permanent")
        with running(dut, everything, tmp_path) as compiled, opened_ring(compiled.manifest.chain) as ring:
            for payload in (bytes(range(250)) * 100, bytes(range(251)) * 30):
                with udp_socket(far, "10.0.0.1", 4000) as sender:
                    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
                    sender.sendto(payload, ("10.0.0.2", 9000))
                (upcall,) = arrived(ring, 1)
                assert upcall.length == 14 + 20 + 8 + len(payload)
                assert upcall.frame[42:] == payload[: FRAME_BYTES - 42]
                assert upcall.note == 9


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_of_a_copied_packet_both_are_whole(mode: Mode, tmp_path: Path) -> None:
    with probed(mode, tmp_path) as (net, ring, name):
        sent = [frame(FLOOD, number, 60 + 100 * number, probe.COPY) for number in range(10)]
        net.send("p1", *sent)
        assert net.arrivals(p2=10) == {"p2": sent}
        assert [upcall.frame for upcall in arrived(ring, 10)] == sent
        service = counted(net, name).service("probe")
        assert service.port("inside").sent.packets == 10
        assert service.port("outside").received.packets == 10
        assert service.labelled["slow-path flood sent up"].packets == 10


@pytest.mark.parametrize("mode", list(Mode), ids=str)
def test_a_flood_of_one_reason_does_not_starve_the_other(mode: Mode, tmp_path: Path) -> None:
    """The flood is refused by its own rate; every packet of the other reason comes up, and all refusals are counted."""
    with probed(mode, tmp_path, rate=200) as (net, ring, name):
        for number in range(10):
            net.send("p1", *[frame(FLOOD, length=1500)] * 100, frame(CALM, number))
        upcalls = [upcall for upcall in arrived(ring, 30) if upcall.reason == CALM]
        assert [upcall.note for upcall in upcalls] == list(range(10))
        service = counted(net, name).service("probe")
        sent = service.labelled["slow-path flood sent up"].packets
        refused = service.labelled["slow-path flood refused: rate"].packets
        assert sent + refused == 1000
        assert refused >= 500
        assert service.port("outside").drops["slow-path-rate"].packets == refused
        assert service.labelled["slow-path calm refused: rate"].packets == 0


def test_a_flood_that_nobody_reads_leaves_half_of_the_ring(tmp_path: Path) -> None:
    """Without a reader the flooding reason fills half, and the other one still gets through.

    A flood that pauses, because the machine has other work, has saved up for a burst more. Each push of it is four
    bursts long, so that it is one however long the pauses are.
    """
    rate = 1000
    push = [frame(FLOOD, length=1500)] * (4 * rate // 10)
    with probed(Mode.NATIVE, tmp_path, rate=rate) as (net, ring, name):

        def refused() -> int:
            return counted(net, name).service("probe").labelled["slow-path flood refused: ring full"].packets

        deadline = time.monotonic() + 60
        while not refused() and time.monotonic() < deadline:
            net.send("p1", *push)
        assert ring.size // 2 <= ring.pending < ring.size * 3 // 4
        net.send("p1", frame(CALM, 7))
        upcalls = arrived(ring, ring.size // 2 // 1600)
        assert upcalls[-1].note == 7
        assert counted(net, name).service("probe").port("outside").drops["slow-path-full"].packets == refused() > 0


def test_the_reader_is_woken_up(tmp_path: Path) -> None:
    with probed(Mode.NATIVE, tmp_path) as (net, ring, _):
        poll = select.poll()
        poll.register(ring, select.POLLIN)
        for _ in range(5):
            assert poll.poll(0) == []
            net.send("p1", frame(CALM))
            assert poll.poll(2000) == [(ring.fileno(), select.POLLIN)]
            assert len(arrived(ring, 1)) == 1
            time.sleep(0.02)


def test_a_ring_goes_round(tmp_path: Path) -> None:
    """Many times its size, with lengths that end nowhere near its end."""
    with probed(Mode.NATIVE, tmp_path, rate=10_000_000) as (net, ring, _):
        sent = 0
        for number in range(90):
            batch = [frame(CALM, number, 1400 + number)] * 100
            net.send("p1", *batch)
            found = [upcall.frame for upcall in arrived(ring, 100)]
            assert found == batch
            sent += sum(map(len, batch))
        assert sent > 3 * ring.size
