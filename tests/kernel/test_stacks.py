"""Real network stacks around a chain: ping, UDP and TCP, this machine as the destination, named namespaces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import bpfchain
from runtime.netns import entered
from schemas.manifest import Mode
from tests.rig.lab import Cable, Lab, Namespace, unique_name
from tests.rig.network import running
from tests.rig.traffic import ping, send_udp, tcp_exchange, udp_socket

pytestmark = pytest.mark.kernel

every_mode = pytest.mark.parametrize("mode", [mode.value for mode in Mode])

EXAMPLES = Path(__file__).parents[2] / "chains"
CONTENT = bytes(range(256)) * 4000


def bridge_of_two(mode: str, netns: str | None = None) -> dict[str, Any]:
    place = {"netns": netns} if netns else {}
    return {
        "mode": mode,
        "interfaces": {name: {"device": name, **place} for name in ("p1", "p2")},
        "services": {"br0": {"kind": "bridge", "ports": {"p1": {}, "p2": {}}}},
        "links": [["br0.p1", "p1"], ["br0.p2", "p2"]],
    }


def guarded_host(mode: str) -> dict[str, Any]:
    return {
        "mode": mode,
        "interfaces": {"wan": {"device": "p1"}},
        "services": {"guard": {"kind": "ddos", "block": {"sources": ["198.51.100.0/24", "2001:db8:bad::/48"]}}},
        "links": [["wan", "guard.outside"], ["guard.inside", "host"]],
    }


def neighbour(lab: Lab, dut: Namespace, port: str, *addresses: str, offloads: bool = False) -> Cable:
    return lab.cable((dut, port), (lab.namespace(f"at-{port}"), "eth0"), addresses, offloads=offloads)


@every_mode
def test_stacks_talk_through_a_bridge(mode: str, tmp_path: Path) -> None:
    with Lab() as lab:
        dut = lab.namespace("dut")
        left = neighbour(lab, dut, "p1", "10.0.0.1/24", "fd00::1/64", offloads=mode == "tc")
        right = neighbour(lab, dut, "p2", "10.0.0.2/24", "fd00::2/64", offloads=mode == "tc")
        a, b = left.station.namespace, right.station.namespace
        with running(dut, bridge_of_two(mode), tmp_path):
            assert ping(a, "10.0.0.2").lost == 0
            assert ping(b, "fd00::1").lost == 0
            assert tcp_exchange(a, b, "10.0.0.2", CONTENT) == CONTENT
            assert tcp_exchange(b, a, "fd00::1", CONTENT) == CONTENT
        assert ping(a, "10.0.0.2", count=1, timeout=0.2).lost == 1, "the chain is gone, so nobody forwards"


def test_each_interface_in_a_mode_of_its_own(tmp_path: Path) -> None:
    """One bridge, one table of stations: what is learned at one hook is known at the other."""
    modes = {"p1": "native", "p2": "generic", "p3": "tc"}
    chain = {
        "interfaces": {name: {"device": name, "mode": mode} for name, mode in modes.items()},
        "services": {"br0": {"kind": "bridge", "ports": {name: {} for name in modes}}},
        "links": [[f"br0.{name}", name] for name in modes],
    }
    with Lab() as lab:
        dut = lab.namespace("dut")
        cables = [neighbour(lab, dut, name, f"10.0.0.{number}/24") for number, name in enumerate(modes, 1)]
        stacks = {f"10.0.0.{number}": cable.station.namespace for number, cable in enumerate(cables, 1)}
        with running(dut, chain, tmp_path) as compiled:
            for address, stack in stacks.items():
                for other, peer in stacks.items():
                    if other != address:
                        assert ping(stack, other).lost == 0
                        assert tcp_exchange(stack, peer, other, CONTENT) == CONTENT
            counted = bpfchain.status(compiled.chain.manifest.chain).service("br0")
        rows = {port.name: port for port in counted.ports}
        flooded = sum(port.sent.packets for port in rows.values()) - sum(
            port.received.packets for port in rows.values()
        )
        assert 0 < flooded < 20, "only the first frames are flooded; what one hook learns the other knows"


@every_mode
def test_this_machine_behind_a_guard(mode: str, tmp_path: Path) -> None:
    with Lab() as lab:
        dut = lab.namespace("dut")
        outside = neighbour(lab, dut, "p1", "10.0.0.2/24", "198.51.100.2/24", "fd00::2/64", "2001:db8:bad::2/48")
        a = outside.station.namespace
        for address in ("10.0.0.1/24", "198.51.100.1/24", "fd00::1/64", "2001:db8:bad::1/48"):
            lab.address(outside.port, address)
        with running(dut, guarded_host(mode), tmp_path), udp_socket(dut, "0.0.0.0", 9000) as receiver:
            receiver.settimeout(1)
            assert ping(a, "10.0.0.1").lost == 0
            assert ping(a, "fd00::1").lost == 0
            assert ping(a, "198.51.100.1", count=2, timeout=0.2).received == 0
            assert ping(a, "2001:db8:bad::1", count=1, timeout=0.2).received == 0
            send_udp(a, "198.51.100.2", ("10.0.0.1", 9000), [b"blocked"] * 3)
            send_udp(a, "10.0.0.2", ("10.0.0.1", 9000), [b"allowed"])
            assert receiver.recv(100) == b"allowed"
            assert tcp_exchange(a, dut, "10.0.0.1", CONTENT) == CONTENT
            assert ping(dut, "10.0.0.2").lost == 0, "what this machine sends is not looked at"


@every_mode
def test_interfaces_of_a_named_namespace(mode: str, tmp_path: Path) -> None:
    """The chain names the namespace; who applies it is somewhere else."""
    with Lab() as lab:
        dut = lab.namespace("dut")
        left = neighbour(lab, dut, "p1", "10.0.0.1/24")
        neighbour(lab, dut, "p2", "10.0.0.2/24")
        with running(lab.namespace("elsewhere"), bridge_of_two(mode, dut.name), tmp_path):
            assert ping(left.station.namespace, "10.0.0.2").lost == 0


WITHOUT_COMPILER = """
import sys
for name in ("compiler", "yaml", "jinja2", "ziglang"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
import bpfchain
sys.argv = ["bpfchain", *sys.argv[1:]]
bpfchain.main()
"""


def test_a_host_without_a_compiler(tmp_path: Path) -> None:
    """Compiled by one process; planned, applied, shown and detached by others that cannot import the compiler."""
    chain = unique_name("test")
    file = tmp_path / "chain.yaml"
    with Lab() as lab:
        dut = lab.namespace("dut")
        a = neighbour(lab, dut, "p1", "10.0.0.1/24").station.namespace
        neighbour(lab, dut, "p2", "10.0.0.2/24")
        file.write_text(yaml.safe_dump({"chain": chain, **bridge_of_two("native", dut.name)}, sort_keys=False))
        bpfchain.compile(file, tmp_path / "compiled")

        def command(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", WITHOUT_COMPILER, *arguments], capture_output=True, text=True, check=False
            )

        planned = command("plan", str(tmp_path / "compiled"))
        assert (planned.returncode, "br0" in planned.stdout) == (3, True), planned.stderr
        applied = command("apply", str(tmp_path / "compiled"))
        assert applied.returncode == 0, applied.stderr
        assert ping(a, "10.0.0.2").lost == 0
        shown = command("status", chain)
        assert (shown.returncode, "br0" in shown.stdout) == (0, True), shown.stderr
        detached = command("detach", chain)
        assert detached.returncode == 0, detached.stderr
        assert ping(a, "10.0.0.2", count=1, timeout=0.2).lost == 1


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_example_runs(example: Path, tmp_path: Path) -> None:
    """On devices with the names that it asks for, under a name of its own."""
    name = unique_name("test")
    file = tmp_path / example.name
    file.write_text(example.read_text().replace(f"chain: {example.stem}\n", f"chain: {name}\n"))
    manifest = (compiled := bpfchain.compile(file)).chain.manifest
    assert manifest.chain == name
    with Lab() as lab:
        dut, far = lab.namespace("dut"), lab.namespace("far")
        for device in {interface.device for interface in manifest.interfaces}:
            lab.cable((dut, device), (far, device))
        with entered(dut.name):
            bpfchain.apply(compiled)
            try:
                status = bpfchain.status(name)
            finally:
                bpfchain.detach(name)
    assert [service.name for service in status.services] == [service.name for service in manifest.services]
    assert {interface.state for interface in status.interfaces} == {"attached"}
