"""The doctor, on real devices that are set up wrongly: each finding whole, and gone after what it prints was run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys as python
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from runtime import features, sys
from runtime.doctor import Port, examine, examine_devices, judge
from runtime.netdev import Netdev, XdpFeature
from runtime.netns import entered
from schemas.compiled import CompiledChain, save
from schemas.diagnostic import Diagnostic, Severity
from schemas.manifest import InterfaceRecord, Mode
from schemas.render import render
from tests.kernel.live import Host, bridge, host
from tests.rig.ethtool import provide_ethtool
from tests.rig.lab import Lab, Namespace
from tests.rig.traffic import tcp_exchange
from tests.unit.manifests import sample

pytestmark = pytest.mark.kernel


@dataclass(frozen=True, slots=True)
class Ward:
    """A machine with veths as `ip link add` makes them: nothing is switched on or off."""

    machine: Host
    far: Namespace
    path: str

    def plug(self, device: str, *, up: bool = True) -> None:
        with self.machine.namespace.netlink() as netlink:
            peer = {"ifname": f"to-{device}", "net_ns_fd": self.far.name}
            netlink.link("add", ifname=device, kind="veth", peer=peer)
        if up:
            self.run(f"ip -n {self.far.name} link set dev to-{device} up; ip link set dev {device} up")
            self.settle(device)

    def settle(self, device: str) -> None:
        """Waits until the kernel has seen the carrier."""
        self.run(f"until ip link show {device} | grep -q 'state UP'; do sleep 0.01; done")

    def run(self, command: str) -> None:
        """What a person would do who pastes a command on the machine."""
        with entered(self.machine.namespace.name):
            subprocess.run(command, shell=True, check=True, timeout=20, env={**os.environ, "PATH": self.path})

    def bpfchain(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        with entered(self.machine.namespace.name):
            return subprocess.run(
                [python.executable, "-m", "bpfchain", *map(str, arguments)],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                timeout=60,
            )

    def findings(self, chain: CompiledChain) -> tuple[Diagnostic, ...]:
        with entered(self.machine.namespace.name):
            return examine_devices(chain.manifest)

    def mends(self, chain: CompiledChain, *wanted: str) -> None:
        """The findings are these, text for text; run what they say one after the other, and each is gone."""
        found = self.findings(chain)
        assert [render([each], {}) for each in found] == list(wanted)
        while found:
            self.run(found[0].help)
            left = self.findings(chain)
            assert found[0] not in left
            assert len(left) < len(found)
            found = left


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    provide_ethtool(tmp_path)
    with Lab() as lab:
        dut, far = lab.namespace("dut"), lab.namespace("far")
        with host(dut, tmp_path) as machine:
            yield Ward(machine, far, f"{tmp_path}:{os.environ['PATH']}")


VANISH = "takes no frames from native XDP: what a program sends to it vanishes"


def on(*ports: str, mode: str = "native") -> dict[str, Any]:
    return bridge(mode, ports=ports)


def text(severity: str, code: str, port: str, what: str, help: str = "", note: str = "") -> str:
    """A finding on the device that is called like its interface."""
    mend = f"  = help: {help}\n" if help else ""
    notes = f"  = note: {note}\n" if note else ""
    return f"{severity}[{code}]: interface `{port}`: `{port}` {what}\n{notes}{mend}"


def gro_off(ward: Ward, port: str) -> str:
    far = ward.far.name
    what = f"{VANISH} (GRO is off at its far end `to-{port}` in `{far}`)"
    return text("error", "H105", port, what, f"ip netns exec {far} ethtool -K to-{port} gro on")


def checksums(ward: Ward, port: str, severity: str = "error") -> str:
    far = ward.far.name
    what = f"gets frames with unfinished checksums from `to-{port}` in `{far}`: redirected, they are wrong for good"
    return text(severity, "H106", port, what, f"ip netns exec {far} ethtool -K to-{port} tx off")


def vlan_tags(ward: Ward, port: str) -> str:
    far = ward.far.name
    what = f"gets VLAN tags beside the frame from `to-{port}` in `{far}`: XDP does not see them"
    return text("warning", "H111", port, what, f"ip netns exec {far} ethtool -K to-{port} txvlan off")


def test_veths_as_they_are_made_lose_everything_at_native_xdp_until_mended(ward: Ward) -> None:
    """And a TCP connection, which nothing but mending changed, goes through then."""
    ward.plug("p1")
    ward.plug("p2")
    chain = ward.machine.compiled(on("p1", "p2"))
    ward.mends(
        chain,
        gro_off(ward, "p1"),
        checksums(ward, "p1"),
        vlan_tags(ward, "p1"),
        gro_off(ward, "p2"),
        checksums(ward, "p2"),
        vlan_tags(ward, "p2"),
    )
    assert ward.findings(chain) == ()


def test_what_is_mended_forwards_what_stacks_send(tmp_path: Path) -> None:
    provide_ethtool(tmp_path)
    with Lab() as lab:
        dut, left, right = lab.namespace("dut"), lab.namespace("left"), lab.namespace("right")
        with host(dut, tmp_path) as machine:
            wards = [Ward(machine, far, f"{tmp_path}:{os.environ['PATH']}") for far in (left, right)]
            for number, (ward, port) in enumerate(zip(wards, ("p1", "p2"), strict=True), 1):
                ward.plug(port)
                ward.run(f"ip -n {ward.far.name} addr add 10.9.0.{number}/24 dev to-{port}")
            chain = machine.compiled(on("p1", "p2"))
            for finding in wards[0].findings(chain):
                wards[0].run(finding.help)
            machine.apply(chain)
            content = os.urandom(300_000)
            assert tcp_exchange(left, right, "10.9.0.2", content) == content


def test_gro_before_both_ends_were_up(ward: Ward) -> None:
    ward.plug("p1", up=False)
    far = ward.far.name
    ward.run("ip link set dev p1 up")
    ward.run(f"ip netns exec {far} ethtool -K to-p1 gro on tx off txvlan off")
    ward.run(f"ip -n {far} link set dev to-p1 up")
    ward.settle("p1")
    chain = ward.machine.compiled(on("p1", "p1x"))
    found = [each for each in ward.findings(chain) if each.code != "H101"]
    what = f"{VANISH} (GRO was on at its far end `to-p1` in `{far}` before both were up)"
    commands = f"ip netns exec {far} ethtool -K to-p1 gro off && ip netns exec {far} ethtool -K to-p1 gro on"
    assert [render([each], {}) for each in found] == [text("error", "H105", "p1", what, commands)]
    ward.run(found[0].help)
    assert [each.code for each in ward.findings(chain)] == ["H101"]


def test_segments_at_generic_xdp(ward: Ward) -> None:
    ward.plug("p1")
    chain = ward.machine.compiled(on("p1", "p1x", mode="generic"))
    far = ward.far.name
    what = f"gets frames longer than its MTU from `to-p1` in `{far}`: generic XDP loses them"
    missing, *found = ward.findings(chain)
    assert render([missing], {}) == (
        "error[H101]: interface `p1x`: there is no device `p1x`\n  = note: the chain file asks for it at chain.yaml:6\n"
    )
    assert [render([each], {}) for each in found] == [
        text("error", "H107", "p1", what, f"ip netns exec {far} ethtool -K to-p1 tso off gso off"),
        vlan_tags(ward, "p1"),
    ]
    for each in found:
        ward.run(each.help)
    assert ward.findings(chain) == (missing,)
    with network_of_its_own() as pid:
        ward.run(f"ip link add p1x type veth peer name far netns {pid}; ip link set dev p1x up")
        hidden = [each.code for each in ward.findings(chain)]
        assert hidden == ["H103", "H113"]


@contextlib.contextmanager
def network_of_its_own() -> Iterator[int]:
    """A process in a network namespace that has no name."""
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_far_end_in_a_namespace_without_a_name(ward: Ward) -> None:
    chain = ward.machine.compiled(on("p1", "p1x"))
    gro, tx = "`ethtool -K DEVICE gro on` (with both ends up)", "`ethtool -K DEVICE tx off`"
    with network_of_its_own() as pid:
        ward.run(f"ip link add p1 type veth peer name far netns {pid}; ip link set dev p1 up")
        ward.run(f"nsenter --net=/proc/{pid}/ns/net ip link set dev far up")
        ward.settle("p1")
        _, *found = ward.findings(chain)
        assert [render([each], {}) for each in found] == [
            text(
                "error",
                "H105",
                "p1",
                f"{VANISH} (GRO is off at its far end)",
                note=f"in the namespace of its far end: {gro} and {tx}",
            ),
            text(
                "warning",
                "H113",
                "p1",
                "has its far end in a namespace that has no name here, so it was not looked at",
                note=f"where a network stack sends from there: {gro} and {tx}",
            ),
        ]
        ward.run(f"nsenter --net=/proc/{pid}/ns/net ethtool -K far gro on")
        assert [each.code for each in ward.findings(chain)] == ["H101", "H113"]


def test_devices_that_are_down(ward: Ward) -> None:
    ward.plug("p1", up=False)
    chain = ward.machine.compiled(on("p1", "p1x", mode="tc"))
    far = ward.far.name
    for what, command in (
        ("is down", "ip link set dev p1 up"),
        (f"has no carrier: its far end `to-p1` in `{far}` is down", f"ip -n {far} link set dev to-p1 up"),
    ):
        _, *found = ward.findings(chain)
        code = "H102" if what == "is down" else "H103"
        assert [render([each], {}) for each in found] == [text("error", code, "p1", what, command)]
        ward.run(command)
    ward.settle("p1")
    assert len(ward.findings(chain)) == 1


def test_mtus(ward: Ward) -> None:
    for port in ("p1", "p2"):
        ward.plug(port)
        ward.run(f"ip netns exec {ward.far.name} ethtool -K to-{port} gro on tx off txvlan off")
    far = ward.far.name
    chain = ward.machine.compiled(on("p1", "p2"))
    ward.run(f"ip link set dev p1 mtu 4000; ip -n {far} link set dev to-p1 mtu 9000")
    (refused,) = ward.machine.refused(chain)
    assert refused.code == "A104"
    too_large = "native XDP on a veth takes 3498 at most"
    at_far_end = f"has an MTU of 9000, at its far end `to-p1` in `{far}`: {too_large}"
    longer = "has MTU 1500, `p1` has 4000: longer frames vanish on the way to it"
    ward.mends(
        chain,
        text("error", "H109", "p1", f"has an MTU of 4000: {too_large}", "ip link set dev p1 mtu 3498"),
        text("error", "H109", "p1", at_far_end, f"ip -n {far} link set dev to-p1 mtu 3498"),
        text("warning", "H110", "p2", longer, "ip link set dev p2 mtu 4000"),
    )
    ward.machine.apply(chain)


def test_a_device_that_is_no_veth(ward: Ward) -> None:
    """macvlan: no native XDP, no target for it, and nothing but its own address comes in."""
    ward.plug("p1")
    ward.run("ip link add link p1 name p2 type macvlan mode bridge; ip link set dev p2 up")
    ward.settle("p2")
    native, generic, tc = (ward.machine.compiled(on("p2", "p1x", mode=mode)) for mode in ("native", "generic", "tc"))
    promiscuous = text(
        "error", "H112", "p2", "lets in no frames for other stations (it is not promiscuous)",
        "ip link set dev p2 promisc on",
    )  # fmt: skip
    _, *found = ward.findings(native)
    assert [render([each], {}) for each in found] == [
        text(
            "error",
            "H104",
            "p2",
            "cannot do native XDP (a macvlan cannot)",
            "set `mode: generic` or `mode: tc` for interface `p2`",
        ),
        text("error", "H105", "p2", VANISH, "set `mode: generic` or `mode: tc` for all interfaces of the chain"),
        promiscuous,
    ]
    _, *found = ward.findings(generic)
    assert [render([each], {}) for each in found] == [promiscuous]
    ward.run(found[0].help)
    assert [each.code for each in ward.findings(generic)] == ["H101"]
    assert [each.code for each in ward.findings(tc)] == ["H101"]


def test_vlans_of_a_device_whose_tags_are_not_seen(ward: Ward) -> None:
    """One finding for the device, whoever shares it."""
    for port in ("p1", "p2"):
        ward.plug(port)
        ward.run(f"ip netns exec {ward.far.name} ethtool -K to-{port} gro on tx off")
    chain = on("p2", "red", "green")
    chain["interfaces"] |= {name: {"device": "p1", "vlan": vlan} for name, vlan in (("red", 10), ("green", 20))}
    first, second = ward.findings(ward.machine.compiled(chain))
    assert render([first], {}) == vlan_tags(ward, "p2")
    far = ward.far.name
    what = f"gets VLAN tags beside the frame from `to-p1` in `{far}`, by which `red`, `green` are told apart"
    assert render([second], {}) == text("error", "H114", "p1", what, f"ip netns exec {far} ethtool -K to-p1 txvlan off")
    ward.run(second.help)
    assert ward.findings(ward.machine.compiled(chain)) == (first,)


def test_hardware_that_joins_frames_and_takes_tags_out() -> None:
    """No device here can do either, so this is judged from a device's description."""
    interface = InterfaceRecord("eth0", "eth0", Mode.NATIVE, None, "edge.yaml:3:3")
    offloads = frozenset({"rx-lro", "rx-gro-hw", "rx-vlan-hw-parse"})
    able = XdpFeature.BASIC | XdpFeature.REDIRECT | XdpFeature.NDO_XMIT
    device = Netdev("eth0", None, 2, "", 1500, True, "UP", "mq", True, able, offloads, None)
    assert [render([each], {}) for each in judge(Port(interface, device, None), sample())] == [
        text(
            "error",
            "H108",
            "eth0",
            "joins frames before XDP sees them (lro, rx-gro-hw)",
            "ethtool -K eth0 lro off rx-gro-hw off",
        ),
        text(
            "warning",
            "H111",
            "eth0",
            "takes VLAN tags out of frames: XDP does not see them",
            "ethtool -K eth0 rxvlan off",
        ),
    ]
    quiet = replace(device, offloads=frozenset())
    assert list(judge(Port(interface, quiet, None), sample())) == []


# --- the host -------------------------------------------------------------------------------------------------------


def test_this_host_can_run_chains() -> None:
    assert examine() == ()


def test_a_place_without_bpffs(tmp_path: Path) -> None:
    root = tmp_path / "bpf"
    root.mkdir()
    (found,) = examine(bpffs=root)
    assert render([found], {}) == (
        f"warning[H121]: there is no bpffs at `{root}`\n"
        "  = note: `apply` mounts it, if it is allowed to\n"
        f"  = help: mount -t bpf -o mode=0700 bpf {root}\n"
    )
    subprocess.run(found.help, shell=True, check=True)
    try:
        assert examine(bpffs=root) == ()
        (root / "bpfchain").mkdir()
        (root / "bpfchain").chmod(0o777)
        (found,) = examine(bpffs=root)
        assert render([found], {}) == (
            f"error[A130]: `{root}/bpfchain` is not trusted: others than its owner can write to it (mode 0777)\n"
            f"  = help: chmod go-w {root}/bpfchain\n"
        )
        subprocess.run(found.help, shell=True, check=True)
        assert examine(bpffs=root) == ()
    finally:
        sys.umount(str(root))


def test_features_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "has", lambda feature: feature != "link:tcx")
    (found,) = examine()
    assert found == Diagnostic(
        "H120", "this kernel has no `link:tcx`, which some chains need", severity=Severity.WARNING
    )
    wanted = replace(sample(), interfaces=(), features=("program:xdp", "link:tcx"))
    assert examine(wanted) == (Diagnostic("L140", "this kernel has no `link:tcx`"),)


# --- the commands ---------------------------------------------------------------------------------------------------


def test_the_command_tells_and_exits_by_what_it_found(ward: Ward) -> None:
    fine = ward.bpfchain("doctor")
    assert (fine.returncode, fine.stdout, fine.stderr) == (0, "", "0 errors, 0 warnings\n")
    ward.plug("p1")
    ward.plug("p2")
    directory = ward.machine.folder / "built"
    save(ward.machine.compiled(on("p1", "p2")), directory)
    ill = ward.bpfchain("doctor", directory)
    assert (ill.returncode, ill.stderr) == (1, "4 errors, 2 warnings\n")
    assert ill.stdout.startswith(gro_off(ward, "p1"))
    listed = json.loads(ward.bpfchain("doctor", directory, "--format", "json").stdout)["diagnostics"]
    assert [each["code"] for each in listed] == ["H105", "H106", "H111"] * 2
    for each in listed:
        if each["severity"] == "error":
            ward.run(each["help"])
    mended = ward.bpfchain("doctor", directory)
    assert (mended.returncode, mended.stderr) == (0, "0 errors, 2 warnings\n")


def test_a_clang_that_is_none(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFCHAIN_CLANG", "/nonexistent")
    shown = ward.bpfchain("doctor")
    assert (shown.returncode, shown.stderr) == (0, "0 errors, 1 warning\n")
    assert shown.stdout == (
        "warning[K101]: `/nonexistent` is not usable as clang: there is no such command\n"
        "  = note: version 15 or later with the BPF target is needed\n"
        "  = note: only compiling needs one: what was compiled elsewhere runs here\n"
        "  = help: leave out --clang and BPFCHAIN_CLANG to have one looked for\n"
    )


def test_apply_warns_of_what_vanishes_without_a_trace(ward: Ward) -> None:
    """When it takes devices, and not with every change afterwards."""
    ward.plug("p1")
    ward.plug("p2")
    directory = ward.machine.folder / "built"
    save(ward.machine.compiled(on("p1", "p2")), directory)
    applied = ward.bpfchain("apply", directory)
    assert applied.returncode == 0
    wanted = [gro_off(ward, "p1"), checksums(ward, "p1"), gro_off(ward, "p2"), checksums(ward, "p2")]
    assert applied.stderr == "\n".join(wanted).replace("error[", "warning[")
    save(ward.machine.compiled(bridge(ports=("p1", "p2"), aging="9s")), directory)
    again = ward.bpfchain("apply", directory)
    assert (again.returncode, again.stderr) == (0, "")
