"""A router behind switches that snoop on MLD: what it reports is what lets neighbour solicitations through to it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.services.bridge_groups import groups
from schemas.manifest import Mode
from tests.rig.daemon import daemon, own_bpffs
from tests.rig.lab import Lab, Namespace
from tests.rig.network import running
from tests.rig.switch import asking_switch
from tests.rig.traffic import ping
from tests.rig.waiting import until

pytestmark = pytest.mark.kernel
every_mode = pytest.mark.parametrize("mode", list(Mode), ids=str)

HOST, ROUTER = "fd00:1::10", "fd00:1::1"
QUERY_SECONDS, RESPONSE_SECONDS, MEMBERSHIP_SECONDS = 1, 1, 3
VERSIONS = {Mode.NATIVE: 2, Mode.GENERIC: 1, Mode.TC: 1}
"""In which version of MLD the switch asks; the kernel's bridge has 1 by itself."""


def chain(mode: Mode) -> dict[str, Any]:
    return {
        "mode": mode.value,
        "interfaces": {"left": {"device": "left"}},
        "services": {"gw": {"kind": "router", "ports": {"left": {"address": f"{ROUTER}/64"}}}},
        "links": [["gw.left", "left"]],
    }


def forget(host: Namespace) -> None:
    """The host has to ask for the router anew."""
    subprocess.run(["ip", "-n", host.name, "neigh", "flush", "dev", "eth0"], check=True)


def knows_the_router(host: Namespace) -> bool:
    """Whether a solicitation has reached it: its programs answer those by themselves."""
    shown = ["ip", "-n", host.name, "neigh", "show", ROUTER, "dev", "eth0"]
    return "lladdr" in subprocess.run(shown, capture_output=True, text=True, check=True).stdout


def asks(host: Namespace) -> bool:
    forget(host)
    ping(host, ROUTER, count=1, timeout=0.2)
    return knows_the_router(host)


@contextlib.contextmanager
def behind_a_switch(mode: Mode) -> Iterator[tuple[Namespace, Namespace]]:
    """host ── switch ── router, in a namespace each: that of the router, and that of the host."""
    with Lab() as lab:
        dut, switch, host = (lab.namespace(label) for label in ("dut", "switch", "host"))
        lab.cable((dut, "left"), (switch, "a"), offloads=mode is Mode.TC)
        lab.cable((switch, "b"), (host, "eth0"), (f"{HOST}/64",), offloads=mode is Mode.TC)
        asking_switch(
            switch,
            ("a", "b"),
            QUERY_SECONDS,
            RESPONSE_SECONDS,
            br_mcast_mld_version=VERSIONS[mode],
            br_mcast_membership_intvl=100 * MEMBERSHIP_SECONDS,
        )
        yield dut, host


@every_mode
def test_a_switch_passes_on_what_was_reported(mode: Mode, tmp_path: Path) -> None:
    """Without the daemon nothing is reported, and nobody finds the router; memberships last because it answers."""
    with own_bpffs(tmp_path), behind_a_switch(mode) as (dut, host), running(dut, chain(mode), tmp_path) as compiled:
        until(lambda: not asks(host), lambda: "the switch does not keep anything back")
        assert not asks(host)
        with daemon(tmp_path) as process:
            process.wait_for(compiled.chain.manifest.chain, "gw", "running")
            until(lambda: asks(host), process.log.read_text)
            assert ping(host, ROUTER, timeout=3).lost == 0
            end = time.monotonic() + MEMBERSHIP_SECONDS + RESPONSE_SECONDS
            while time.monotonic() < end:
                forget(host)
                assert ping(host, ROUTER, count=1, timeout=3).lost == 0
                time.sleep(0.1)


def test_our_own_bridge_passes_on_what_was_reported(tmp_path: Path) -> None:
    described = chain(Mode.NATIVE)
    times = {"query-interval": f"{2 * QUERY_SECONDS}s", "max-response": f"{RESPONSE_SECONDS}s"}
    described["services"]["br0"] = {
        "kind": "bridge",
        "multicast": {"querier": True, **times},
        "ports": {"station": {}, "gateway": {}},
    }
    described["links"] = [["left", "br0.station"], ["br0.gateway", "gw.left"]]
    with own_bpffs(tmp_path), daemon(tmp_path) as process, Lab() as lab:
        dut, host = lab.namespace("dut"), lab.namespace("host")
        lab.cable((dut, "left"), (host, "eth0"), (f"{HOST}/64",))
        with running(dut, described, tmp_path) as compiled:
            name = compiled.chain.manifest.chain
            process.wait_for(name, "gw", "running")

            def snooped() -> set[int]:
                return {network.ip for network in groups(name, "br0").snooped if network.unregistered is not None}

            until(lambda: 6 in snooped(), process.log.read_text)
            found = {group.group: group.ports for group in groups(name, "br0").groups}
            assert found["ff02::1:ff00:1"] == ("gateway",)
            assert asks(host)
            assert ping(host, ROUTER, timeout=3).lost == 0
