"""Hooks that a try takes over from others: theirs again when it is taken back, ours only when it is confirmed."""

from __future__ import annotations

import contextlib
import errno
import functools
import subprocess
import sys as python
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from runtime import attach, sys
from runtime.attach import Holder, Occupant
from runtime.bpffs import bpffs_root
from runtime.guard import WAITING, End, Order, Outcome, guard
from runtime.info import prog_by_id
from runtime.netns import entered
from runtime.pin import chain_pins, chains
from runtime.plan_text import plan_data
from runtime.state import read
from runtime.steps import Step
from runtime.trying import abort, begin, cannot_be_undone, confirm
from runtime.uapi import AttachType
from schemas.compiled import CompiledChain, save
from schemas.diagnostic import LoadFailed
from schemas.manifest import Mode
from schemas.render import render
from tests.kernel.faults import killed_at_step
from tests.kernel.live import Host, bridge, descriptors, forwards
from tests.kernel.strangers import CASES, Case, Foreign, strangers
from tests.rig.network import Network
from tests.rig.waiting import eventually

pytestmark = pytest.mark.kernel

LONG = timedelta(seconds=60)
SHORT = timedelta(seconds=0.05)


def tried(machine: Host, chain: dict[str, Any], prog_id: int, lock: contextlib.ExitStack) -> None:
    with entered(machine.namespace.name):
        _, trial = begin(machine.compiled(chain), LONG, lock, replace=[("p2", prog_id)])
    assert trial


def as_it_was(case: Case, before: tuple[Occupant, ...]) -> tuple[Occupant, ...]:
    """What there has to be again: a link that had to leave comes back without one."""
    if case is CASES["link in another mode"]:
        return (Occupant(before[0].prog_id, Holder.XDP_NETLINK, Mode.NATIVE),)
    return before


def nothing_is_kept(machine: Host) -> None:
    assert {path.name for path in chain_pins(bpffs_root(), machine.name).path.glob("trial*")} == set()


@pytest.mark.parametrize("case", [CASES[name] for name in CASES if "generic" not in name])
def test_taken_back_the_hook_is_theirs_again(case: Case, machine: Host, foreign: Foreign) -> None:
    """Beside hooks that the chain had, and where nothing ran before."""
    link, mode = case.put(foreign), Mode(case.mode)
    there = foreign.on("p2", mode)
    before = descriptors()
    for running in (bridge(case.mode, ports=("p1", "p3")), None):
        if running:
            machine.apply(running)
        with contextlib.ExitStack() as lock:
            tried(machine, bridge(case.mode), foreign.on("p2", mode)[0].prog_id, lock)
            forwards(foreign.net, "p2")
            assert machine.status().problems == ()
        with entered(machine.namespace.name):
            abort(machine.name)
        assert foreign.on("p2", mode) == as_it_was(case, there)
        if running:
            assert not machine.plan(running)
            assert machine.status().problems == ()
            nothing_is_kept(machine)
            machine.detach()
        assert machine.name not in chains(bpffs_root())
    assert descriptors() == before
    if link:
        link.close()


@pytest.mark.parametrize("name", ["netlink", "link", "link in another mode", "TCX link", "filter"])
def test_confirmed_the_hook_is_ours(name: str, machine: Host, foreign: Foreign) -> None:
    case = CASES[name]
    link, mode = case.put(foreign), Mode(case.mode)
    (there,) = foreign.on("p2", mode)
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(case.mode), there.prog_id, lock)
        assert (there in foreign.on("p2", mode)) == (mode is Mode.TC)  # it stands behind ours, and sees nothing
        forwards(foreign.net, "p2")
    with entered(machine.namespace.name):
        confirm(machine.name)
    (now,) = foreign.on("p2", mode)
    assert now.holder is case.holder
    assert now.prog_id in machine.footprint().progs
    forwards(foreign.net, "p2")
    nothing_is_kept(machine)
    assert not machine.plan(bridge(case.mode))
    if link:
        link.close()


def test_whoever_put_it_there_may_be_gone(machine: Host, net: Network) -> None:
    """The program of somebody else lives until the try is over, and longer if it is taken back."""
    with strangers(net) as foreign:
        foreign.by_netlink("p2")
        theirs = foreign.xdp_id
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(), theirs, lock)
    with entered(machine.namespace.name):
        abort(machine.name)
    with strangers(net) as same:
        assert same.on("p2", Mode.NATIVE) == (Occupant(theirs, Holder.XDP_NETLINK, Mode.NATIVE),)
        with contextlib.ExitStack() as lock:
            tried(machine, bridge(), theirs, lock)
        with entered(machine.namespace.name):
            confirm(machine.name)
    eventually(lambda: _is_alive(theirs), False)


def _is_alive(prog_id: int) -> bool:
    try:
        prog_by_id(prog_id).close()
    except sys.SyscallFailed:
        return False
    return True


def test_a_link_that_its_maker_detached_meanwhile_stays_so(machine: Host, foreign: Foreign) -> None:
    machine.apply(bridge(ports=("p1", "p3")))
    with foreign.by_link("p2", AttachType.BPF_XDP) as link, contextlib.ExitStack() as lock:
        tried(machine, bridge(), foreign.xdp_id, lock)
        sys.link_detach(link)
        with entered(machine.namespace.name):
            abort(machine.name)
        assert foreign.on("p2", Mode.NATIVE) == ()
    assert not machine.plan(bridge(ports=("p1", "p3")))


def test_who_came_meanwhile_stays(machine: Host, foreign: Foreign) -> None:
    """A third program is on the hook when the second is to give it back to the first."""
    foreign.by_netlink("p2")
    machine.apply(bridge(ports=("p1", "p3")))
    with strangers(foreign.net) as third, contextlib.ExitStack() as lock:
        tried(machine, bridge(), foreign.xdp_id, lock)
        third.by_netlink("p2")
        with entered(machine.namespace.name):
            abort(machine.name)
        assert [found.prog_id for found in foreign.on("p2", Mode.NATIVE)] == [third.xdp_id]
    assert not machine.plan(bridge(ports=("p1", "p3")))
    foreign.by_netlink("p2", program=None)


def test_detached_nothing_is_given_back(machine: Host, foreign: Foreign) -> None:
    foreign.by_netlink("p2")
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(), foreign.xdp_id, lock)
        machine.detach()
    assert foreign.on("p2", Mode.NATIVE) == ()
    assert machine.name not in chains(bpffs_root())


def confirmed(machine: Host, on_step: Callable[[Step], None]) -> None:
    with entered(machine.namespace.name):
        confirm(machine.name, on_step=on_step)


@pytest.mark.parametrize("name", ["TCX link", "TCX without a link", "link"])
def test_a_detach_ends_what_a_confirm_that_was_killed_had_begun(name: str, machine: Host, net: Network) -> None:
    """With its first step it is decided that the others go. Until then a try at TC only stands before them."""
    case = CASES[name]
    mode = Mode(case.mode)

    def detached(confirming: Callable[[], object]) -> bool:
        """Whether somebody else is on the hook when a chain is detached right after."""
        with strangers(net) as foreign, case.put(foreign) or contextlib.nullcontext():
            (there,) = foreign.on("p2", mode)
            with contextlib.ExitStack() as lock:
                tried(machine, bridge(case.mode), there.prog_id, lock)
            confirming()
            assert machine.detach() == ()
            assert machine.name not in chains(bpffs_root())
            left = foreign.on("p2", mode)
            assert left in ((), (there,))
            return bool(left)

    confirming = functools.partial(confirmed, machine)
    steps: list[Step] = []
    assert not detached(lambda: confirmed(machine, steps.append))
    assert steps[0].title == "keep what is tried"
    for number in range(1, len(steps)):
        assert not detached(functools.partial(killed_at_step, confirming, number)), number
    assert detached(functools.partial(killed_at_step, confirming, 0)) == (mode is Mode.TC)


NOT_TAKEN_OFF = """\
warning[A114]: the chain is detached, but tidying up is not done: `take program ID off p2 (tc)` failed: \
BPF_LINK_DETACH: Cannot allocate memory (ENOMEM)
  = help: take it off by hand, if it is not to be there
"""


def test_what_a_detach_cannot_take_off_is_told(
    machine: Host, foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    with foreign.by_link("p2", AttachType.BPF_TCX_INGRESS):
        with contextlib.ExitStack() as lock:
            tried(machine, bridge("tc"), foreign.tc_id, lock)
        killed_at_step(functools.partial(confirmed, machine), 1)

        def refused(*_: object) -> None:
            raise sys.SyscallFailed(errno.ENOMEM, "BPF_LINK_DETACH")

        monkeypatch.setattr(attach, "evict", refused)
        told = render(machine.detach(), {}).replace(str(foreign.tc_id), "ID")
        assert told == NOT_TAKEN_OFF
        assert [found.prog_id for found in foreign.on("p2", Mode.TC)] == [foreign.tc_id]
    assert machine.name not in chains(bpffs_root())


def test_a_try_is_refused_like_an_apply(machine: Host, foreign: Foreign) -> None:
    foreign.by_netlink("p2")
    with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught, contextlib.ExitStack() as lock:
        begin(machine.compiled(bridge()), LONG, lock, replace=[("p1", foreign.xdp_id)])
    assert [found.code for found in caught.value.diagnostics] == ["A102"]
    assert machine.name not in chains(bpffs_root())


# --- who dies, and what fails ---------------------------------------------------------------------------------------


def guarded(machine: Host, chain: CompiledChain, prog_id: int, require: str | None, on_step: Any = None) -> Outcome:
    """A try in this process: with a required command it is kept, without it is over at once."""
    order = Order(chain, LONG if require else SHORT, require, replace=(("p2", prog_id),))
    with entered(machine.namespace.name):
        return guard(order, on_step=on_step, log_directory=machine.folder)


def killed_at(machine: Host, chain: CompiledChain, prog_id: int, number: int) -> None:
    """A guard in a child process that dies in the place of step `number`."""
    killed_at_step(lambda on_step: guarded(machine, chain, prog_id, None, on_step), number)


@pytest.mark.parametrize("name", ["link", "netlink in another mode"])
def test_a_guard_that_is_killed_at_any_step_gives_the_hook_back_in_the_end(
    name: str, machine: Host, foreign: Foreign
) -> None:
    case = CASES[name]
    link, mode = case.put(foreign), Mode(case.mode)
    there = foreign.on("p2", mode)
    running, wanted = machine.compiled(bridge(case.mode, ports=("p1", "p3"))), machine.compiled(bridge(case.mode))
    machine.apply(running)
    steps: list[str] = []
    assert guarded(machine, wanted, there[0].prog_id, None, lambda step: steps.append(step.title)).end is End.TAKEN_BACK
    assert f"give p2 ({mode}) back" in steps
    told, back = (
        steps.index("say what is being tried"),
        steps.index("finish the way back"),
    )
    for number, title in list(enumerate(steps))[told : back + 2]:
        killed_at(machine, wanted, there[0].prog_id, number)
        live = read(bpffs_root(), machine.name)
        if live and live.trial and number % 2:
            with entered(machine.namespace.name):
                abort(machine.name)
        machine.apply(running)
        assert foreign.on("p2", mode) == there, title
        assert machine.status().problems == (), title
        assert len(machine.generations()) == 1, title
        nothing_is_kept(machine)
    if link:
        link.close()


class Stopped(Exception):
    """Raised by a test in the place of a step."""


@pytest.mark.parametrize("name", ["link", "link in another mode"])
def test_a_try_that_fails_at_any_step_gives_the_hook_back(name: str, machine: Host, foreign: Foreign) -> None:
    case = CASES[name]
    link, mode = case.put(foreign), Mode(case.mode)
    (there,) = foreign.on("p2", mode)
    running, wanted = machine.compiled(bridge(case.mode, ports=("p1", "p3"))), machine.compiled(bridge(case.mode))
    machine.apply(running)
    steps: list[str] = []
    guarded(machine, wanted, there.prog_id, None, lambda step: steps.append(step.title))
    expected = as_it_was(case, (there,))
    for number in range(steps.index("say what is being tried"), steps.index(WAITING)):
        titles: list[str] = []

        def on_step(step: Step, titles: list[str] = titles, number: int = number) -> None:
            if len(titles) == number:
                raise Stopped
            titles.append(step.title)

        with pytest.raises(Stopped):
            guarded(machine, wanted, there.prog_id, None, on_step)
        assert foreign.on("p2", mode) == expected, steps[number]
        assert machine.status().problems == (), steps[number]
        assert not machine.plan(running), steps[number]
        nothing_is_kept(machine)
    if link:
        link.close()


# --- from the command line ------------------------------------------------------------------------------------------


def test_from_the_command_line(machine: Host, foreign: Foreign, tmp_path: Path) -> None:
    """The plan no longer shows as taken what is to be replaced."""
    save(machine.compiled(bridge("generic")), tmp_path / "out")
    command = [python.executable, "-m", "bpfchain", "try", str(tmp_path / "out"), "--timeout", "1"]
    with foreign.by_link("p2", AttachType.BPF_XDP), entered(machine.namespace.name):
        refused, taken = (
            subprocess.run([*command, *more], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
            for more in ([], ["--replace", f"p2={foreign.xdp_id}"])
        )
        assert refused.returncode == 1
        assert "taken by others" in refused.stdout
        assert f"  ! p2  program {foreign.xdp_id} `stranger`" in refused.stdout
        assert refused.stderr.splitlines()[1].startswith("error[A102]: XDP of device `p2` is taken by program")
        assert taken.returncode == 4, taken.stderr
        assert "taken by others" not in taken.stdout
        beforehand = "going back does not undo everything: "
        told = [line.removeprefix(beforehand) for line in taken.stderr.splitlines() if line.startswith(beforehand)]
        assert told[1:] == [
            f"program {foreign.xdp_id} `stranger` on p2: traffic is interrupted now, and when going back",
            f"program {foreign.xdp_id} `stranger` on p2: its link is detached for good, it comes back by netlink",
        ]
        assert taken.stderr.endswith(f"chain {machine.name}: rolled back: it was not confirmed within 1 s\n")
        assert [found.prog_id for found in foreign.on("p2", Mode.NATIVE)] == [foreign.xdp_id]


# --- said beforehand ------------------------------------------------------------------------------------------------


def test_what_going_back_does_not_undo_is_said_beforehand(machine: Host, foreign: Foreign) -> None:
    with foreign.by_link("p2", AttachType.BPF_XDP):
        plan = machine.plan(bridge("generic"))
        told = list(cannot_be_undone(plan, [("p2", foreign.xdp_id)]))
        assert told[1:] == [
            f"program {foreign.xdp_id} `stranger` on p2: traffic is interrupted now, and when going back",
            f"program {foreign.xdp_id} `stranger` on p2: its link is detached for good, it comes back by netlink",
        ]
        assert list(cannot_be_undone(plan)) == told[:1]
        assert list(cannot_be_undone(machine.plan(bridge()), [("p2", foreign.xdp_id)])) == told[:1]


def test_a_plan_shows_who_is_on_the_hooks(machine: Host, foreign: Foreign) -> None:
    foreign.by_filter("p2")
    with foreign.by_link("p1", AttachType.BPF_TCX_INGRESS) as link:
        plan = machine.plan(bridge("tc"))
        text = str(plan)
        (first, second) = plan_data(plan)["taken"]
        assert (
            f"  ! p1  program {foreign.tc_id} `other`, attached as TCX link {first['attached'].split()[-1]}, loaded "
            in text
        )
        assert f"      `--replace p1={foreign.tc_id}` takes it over\n" in text
        assert (second["attached"], second["replace"]) == ("TC filter `stranger.o:[tc]`", f"p2={foreign.tc_id}")
        assert first["program"] == {"id": foreign.tc_id, "name": "other"}
        assert (first["loaded_by"], first["interrupts"], first["chain"]) == (0, False, None)
        assert str(plan.granting([("p1", foreign.tc_id), ("p2", foreign.tc_id)])).count("!") == 0
        link.close()
    machine.apply(bridge("generic"))
    assert plan_data(machine.plan(bridge("generic", aging="9s")))["taken"] == []
    foreign.by_netlink("p3")
    (found,) = machine.plan(bridge("generic", ports=("p1", "p2", "p3"))).taken
    assert found.interrupts
