"""What a Linux stack is told by the router about packets that go nowhere, and what the router itself answers."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from runtime.netns import entered
from schemas.manifest import Mode
from tests.rig.daemon import daemon, own_bpffs
from tests.rig.lab import Lab, Namespace
from tests.rig.network import running
from tests.rig.tools import pings, run
from tests.rig.traffic import Told, told_of
from tests.services.router_frames import link_local

pytestmark = pytest.mark.kernel
every_mode = pytest.mark.parametrize("mode", list(Mode), ids=str)

QUIET_SECONDS = 0.2
"""So long nothing is heard about what is dropped in silence."""

UNREACHABLE4, EXPIRED4, UNREACHABLE6, EXPIRED6 = 3, 11, 1, 3  # types

TOLD4 = {
    "10.1.0.1": Told(UNREACHABLE4, 3, "10.1.0.1"),  # port
    "10.2.0.1": Told(UNREACHABLE4, 3, "10.2.0.1"),  # of the router's other address
    "203.0.113.1": Told(UNREACHABLE4, 0, "10.1.0.1"),  # no route
    "192.0.2.1": Told(UNREACHABLE4, 1, "10.1.0.1"),
    "198.51.100.1": Told(UNREACHABLE4, 13, "10.1.0.1"),
}
TOLD6 = {
    "fd00:1::1": Told(UNREACHABLE6, 4, "fd00:1::1"),
    "fd00:2::1": Told(UNREACHABLE6, 4, "fd00:2::1"),
    "2001:db9::1": Told(UNREACHABLE6, 0, "fd00:1::1"),
    "2001:db8:1::1": Told(UNREACHABLE6, 6, "fd00:1::1"),
    "2001:db8:2::1": Told(UNREACHABLE6, 1, "fd00:1::1"),
}
ABSENT = {"10.2.0.99": Told(UNREACHABLE4, 1, "10.1.0.1"), "fd00:2::99": Told(UNREACHABLE6, 3, "fd00:1::1")}
"""Nobody answers for these: found out after three seconds."""

IN_SILENCE = (
    *("10.9.0.1", "2001:db8:3::1"),  # blackholes
    *("10.2.0.255", "169.254.1.1", "240.0.0.1"),  # directed broadcast, link-local, reserved
)


def chain(mode: Mode) -> dict[str, Any]:
    return {
        "mode": mode.value,
        "interfaces": {"left": {"device": "left"}, "right": {"device": "right"}},
        "services": {
            "gw": {
                "kind": "router",
                "ports": {
                    "left": {"address": ["10.1.0.1/24", "fd00:1::1/64"]},
                    "right": {"address": ["10.2.0.1/24", "fd00:2::1/64"]},
                },
                "routes": [
                    {"to": "192.0.2.0/24", "unreachable": True},
                    {"to": "198.51.100.0/24", "prohibit": True},
                    {"to": "10.9.0.0/16", "blackhole": True},
                    {"to": "2001:db8:1::/48", "unreachable": True},
                    {"to": "2001:db8:2::/48", "prohibit": True},
                    {"to": "2001:db8:3::/48", "blackhole": True},
                ],
                "icmp": {"receiver-rate": 100},
            }
        },
        "links": [["left", "gw.left"], ["gw.right", "right"]],
    }


def refused(host: Namespace, address: str) -> bool:
    """Whether a connection to a port is refused by a reset."""
    with entered(host.name):
        sender = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sender.settimeout(10)
    with sender, pytest.raises(ConnectionRefusedError):
        sender.connect((address, 179))
    return True


@every_mode
def test_everything_that_is_refused(mode: Mode, tmp_path: Path) -> None:
    offloads = mode is Mode.TC
    with own_bpffs(tmp_path), daemon(tmp_path) as process, Lab() as lab:
        dut, host, far = (lab.namespace(label) for label in ("dut", "host", "far"))
        near = lab.cable((dut, "left"), (host, "eth0"), ("10.1.0.10/24", "fd00:1::10/64"), offloads=offloads)
        lab.cable((dut, "right"), (far, "eth0"), offloads=offloads)
        own = link_local(near.station.mac)
        lab.address(near.station, f"{own}/64")
        for gateway in ("10.1.0.1", "fd00:1::1"):
            run(host, "ip", "route", "add", "default", "via", gateway)
        with running(dut, chain(mode), tmp_path) as compiled:
            process.wait_for(compiled.manifest.chain, "gw", "running")
            expected = {**TOLD4, **TOLD6, **(ABSENT if mode is Mode.NATIVE else {})}
            assert {target: told_of(host, target) for target in expected} == expected
            assert told_of(host, "10.2.0.10", ttl=1) == Told(EXPIRED4, 0, "10.1.0.1")
            assert told_of(host, "fd00:2::10", ttl=1) == Told(EXPIRED6, 0, "fd00:1::1")
            beyond_scope = Told(UNREACHABLE6, 2, link_local(near.port.mac))
            assert told_of(host, "fd00:2::10", source=own, device="eth0") == beyond_scope
            for target in IN_SILENCE:
                assert told_of(host, target, timeout=QUIET_SECONDS) is None, target
            assert all(refused(host, address) for address in ("10.1.0.1", "10.2.0.1", "fd00:1::1", "fd00:2::1"))
            for target in (
                "10.2.0.1",
                "fd00:2::1",
                link_local(near.port.mac) + "%eth0",
                "ff02::1%eth0",
                "ff02::2%eth0",
            ):
                assert pings(host, target, 1) == 1, target
