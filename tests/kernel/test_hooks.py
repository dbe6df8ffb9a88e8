"""Hooks: kernels without links, devices that come and go, modes that change."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from runtime import features, veth
from runtime.attach import AttachPoint, Owner, occupants
from runtime.bpffs import bpffs_root
from runtime.pin import chains
from runtime.plan import Effect, Kind
from runtime.status import status
from schemas.manifest import Mode
from schemas.render import render
from tests.kernel.live import (
    NOTHING,
    A,
    B,
    Host,
    bridge,
    descriptors,
    frame,
    guarded_bridge,
)
from tests.rig.lab import Lab
from tests.rig.network import Network
from tests.rig.waiting import eventually

pytestmark = pytest.mark.kernel


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


def problem(machine: Host) -> str:
    (found,) = machine.status().problems
    return found


def test_a_device_that_was_made_anew(machine: Host, net: Network) -> None:
    machine.apply(bridge())
    with net.dut.netlink() as netlink:
        netlink.link("del", index=net.cables["p2"].port.ifindex)
        make_anew(net, "p2")
        (now,) = netlink.link_lookup(ifname="p2")
    assert problem(machine) == f"p2: device `p2` was removed, and is there again with ifindex {now}: apply again"
    machine.apply(bridge())
    assert machine.status().problems == ()
    assert not machine.plan(bridge())


def rename(net: Network, port: str, name: str) -> None:
    with net.dut.netlink() as netlink:
        netlink.link("set", index=net.cables[port].port.ifindex, ifname=name)


@pytest.mark.parametrize("mode", ["native", "generic", "tc"])
def test_a_device_that_is_renamed(mode: str, machine: Host, net: Network) -> None:
    """Its program goes with it; a chain that knows the new name swaps it there, without a gap."""
    machine.apply(bridge(mode))
    before = machine.footprint()
    rename(net, "p2", "lan0")
    assert problem(machine) == "p2: device `p2` was renamed to `lan0`"
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}
    (found,) = machine.refused(bridge(mode))
    assert found.message == "there is no device `p2`"
    assert found.notes[0] == "devices here: lan0, lo, p1, p3"

    renamed: dict[str, Any] = bridge(mode)
    renamed["interfaces"]["p2"]["device"] = "lan0"
    machine.apply(renamed)
    assert machine.footprint().links == before.links
    assert machine.status().problems == ()
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}

    rename(net, "p2", "p2")
    machine.apply(bridge(mode))
    assert machine.status().problems == ()


def test_a_renamed_device_and_another_one_in_its_place(machine: Host, net: Network) -> None:
    machine.apply(bridge())
    rename(net, "p2", "lan0")
    make_anew(net, "p2")
    with net.dut.netlink() as netlink:
        (now,) = netlink.link_lookup(ifname="p2")
    told = f"device `p2` was renamed to `lan0`; another device has its name, with ifindex {now}"
    assert problem(machine) == f"p2: {told}"
    (change,) = [change for change in machine.plan(bridge()).changes if change.kind is Kind.ATTACH]
    assert change.reasons == (told,)
    machine.apply(bridge())
    assert machine.status().problems == ()
    assert occupants(AttachPoint("p2", "lan0", net.dut.name, Mode.NATIVE), net.cables["p2"].port.ifindex) == ()


@pytest.mark.parametrize("mode", ["native", "tc"])
def test_a_device_that_moves_to_another_namespace(mode: str, machine: Host, net: Network) -> None:
    chain: dict[str, Any] = bridge(mode, ports=("p1", "p2", "p3"))
    machine.apply(chain)
    before = machine.footprint()
    index = net.cables["p3"].port.ifindex
    with Lab() as lab:
        elsewhere = lab.namespace("elsewhere")
        with net.dut.netlink() as netlink:
            netlink.link("set", index=index, net_ns_fd=elsewhere.name)
        where = f"network namespace `{elsewhere.name}`, where it is `p3`"
        assert problem(machine) == f"p3: device `p3` was moved to {where}"
        net.send("p1", frame(A, B))  # the others go on
        assert net.wires["p2"].collect(1) == [frame(A, B)]

        if mode == "native":  # TC cannot redirect between namespaces
            chain["interfaces"]["p3"]["netns"] = elsewhere.name
        with elsewhere.netlink() as netlink:
            back = {} if mode == "native" else {"net_ns_fd": net.dut.name}
            netlink.link("set", index=index, state="up", **back)
        machine.apply(chain)
        assert machine.status().problems == ()
        assert machine.footprint().links == before.links
        machine.detach()


def test_a_device_that_was_elsewhere_for_a_while(machine: Host, net: Network) -> None:
    """Its program stayed with it, and yet nothing is sent to it: the kernel emptied its slot in the devmap."""
    machine.apply(bridge())
    index = net.cables["p2"].port.ifindex
    with Lab() as lab:
        elsewhere = lab.namespace("elsewhere")
        with net.dut.netlink() as netlink:
            netlink.link("set", index=index, net_ns_fd=elsewhere.name)
        with elsewhere.netlink() as netlink:
            netlink.link("set", index=index, net_ns_fd=net.dut.name)
    with net.dut.netlink() as netlink:
        netlink.link("set", index=index, state="up")
    lost = "nothing is sent to it any more since its device was elsewhere for a while: apply again"
    assert problem(machine) == f"p2: {lost}"
    changes = [change for change in machine.plan(bridge()).changes if change.kind is Kind.SLOTS]
    assert {reason for change in changes for reason in change.reasons} == {
        "`p2` has left it: its device was removed or moved"
    }
    machine.apply(bridge())
    assert machine.status().problems == ()
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}


WITHOUT_NATIVE_XDP = """\
error[A104]: the kernel refuses the program on mac0 (native): SAID (ENOTSUP)
  = note: the device's driver cannot do it
  = help: set `mode: generic` or `mode: tc` for this interface
"""
MTU_TOO_LARGE = """\
error[A104]: the kernel refuses the program on p2 (native): veth: Peer MTU is too large to set XDP (ERANGE)
  = note: the MTU is too large for native XDP
  = help: set `mode: generic` or `mode: tc` for this interface
"""


@pytest.mark.parametrize("mode", ["generic", "tc"])
def test_a_device_without_native_xdp(mode: str, machine: Host, net: Network) -> None:
    with net.dut.netlink() as netlink:
        netlink.link("add", ifname="mac0", kind="macvlan", link=net.cables["p2"].port.ifindex)
        netlink.link("set", index=netlink.link_lookup(ifname="mac0")[0], state="up")
    chain: dict[str, Any] = bridge()
    chain["interfaces"]["p2"]["device"] = "mac0"
    before, said = descriptors(), "Underlying driver does not support XDP in native mode"
    assert render(machine.refused(chain), {}, "text") == WITHOUT_NATIVE_XDP.replace("SAID", said)
    assert machine.name not in chains(bpffs_root())
    assert descriptors() == before
    chain["interfaces"]["p2"]["mode"] = mode
    machine.apply(chain)
    assert machine.status().problems == ()


def test_an_mtu_that_is_too_large_for_native_xdp(machine: Host, net: Network) -> None:
    for device in (net.cables["p2"].port, net.cables["p2"].station):
        with device.namespace.netlink() as netlink:
            netlink.link("set", index=device.ifindex, mtu=9000)
    assert render(machine.refused(bridge()), {}, "text") == MTU_TOO_LARGE
    assert machine.name not in chains(bpffs_root())


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


def test_an_internal_link_that_cannot_be_made_whole_leaves_nothing(
    machine: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, netns: str | None) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)

    monkeypatch.setattr(veth, "_silence", refuse)
    (found,) = machine.refused(guarded_bridge())
    assert found.message.startswith("`make internal link br0.up-xdp` failed: [Errno 13] Permission denied: 'bc")
    assert [name for name in machine.devices() if name.startswith("bc")] == []
    assert machine.name not in chains(bpffs_root())


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
