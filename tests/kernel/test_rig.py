"""The rig itself: frames cross its cables unchanged, its namespaces are quiet, and nothing of it stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bpffs import bpffs_root
from runtime.netns import NETNS_DIRECTORY
from runtime.pin import chains
from tests.rig.frames import Wire, collect
from tests.rig.lab import Lab, remove_leftovers
from tests.rig.traffic import ping, send_udp, tcp_exchange, udp_socket

pytestmark = pytest.mark.kernel

UNTAGGED = bytes.fromhex("ffffffffffff 020000000099 88b5") + bytes(46)
TAGGED = bytes.fromhex("ffffffffffff 020000000099 8100 2064 88b5") + bytes(range(46))
DOUBLE_TAGGED = bytes.fromhex("ffffffffffff 020000000099 88a8 0064 8100 00c8 88b5") + bytes(range(46))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.mark.parametrize("frame", [UNTAGGED, TAGGED, DOUBLE_TAGGED], ids=["untagged", "tagged", "double-tagged"])
def test_a_frame_arrives_byte_for_byte(lab: Lab, frame: bytes) -> None:
    cable = lab.cable((lab.namespace("a"), "eth0"), (lab.namespace("b"), "eth0"))
    with Wire(cable.port) as left, Wire(cable.station) as right:
        left.send(frame)
        assert collect({"left": left, "right": right}, {"right": 1}) == {"left": [], "right": [frame]}


def test_nobody_sends_unasked(lab: Lab) -> None:
    cable = lab.cable((lab.namespace("a"), "eth0"), (lab.namespace("b"), "eth0"), ["10.0.0.1/24"])
    with Wire(cable.port) as left, Wire(cable.station) as right:
        assert collect({"left": left, "right": right}, {"left": 1}, timeout=1.0) == {"left": [], "right": []}


@pytest.mark.parametrize(("left", "right"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")], ids=["ipv4", "ipv6"])
def test_traffic_between_stacks(lab: Lab, left: str, right: str) -> None:
    a, b = lab.namespace("a"), lab.namespace("b")
    cable = lab.cable((a, "eth0"), (b, "eth0"), [f"{right}/64" if ":" in right else f"{right}/24"])
    lab.address(cable.port, f"{left}/64" if ":" in left else f"{left}/24")
    assert ping(a, right).received == 3
    assert tcp_exchange(a, b, right, b"content" * 10000) == b"content" * 10000
    with udp_socket(b, right, 9000) as receiver:
        receiver.settimeout(2)
        send_udp(a, left, (right, 9000), [b"one", b"two"])
        assert [receiver.recv(100) for _ in range(2)] == [b"one", b"two"]


def test_a_lost_ping_is_counted(lab: Lab) -> None:
    a = lab.namespace("a")
    lab.cable((lab.namespace("b"), "eth0"), (a, "eth0"), ["10.0.0.1/24"])
    assert ping(a, "10.0.0.9", count=2, timeout=0.05).lost == 2


def test_namespaces_go_with_the_block() -> None:
    with Lab() as lab:
        names = {lab.namespace("a").name, lab.namespace("b").name}
        assert names <= set(os.listdir(NETNS_DIRECTORY))
    assert not names & set(os.listdir(NETNS_DIRECTORY))


KILLED = """
import os, sys, bpfchain
from pathlib import Path
from tests.rig.lab import Lab
from tests.rig.network import running
lab = Lab()
dut = lab.namespace("dut")
lab.cable((dut, "p1"), (lab.namespace("far"), "p1"))
chain = {
    "interfaces": {"a": {"device": "p1"}},
    "services": {"guard": {"kind": "ddos"}},
    "links": [["a", "guard.outside"], ["guard.inside", "host"]],
}
with running(dut, chain, Path(sys.argv[1])) as compiled:
    print(dut.name, compiled.chain.manifest.chain, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    namespace, chain = killed.stdout.split()
    assert (namespace in os.listdir(NETNS_DIRECTORY), chain in chains(bpffs_root())) == (True, True)
    remove_leftovers()
    assert (namespace in os.listdir(NETNS_DIRECTORY), chain in chains(bpffs_root())) == (False, False)
