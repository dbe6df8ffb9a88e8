"""Hooks that somebody else is on: refused by name, taken over when told so, and left alone where nobody said so."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime import attach, features, sys
from runtime.apply import apply
from runtime.attach import AttachPoint, Filter, Holder, Occupant
from runtime.bpffs import bpffs_root
from runtime.cli import commands
from runtime.foreign import describe, stranger
from runtime.info import link_by_id, link_info, prog_info
from runtime.load import load_object
from runtime.netns import entered
from runtime.object import read_object
from runtime.pin import chains
from runtime.steps import Step
from runtime.uapi import AttachType
from schemas.compiled import save
from schemas.diagnostic import LoadFailed
from schemas.manifest import Mode
from schemas.render import render
from tests.clang.c import compile_c
from tests.kernel.live import Host, bridge, descriptors, forwards, guarded_bridge, host
from tests.kernel.strangers import CASES, FOREIGN, Case, Foreign
from tests.rig.network import Network
from tests.rig.waiting import eventually

pytestmark = pytest.mark.kernel

PORTS = ("p1", "p2")


@pytest.fixture
def pinned(foreign: Foreign) -> Iterator[Path]:
    """The foreign XDP program's pin."""
    pin = bpffs_root() / f"stranger-{os.getpid()}"
    sys.obj_pin(foreign.xdp, pin)
    yield pin
    pin.unlink()


def untouched(machine: Host) -> None:
    """Nothing of the chain is there."""
    assert machine.name not in chains(bpffs_root())
    assert {name for name in machine.devices() if name.startswith("bc")} == set()


def take_over(machine: Host, foreign: Foreign, port: str, prog_id: int, mode: str = "native") -> None:
    with entered(machine.namespace.name):
        apply(machine.compiled(bridge(mode)), replace=[(port, prog_id)])


# --- refused --------------------------------------------------------------------------------------------------------

REFUSED = """\
error[A102]: XDP of device `p2` is taken by program ID `stranger`
  = note: attached as XDP by netlink
  = note: loaded AGE ago by user root
  = note: pinned at PIN
  = help: take it off with the tool that put it there, or have it replaced: `bpfchain apply --replace p2=ID`
"""


def test_a_program_that_ip_put_there_is_named(machine: Host, net: Network, foreign: Foreign, pinned: Path) -> None:
    with entered(net.dut.name):
        subprocess.run(["ip", "link", "set", "dev", "p2", "xdp", "pinned", str(pinned)], check=True)
    before = descriptors()
    text = render(machine.refused(guarded_bridge()), {}, "text")
    shown = text.replace(str(foreign.xdp_id), "ID").replace(str(pinned), "PIN")
    assert re.sub(r"loaded .* ago", "loaded AGE ago", shown) == REFUSED
    untouched(machine)
    assert descriptors() == before
    assert foreign.on("p2", Mode.NATIVE) == (Occupant(foreign.xdp_id, Holder.XDP_NETLINK, Mode.NATIVE),)


def test_a_foreign_link_and_its_pin_are_named(machine: Host, foreign: Foreign, pinned: Path) -> None:
    with foreign.by_link("p1", AttachType.BPF_XDP) as link:
        (found,) = machine.refused(bridge("generic"))
        assert found.notes[0] == f"attached as XDP link {link_info(link).id}"
    assert found.notes[2] == f"pinned at {pinned}"
    assert found.notes[3] == ("replacing it interrupts traffic: it is native XDP, and a device has one mode at a time")
    untouched(machine)


def test_a_process_that_holds_the_program_is_named(machine: Host, foreign: Foreign) -> None:
    foreign.by_netlink("p1")
    with subprocess.Popen(["sleep", "60"], pass_fds=[foreign.xdp.fileno()]) as other:
        try:
            (found,) = machine.refused(bridge())
        finally:
            other.kill()
    assert found.notes[2] == f"held open by `sleep` (pid {other.pid})"


def test_foreign_programs_at_tc_are_named(machine: Host, foreign: Foreign) -> None:
    foreign.by_filter("p2")
    with foreign.by_link("p1", AttachType.BPF_TCX_INGRESS):
        found = machine.refused(bridge("tc"))
    assert [each.message for each in found] == [
        f"TC ingress of device `{port}` is taken by program {foreign.tc_id} `other`" for port in PORTS
    ]
    assert found[1].notes[0] == "attached as TC filter `stranger.o:[tc]`"
    untouched(machine)


def test_a_filter_without_a_program_is_never_replaced() -> None:
    """This kernel has no classifier but bpf: the finding alone, then."""
    flower = Filter("flower", "flower", 3 << 16, 1, 0)
    found = describe(
        stranger(AttachPoint("wan", "eth0", None, Mode.TC), Occupant(0, Holder.FILTER, Mode.TC, filter=flower))
    )
    assert found.message == "TC ingress of device `eth0` is taken by a program of someone else"
    assert found.notes == ("attached as TC filter `flower`",)
    assert found.help == "take it off with the tool that put it there, or give the chain another device or `mode`"


def test_another_chain_is_no_stranger_but_stays(machine: Host, tmp_path: Path, net: Network) -> None:
    machine.apply(bridge())
    (tmp_path / "second").mkdir()
    with host(net.dut, tmp_path / "second") as second:
        found = second.refused(bridge())
        assert [each.code for each in found] == ["A102", "A102"]
        assert any(f"bpfchain/{machine.name}/generation-1/" in note for note in found[0].notes)
        assert second.name not in chains(bpffs_root())
    assert not machine.plan(bridge())


# --- taken over -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_hook_is_taken_over_and_not_given_back(case: Case, machine: Host, foreign: Foreign) -> None:
    link = case.put(foreign)
    mode = Mode(case.mode)
    (there,) = foreign.on("p2", mode)
    take_over(machine, foreign, "p2", there.prog_id, case.mode)
    (now,) = foreign.on("p2", mode)
    assert now.holder is case.holder
    assert now.prog_id in machine.footprint().progs
    assert (now.link_id == there.link_id != 0) == (case.put is CASES["link"].put or case is CASES["generic link"])
    if link:
        link.close()  # whoever made it may go: the hook is ours
    forwards(foreign.net, "p2")
    assert machine.status().problems == ()
    assert not machine.plan(bridge(case.mode))

    before = machine.footprint()
    assert machine.apply(bridge(case.mode, aging="9s")).generation == 2
    eventually(lambda: len(before.left().progs), 0)
    forwards(foreign.net, "p2")
    machine.detach()
    assert foreign.on("p2", mode) == ()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_apply_that_fails_gives_the_hook_back(case: Case, machine: Host, foreign: Foreign) -> None:
    link = case.put(foreign)
    there = foreign.on("p2", Mode(case.mode))
    compiled, before = machine.compiled(bridge(case.mode)), descriptors()

    def fail_at_the_end(step: Step) -> None:
        if step.title == "finish the new generation":
            raise LoadFailed

    with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught:
        apply(compiled, replace=[("p2", there[0].prog_id)], on_step=fail_at_the_end)
    now = foreign.on("p2", Mode(case.mode))
    if case is CASES["link in another mode"]:
        assert now == (Occupant(there[0].prog_id, Holder.XDP_NETLINK, Mode.NATIVE),)
        (problem,) = caught.value.diagnostics
        back = f"program {there[0].prog_id} is on `p2` again, by netlink: its link cannot be restored"
        assert (problem.code, problem.message) == ("A108", back)
    else:
        assert now == there
        assert caught.value.diagnostics == ()
    untouched(machine)
    assert descriptors() == before
    if link:
        link.close()


def test_a_filter_before_ours_does_not_keep_it_from_going_back(
    machine: Host, foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = features.has
    monkeypatch.setattr(features, "has", lambda feature: not feature.startswith("link:") and has(feature))
    first = machine.compiled(bridge("tc"))
    machine.apply(first)
    running = {found.prog_id for found in foreign.on("p1", Mode.TC)}
    foreign.by_filter("p1", beside_ours=True)
    assert [found.prog_id in running for found in foreign.on("p1", Mode.TC)] == [False, True]

    def fail_at_the_end(step: Step) -> None:
        if step.title == "finish the new generation":
            raise LoadFailed

    with pytest.raises(LoadFailed):
        machine.apply(bridge("tc", aging="9s"), fail_at_the_end)
    assert {found.prog_id for found in foreign.on("p1", Mode.TC)} == running | {foreign.tc_id}
    assert not machine.plan(first)


NOT_TAKEN_OFF = """\
warning[A114]: the chain runs, but tidying up is not done: `take program ID off p1 (tc)` failed: \
BPF_LINK_DETACH: Cannot allocate memory (ENOMEM)
  = help: take it off by hand: the chain's program comes before it
"""


def test_what_cannot_be_taken_off_keeps_nothing_else_from_being_done(
    machine: Host, foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.apply(bridge())
    links = [foreign.by_link(port, AttachType.BPF_TCX_INGRESS) for port in PORTS]
    evict = attach.evict

    def fail_at_p1(point: AttachPoint, ifindex: int, found: Occupant) -> None:
        if point.device == "p1":
            raise sys.SyscallFailed(errno.ENOMEM, "BPF_LINK_DETACH")
        evict(point, ifindex, found)

    monkeypatch.setattr(attach, "evict", fail_at_p1)
    with entered(machine.namespace.name):
        applied = apply(machine.compiled(bridge("tc")), replace=[(port, foreign.tc_id) for port in PORTS])
    shown = NOT_TAKEN_OFF.replace("ID", str(foreign.tc_id), 1)
    assert render(applied.warnings, {}, "text") == shown
    assert [len(foreign.on(port, Mode.TC)) for port in PORTS] == [2, 1]
    assert machine.generations() == ["generation-2"]
    for link in links:
        link.close()


def test_several_programs_of_a_hook_are_named_one_by_one(machine: Host, foreign: Foreign) -> None:
    foreign.by_filter("p1")
    with load_object(read_object(compile_c(FOREIGN)), maps={}) as more:
        second = Foreign(foreign.net, more.programs["stranger"], more.programs["other"])
        with second.by_link("p1", AttachType.BPF_TCX_INGRESS), entered(machine.namespace.name):
            with pytest.raises(LoadFailed) as caught:
                apply(machine.compiled(bridge("tc")), replace=[("p1", foreign.tc_id)])
            (found,) = caught.value.diagnostics
            assert found.message == f"TC ingress of device `p1` is taken by program {second.tc_id} `other`"
            assert found.notes[-1] == f"`--replace` names program {foreign.tc_id} there"
            assert len(foreign.on("p1", Mode.TC)) == 2
            apply(machine.compiled(bridge("tc")), replace=[("p1", foreign.tc_id), ("p1", second.tc_id)])
    assert [found.holder for found in foreign.on("p1", Mode.TC)] == [Holder.TCX_LINK]
    forwards(foreign.net, "p2")


@pytest.mark.parametrize("held_by", ["netlink", "link"])
def test_only_the_program_that_was_named_is_replaced(held_by: str, machine: Host, foreign: Foreign) -> None:
    """It is another one when the hook is about to change hands: the kernel compares, and nothing happens."""
    link = CASES[held_by].put(foreign)
    named = foreign.xdp_id
    with load_object(read_object(compile_c(FOREIGN)), maps={}) as more:
        newer = more.programs["stranger"]

        def change(step: Step) -> None:
            if step.title != "take over p2 (native)":
                return
            if link:
                sys.link_update(link, newer)
            else:
                foreign.by_netlink("p2", program=newer)

        compiled = machine.compiled(bridge())
        with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught:
            apply(compiled, replace=[("p2", named)], on_step=change)
        (found,) = caught.value.diagnostics
        assert found.code == "A104"
        assert found.notes == ("another program is there",)
        assert [each.prog_id for each in foreign.on("p2", Mode.NATIVE)] == [prog_info(newer).id]
        untouched(machine)
    if link:
        link.close()


def test_a_device_that_the_chain_does_not_have(machine: Host) -> None:
    with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught:
        apply(machine.compiled(bridge()), replace=[("eth7", 17)])
    (found,) = caught.value.diagnostics
    assert found.code == "A113"
    assert found.message == "`--replace eth7=17`: the chain has no interface on device `eth7`"
    assert found.notes == ("devices of the chain: p1, p2",)
    untouched(machine)


def test_replace_from_the_command_line(machine: Host, foreign: Foreign, tmp_path: Path) -> None:
    foreign.by_netlink("p2")
    save(machine.compiled(bridge()), tmp_path / "out")
    command = next(command for command in commands if command.name == "apply")
    with entered(machine.namespace.name):
        wrong = CliRunner().invoke(command, [str(tmp_path / "out"), "--replace", "p2"])
        right = CliRunner().invoke(command, [str(tmp_path / "out"), "--replace", f"p2={foreign.xdp_id}"])
    assert wrong.exit_code == 2
    assert "`p2` is not a device and a program's id, like eth0=17" in wrong.output
    assert right.exit_code == 0, right.output
    forwards(foreign.net, "p2")


# --- left alone -----------------------------------------------------------------------------------------------------


def test_detach_leaves_what_others_attached_since(machine: Host, foreign: Foreign) -> None:
    machine.apply(bridge("tc"))
    foreign.by_filter("p1")
    foreign.without_a_link("p2")
    with foreign.by_link("p1", AttachType.BPF_TCX_INGRESS):
        machine.apply(bridge("tc", aging="9s"))
        machine.detach()
        assert {found.holder for found in foreign.on("p1", Mode.TC)} == {Holder.FILTER, Holder.TCX_LINK}
    assert [found.holder for found in foreign.on("p2", Mode.TC)] == [Holder.TCX]


def test_a_link_of_ours_that_runs_a_foreign_program_is_no_longer_ours(machine: Host, foreign: Foreign) -> None:
    machine.apply(bridge())
    (there,) = foreign.on("p2", Mode.NATIVE)
    with link_by_id(there.link_id) as link:
        sys.link_update(link, foreign.xdp)
        assert machine.status().problems == ("p2: nothing of this chain is attached any more",)
        (found,) = machine.refused(bridge())
        assert found.message == f"XDP of device `p2` is taken by program {foreign.xdp_id} `stranger`"
        machine.detach()
        assert [found.prog_id for found in foreign.on("p2", Mode.NATIVE)] == [foreign.xdp_id]
    assert foreign.on("p2", Mode.NATIVE) == ()
