"""Hooks: programs that are not ours, kernels without links, devices that come and go, modes that change."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime import features, sys
from runtime.attach import CLSACT_INGRESS, AttachPoint, Owner, occupants
from runtime.info import prog_info
from runtime.load import load_object
from runtime.netns import entered
from runtime.object import read_object
from runtime.pin import bpffs_root, chains
from runtime.plan import Effect, Kind
from runtime.status import status
from runtime.uapi import AttachType, XdpFlag
from schemas.manifest import Mode
from tests.clang.c import compile_c
from tests.kernel.live import (
    NOTHING,
    A,
    B,
    Host,
    bridge,
    descriptors,
    eventually,
    frame,
    guarded_bridge,
    host,
)
from tests.rig.network import Network, network

pytestmark = pytest.mark.kernel

FOREIGN = """
SEC("xdp") int stranger(struct xdp_md *ctx) { return 2; }
SEC("tc") int other(void *skb) { return 0; }
"""


@pytest.fixture
def net() -> Iterator[Network]:
    with network("p1", "p2", "p3") as found:
        yield found


@pytest.fixture
def machine(net: Network, tmp_path: Path) -> Iterator[Host]:
    with host(net.dut, tmp_path) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Foreign:
    """Programs of somebody else, on devices of the machine under test."""

    net: Network
    xdp: sys.Fd
    tc: sys.Fd

    def ifindex(self, port: str) -> int:
        return self.net.cables[port].port.ifindex

    def by_netlink(self, port: str) -> None:
        """As `ip link set DEV xdp` does it."""
        with self.net.dut.netlink() as netlink:
            attrs = [("IFLA_XDP_FD", self.xdp.fileno()), ("IFLA_XDP_FLAGS", int(XdpFlag.XDP_FLAGS_DRV_MODE))]
            netlink.link("set", index=self.ifindex(port), xdp={"attrs": attrs})

    def by_link(self, port: str, attach_type: AttachType) -> sys.Fd:
        program = self.xdp if attach_type is AttachType.BPF_XDP else self.tc
        with entered(self.net.dut.name):
            return sys.link_create(program, self.ifindex(port), attach_type)

    def by_filter(self, port: str) -> None:
        with self.net.dut.netlink() as netlink:
            netlink.tc("add", "clsact", self.ifindex(port))
            netlink.tc(
                "add-filter",
                "bpf",
                self.ifindex(port),
                fd=self.tc.fileno(),
                name="stranger.o:[tc]",
                parent=CLSACT_INGRESS,
                prio=7,
                direct_action=True,
            )


@pytest.fixture
def foreign(net: Network) -> Iterator[Foreign]:
    with load_object(read_object(compile_c(FOREIGN)), maps={}) as loaded:
        yield Foreign(net, loaded.programs["stranger"], loaded.programs["other"])


def untouched(machine: Host) -> None:
    """Nothing of the chain is there."""
    assert machine.name not in chains(bpffs_root())
    assert {name for name in machine.devices() if name.startswith("bc")} == set()


def test_a_foreign_xdp_program_is_named(machine: Host, foreign: Foreign) -> None:
    foreign.by_netlink("p2")
    before = descriptors()
    (found,) = machine.refused(guarded_bridge())
    prog_id = prog_info(foreign.xdp).id
    assert found.code == "A102"
    assert found.message == f"XDP of device `p2` is taken by program {prog_id} `stranger`"
    assert found.notes[0] == "attached as XDP by netlink"
    assert found.notes[1].startswith("loaded ")
    assert found.notes[1].endswith(" ago by user root")
    assert found.help == "take it off with the tool that put it there, or give the chain another device or `mode`"
    untouched(machine)
    assert descriptors() == before
    point = AttachPoint("p2", "p2", machine.namespace.name, Mode.NATIVE)
    assert [found.prog_id for found in occupants(point, foreign.ifindex("p2"))] == [prog_id]


def test_a_foreign_link_and_its_pin_are_named(machine: Host, foreign: Foreign) -> None:
    pin = bpffs_root() / f"stranger-{os.getpid()}"
    with foreign.by_link("p1", AttachType.BPF_XDP) as link:
        sys.obj_pin(link, pin)
        try:
            (found,) = machine.refused(bridge("generic"))
        finally:
            pin.unlink()
    assert found.notes[0].startswith("attached as XDP link ")
    assert found.notes[2] == f"pinned at {pin}"
    untouched(machine)


def test_foreign_programs_at_tc_are_named(machine: Host, foreign: Foreign) -> None:
    foreign.by_filter("p2")
    with foreign.by_link("p1", AttachType.BPF_TCX_INGRESS):
        found = machine.refused(bridge("tc"))
    prog_id = prog_info(foreign.tc).id
    assert [each.message for each in found] == [
        f"TC ingress of device `p1` is taken by program {prog_id} `other`",
        "TC ingress of device `p2` is taken by a program of someone else",
    ]
    assert found[1].notes == ("attached as TC filter `stranger.o:[tc]`",)
    untouched(machine)


def test_another_chain_is_no_stranger_but_stays(machine: Host, tmp_path: Path, net: Network) -> None:
    machine.apply(bridge())
    (tmp_path / "second").mkdir()
    with host(net.dut, tmp_path / "second") as second:
        found = second.refused(bridge())
        assert [each.code for each in found] == ["A102", "A102"]
        assert any(f"bpfchain/{machine.name}/generation-1/" in note for note in found[0].notes)
        assert second.name not in chains(bpffs_root())
    assert not machine.plan(bridge())


# --- kernels without links ------------------------------------------------------------------------------------------


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    has = features.has
    monkeypatch.setattr(features, "has", lambda feature: not feature.startswith("link:") and has(feature))


@pytest.mark.usefixtures("without_links")
@pytest.mark.parametrize("mode", ["native", "generic", "tc"])
def test_a_chain_without_links(mode: str, machine: Host, net: Network) -> None:
    machine.apply(guarded_bridge(mode))
    first = machine.footprint()
    assert not first.links
    assert {found.state for found in machine.status().interfaces} == {"attached"}
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1, p3=1) == {"p2": [frame(A, B)], "p3": [frame(A, B)]}
    assert not machine.plan(guarded_bridge(mode))

    changed = guarded_bridge(mode)
    changed["services"]["br0"]["fdb"] = {"aging": "70s"}
    assert machine.apply(changed).generation == 2
    eventually(lambda: len(first.left().progs), 0)
    net.send("p2", frame(B, A))
    assert net.arrivals(p1=1) == {"p1": [frame(B, A)]}

    second = machine.footprint()
    machine.detach()
    eventually(second.left, NOTHING)
    assert machine.qdiscs() == []
    net.send("p1", frame(A, B))
    assert net.arrivals() == {}


@pytest.mark.usefixtures("without_links")
def test_a_qdisc_that_was_there_before_stays(machine: Host, net: Network) -> None:
    with net.dut.netlink() as netlink:
        netlink.tc("add", "clsact", net.cables["p1"].port.ifindex)
    machine.apply(bridge("tc"))
    assert machine.qdiscs() == ["clsact", "clsact"]
    machine.detach()
    assert machine.qdiscs() == ["clsact"]


def test_owners_are_told_by_the_names_of_filters() -> None:
    owner = Owner("edge", "br0.up-tc", 17, made_qdisc=True)
    assert str(owner) == "bpfchain:edge:br0.up-tc:17:q"
    assert Owner.parse(str(owner)) == owner
    assert Owner.parse("bpfchain:edge:wan:17:") == Owner("edge", "wan", 17)
    assert Owner.parse("bpfchain:edge:wan:x:") is None
    assert Owner.parse("cil_from_netdev-eth0") is None


# --- devices --------------------------------------------------------------------------------------------------------


def make_anew(net: Network, port: str) -> None:
    """The device and its far end, as a driver that was loaded again makes them: under the old name."""
    with net.dut.netlink() as netlink:
        netlink.link("add", ifname=port, kind="veth", peer={"ifname": f"{port}-far"})
        for name in (port, f"{port}-far"):
            (ifindex,) = netlink.link_lookup(ifname=name)
            netlink.link("set", index=ifindex, state="up")


def test_a_device_that_goes_and_comes_back(machine: Host, net: Network) -> None:
    chain = machine.compiled(bridge(ports=("p1", "p2", "p3")))
    machine.apply(chain)
    with net.dut.netlink() as netlink:
        netlink.link("del", index=net.cables["p3"].port.ifindex)
    assert machine.status().problems == ("p3: device `p3` is gone",)
    net.send("p1", frame(A, B))  # the others go on
    assert net.wires["p2"].collect(1) == [frame(A, B)]
    (found,) = machine.refused(chain)
    assert found.code == "A101"
    assert found.message == "there is no device `p3`"
    assert found.notes[0] == "devices here: lo, p1, p2"

    make_anew(net, "p3")
    wanted = machine.plan(chain)
    (change,) = [change for change in wanted.changes if change.kind is Kind.ATTACH]
    assert change.reasons == ("the device was removed; it is back",)
    machine.apply(chain)
    assert machine.status().problems == ()
    assert not machine.plan(chain)


def test_an_internal_link_that_is_gone_is_made_again(machine: Host, net: Network) -> None:
    machine.apply(guarded_bridge())
    (end,) = [name for name in machine.devices() if name.startswith("bc") and name.endswith("a")]
    with net.dut.netlink() as netlink:
        netlink.link("del", index=netlink.link_lookup(ifname=end)[0])
    assert len(machine.status().problems) == 1
    machine.apply(guarded_bridge())
    assert machine.status().problems == ()
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1, p3=1) == {"p2": [frame(A, B)], "p3": [frame(A, B)]}


def test_internal_links_go_when_nothing_needs_them(machine: Host) -> None:
    machine.apply(guarded_bridge())
    assert len([name for name in machine.devices() if name.startswith("bc")]) == 2
    machine.apply(bridge(ports=("p1", "p2", "p3")))
    assert [name for name in machine.devices() if name.startswith("bc")] == []


def test_a_foreign_device_under_an_internal_links_name_stays(machine: Host, net: Network) -> None:
    chain = machine.compiled(guarded_bridge())
    machine.apply(chain)
    (end,) = [name for name in machine.devices() if name.startswith("bc") and name.endswith("a")]
    machine.detach()
    with net.dut.netlink() as netlink:
        netlink.link("add", ifname=end, kind="veth", peer={"ifname": f"{end[:-1]}b"})
    (found,) = machine.refused(chain)
    assert found.code == "A105"
    assert end in machine.devices()


# --- modes and namespaces -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "effect"),
    [
        ("native", "generic", Effect.INTERRUPTS),
        ("generic", "native", Effect.INTERRUPTS),
        ("native", "tc", Effect.SWAP),
        ("tc", "generic", Effect.SWAP),
    ],
)
def test_a_mode_changes(before: str, after: str, effect: Effect, machine: Host, net: Network) -> None:
    machine.apply(bridge(before))
    applied = machine.apply(bridge(after))
    changed = [change for change in applied.plan.changes if change.kind is Kind.ATTACH]
    assert [(change.effect, change.reasons) for change in changed] == [
        (effect, (f"{port} ({before}) → {port} ({after})",)) for port in ("p1", "p2")
    ]
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}
    for port in ("p1", "p2"):
        device = net.cables[port].port
        points = {mode: AttachPoint(port, port, net.dut.name, Mode(mode)) for mode in (before, after)}
        on_hook = {mode: len(occupants(point, device.ifindex)) for mode, point in points.items()}
        same_hook = points[before].mode.hook is points[after].mode.hook
        assert on_hook == {before: 1 if same_hook else 0, after: 1}
    with net.dut.netlink() as netlink:
        for port in ("p1", "p2"):
            xdp = netlink.link("get", index=net.cables[port].port.ifindex)[0].get_attr("IFLA_XDP")
            attached = {"native": "xdp", "generic": "xdpgeneric", "tc": None}[after]
            assert xdp.get_attr("IFLA_XDP_ATTACHED") == attached
    assert machine.status().problems == ()


@pytest.mark.parametrize("mode", ["native", "tc"])
def test_interfaces_in_a_named_namespace(mode: str, machine: Host, net: Network) -> None:
    """Applied from here, into there; `bridge` without a name is where the chain was applied."""
    chain = bridge(mode)
    for interface in chain["interfaces"].values():
        interface["netns"] = net.dut.name
    elsewhere = Host(net.cables["p1"].station.namespace, machine.folder, machine.name)
    elsewhere.apply(chain)
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}
    shown = status(machine.name)
    assert {found.netns for found in shown.interfaces} == {net.dut.name}
    assert shown.problems == ()
    assert not elsewhere.plan(chain)


@pytest.mark.parametrize("mode", ["native", "tc"])
def test_a_chain_is_known_from_another_namespace(mode: str, machine: Host, net: Network) -> None:
    machine.apply(guarded_bridge(mode))
    shown = status(machine.name)
    assert {found.netns for found in shown.interfaces} == {net.dut.name}
    assert shown.problems == ()
    footprint = machine.footprint()
    Host(net.cables["p1"].station.namespace, machine.folder, machine.name).detach()
    eventually(footprint.left, NOTHING)
    assert {name for name in machine.devices() if name.startswith("bc")} == set()


def test_a_namespace_that_does_not_exist(machine: Host) -> None:
    chain: dict[str, Any] = bridge()
    chain["interfaces"]["p1"]["netns"] = "no-such-namespace"
    (found,) = machine.refused(chain)
    assert found.code == "L150"
    assert found.message == "there is no network namespace `no-such-namespace`"
    assert socket.if_nameindex()
