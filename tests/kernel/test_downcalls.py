"""Frames of a control plane take the way of packets: into the first, the middle and the last service, at every hook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.downcalls import Downcalls
from runtime.netns import entered
from runtime.status import status
from schemas.manifest import Hook, Mode
from tests.kernel.test_slow_path import CALM, arrived, frame, opened_ring
from tests.rig import probe
from tests.rig.network import network, running

pytestmark = [pytest.mark.kernel, pytest.mark.parametrize("mode", list(Mode), ids=str)]

PLAIN = b"\x88\xb5"
TAG = bytes.fromhex("81002064")
QINQ = bytes.fromhex("88a8006481002064")


def three_probes(mode: Mode) -> dict[str, Any]:
    """p1 - first - middle - last - p2."""
    return {
        "mode": mode.value,
        "slow-path": {"rate": 1_000_000},
        "interfaces": {"p1": {"device": "p1"}, "p2": {"device": "p2"}},
        "services": {name: {"kind": "probe"} for name in ("first", "middle", "last")},
        "links": [
            ["p1", "first.outside"],
            ["first.inside", "middle.outside"],
            ["middle.inside", "last.outside"],
            ["last.inside", "p2"],
        ],
    }


@pytest.mark.parametrize("service", ["first", "middle", "last"])
def test_injected_frames_leave_as_if_they_had_arrived(mode: Mode, service: str, tmp_path: Path) -> None:
    frames = [frame(CALM, 0, length, PLAIN) for length in (16, 59, 60, 61, 64, 1000, 1513, 1514)]
    frames += [frame(CALM, 0, length, PLAIN, tag) for tag in (TAG, QINQ) for length in (60, 64, 1518)]
    with probe.installed(), network("p1", "p2") as net, running(net.dut, three_probes(mode), tmp_path) as compiled:
        down = Downcalls(compiled.manifest, net.dut.name)
        for each in frames:
            assert down.inject(service, "outside", each)
            assert net.arrivals(p2=1) == {"p2": [each]}
        for each in frames:
            assert down.inject(service, "inside", each)
        assert net.arrivals(p1=len(frames)) == {"p1": frames}
        down.close()
        with entered(net.dut.name):
            found = status(compiled.manifest.chain)
        port = found.service(service).port("outside")
        assert (port.received.packets, port.received.bytes) == (len(frames), sum(map(len, frames)))
        assert [port.drops for each in found.services for port in each.ports] == [{}] * 6


def test_an_injected_frame_can_come_up_again(mode: Mode, tmp_path: Path) -> None:
    sent = [frame(CALM, number, 60 + number, tag=TAG if number % 2 else b"") for number in range(50)]
    hook = mode.hook
    with probe.installed(), network("p1", "p2") as net, running(net.dut, three_probes(mode), tmp_path) as compiled:
        down = Downcalls(compiled.manifest, net.dut.name)
        with opened_ring(compiled.manifest.chain) as ring:
            for each in sent:
                down.inject("middle", "inside", each, hook)
            upcalls = arrived(ring, len(sent))
        down.close()
        assert [upcall.frame for upcall in upcalls] == sent
        services = [service.name for service in compiled.manifest.services]
        assert {(services[u.service], u.port, u.hook) for u in upcalls} == {("middle", 1, int(hook is Hook.TC))}


def test_what_no_control_plane_sent_goes_nowhere(mode: Mode, tmp_path: Path) -> None:
    """Whatever else ends up in the injection link has no label."""
    with probe.installed(), network("p1", "p2") as net, running(net.dut, three_probes(mode), tmp_path) as compiled:
        down = Downcalls(compiled.manifest, net.dut.name)
        (opened,) = {id(e.socket): e.socket for e in down._entrances.values()}.values()
        for stray in (
            bytes(14),
            bytes(60),
            frame(CALM, 0, 60, PLAIN),
            frame(CALM, 0, 60, PLAIN) + b"dfpb" + b"\xff" * 4,
        ):
            opened.send(stray)
        assert net.arrivals() == {}
        with pytest.raises(LookupError):
            down.inject("first", "elsewhere", bytes(60))
        down.close()


def test_many_at_once_keep_their_order(mode: Mode, tmp_path: Path) -> None:
    frames = [frame(CALM, number, 60 + number, PLAIN) for number in range(100)]
    with probe.installed(), network("p1", "p2") as net, running(net.dut, three_probes(mode), tmp_path) as compiled:
        down = Downcalls(compiled.manifest, net.dut.name)
        ways = (("p2", down.out_of("p2")), ("p2", down.into("middle", "outside")), ("p1", down.into("last", "inside")))
        for port, way in ways:
            assert way.send_many(frames) == len(frames)
            assert net.arrivals(**{port: len(frames)}) == {port: frames}
        too_long = [frames[0], bytes(4000), frames[1]]
        assert down.out_of("p1").send_many(too_long) == 1
        assert down.unsent == 2
        assert down.out_of("p1").send_many([]) == 0
        down.close()


def test_frames_leave_by_interfaces(mode: Mode, tmp_path: Path) -> None:
    frames = [frame(CALM, 0, length, PLAIN) for length in (14 + 2, 60, 1514)] + [frame(CALM, 0, 1518, PLAIN, TAG)]
    with probe.installed(), network("p1", "p2") as net, running(net.dut, three_probes(mode), tmp_path) as compiled:
        down = Downcalls(compiled.manifest, net.dut.name)
        for each in frames:
            assert down.send("p1", each)
        assert net.arrivals(p1=len(frames)) == {"p1": frames}
        with net.dut.netlink() as netlink:
            netlink.link("set", index=net.cables["p1"].port.ifindex, state="down")
            assert not down.send("p1", frames[0])
            netlink.link("set", index=net.cables["p1"].port.ifindex, state="up")
        down.close()
