"""Chains that are tried: kept when confirmed, taken back when not, whoever dies meanwhile; and traffic never stops."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import pty
import select
import signal
import subprocess
import sys as python
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from runtime import attach, trying
from runtime.bpffs import bpffs_root, locked
from runtime.frozen import write_frozen
from runtime.guard import WAITING, End, Order, Outcome, guard
from runtime.netns import entered
from runtime.pin import chain_pins, chains
from runtime.plan import Action, Change, Effect, Fate, Kind, Way
from runtime.state import read
from runtime.steps import Step
from runtime.trial import guarding, is_guarded, read_trial
from runtime.trying import Decided, abort, begin, cannot_be_undone, confirm
from schemas.compiled import CompiledChain, save
from schemas.diagnostic import ChainError, LoadFailed
from schemas.render import render
from tests.kernel.faults import KILLED, killed_at_step
from tests.kernel.live import (
    NOTHING,
    A,
    B,
    Footprint,
    Host,
    bridge,
    changed,
    descriptors,
    forwards,
    frame,
    guarded_bridge,
    host,
    ipv4,
)
from tests.kernel.live import (
    guard as guard_chain,
)
from tests.rig.daemon import own_bpffs
from tests.rig.network import Network
from tests.rig.waiting import PATIENCE_SECONDS, eventually, until

pytestmark = pytest.mark.kernel

LONG = timedelta(seconds=60)
SHORT = timedelta(seconds=0.05)


@dataclass(frozen=True, slots=True)
class Terminal:
    """Commands on a machine, as somebody types them."""

    machine: Host

    def directory(self, name: str, chain: Mapping[str, Any]) -> Path:
        folder = self.machine.folder / name
        save(self.machine.compiled(chain), folder)
        return folder

    def start(self, *arguments: object, **more: Any) -> subprocess.Popen[str]:
        command = [python.executable, "-m", "bpfchain", *map(str, arguments)]
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        with entered(self.machine.namespace.name):
            return subprocess.Popen(command, cwd=Path(__file__).parents[2], text=True, **more)

    def run(self, *arguments: object) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, out, err

    def is_tried(self) -> bool:
        """Whether a try has begun and all of it runs."""
        live = read(bpffs_root(), self.machine.name)
        return bool(live and live.trial and live.current and live.current.number == live.trial.number)


@pytest.fixture
def terminal(machine: Host) -> Terminal:
    return Terminal(machine)


BLOCKED, OPEN = ipv4("203.0.113.5"), ipv4("192.0.2.1")


def blocks(net: Network) -> bool:
    """Whether the chain that runs is the one that blocks 203.0.113.0/24; other traffic passes in any case."""
    net.send("p1", BLOCKED, OPEN)
    arrived = net.arrivals(p2=1)["p2"]
    assert OPEN in arrived
    if arrived == [OPEN]:
        return not net.arrivals()
    return False


def open_guard() -> dict[str, Any]:
    return guard_chain()


def strict_guard() -> dict[str, Any]:
    return guard_chain(sources=("198.51.100.0/24", "203.0.113.0/24"))


@pytest.fixture
def strict(machine: Host, terminal: Terminal) -> Path:
    """The open guard runs; the directory of the strict one."""
    machine.apply(open_guard())
    return terminal.directory("strict", strict_guard())


# --- how a try ends -------------------------------------------------------------------------------------------------


def test_confirmed_from_elsewhere(machine: Host, terminal: Terminal, net: Network, strict: Path) -> None:
    process = terminal.start("try", strict, "--timeout", 60)
    until(terminal.is_tried)
    assert blocks(net)
    assert len(machine.generations()) == 2
    assert terminal.run("confirm", machine.name) == (0, "", f"chain {machine.name}: confirmed\n")
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert err.splitlines()[-1] == f"chain {machine.name}: confirmed"
    assert f"chain {machine.name}: goes back in 60 s; `bpfchain confirm {machine.name}` keeps it" in err
    assert blocks(net)
    assert machine.generations() == ["generation-2"]
    assert machine.status().problems == ()
    assert not machine.plan(strict_guard())


def test_not_confirmed_in_time(machine: Host, terminal: Terminal, net: Network, strict: Path) -> None:
    code, out, err = terminal.run("try", strict, "--timeout", 1)
    assert code == 4
    assert "guard__blocked" in out or "1 to" in out
    assert err.splitlines()[-1] == f"chain {machine.name}: rolled back: it was not confirmed within 1 s"
    assert not blocks(net)
    assert machine.generations() == ["generation-3"]
    assert machine.status().problems == ()
    assert not machine.plan(open_guard())


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("exit 0", None),
        ("echo to the terminal; exit 3", "`echo to the terminal; exit 3` failed with exit code 3"),
        ("sleep 600", "`sleep 600` was not done in time"),
    ],
)
def test_a_required_command(
    command: str, why: str | None, machine: Host, terminal: Terminal, net: Network, strict: Path
) -> None:
    code, out, err = terminal.run("try", strict, "--timeout", 2 if "sleep" in command else 60, "--require", command)
    ending = f"rolled back: {why}" if why else "confirmed"
    assert err.splitlines()[-1] == f"chain {machine.name}: {ending}"
    assert code == (4 if why else 0)
    assert blocks(net) == (why is None)
    assert len(machine.generations()) == 1
    assert ("to the terminal" in out) == ("echo" in command)


def test_a_required_command_sees_the_new_chain(machine: Host, terminal: Terminal, strict: Path) -> None:
    """What it asks is answered by what is tried."""
    asks = f"{python.executable} -m bpfchain status {machine.name} --format json > {machine.folder}/seen"
    assert terminal.run("try", strict, "--require", asks)[0] == 0
    (seen,) = json.loads((machine.folder / "seen").read_text())["chains"]
    assert (seen["generation"], seen["trial"]["number"], seen["trial"]["back"]) == (2, 2, 1)
    assert seen["trial"]["guarded"] is True
    assert 0 < seen["trial"]["seconds_left"] <= 60
    assert seen["problems"] == []


@pytest.mark.parametrize(("typed", "code"), [(b"\n", 0), (b"y\n", 0), (b"n\n", 4), (b"\x03", 4)])
def test_an_answer_on_the_terminal(typed: bytes, code: int, terminal: Terminal, net: Network, strict: Path) -> None:
    """Enter, y, n, and Ctrl-C."""
    ours, theirs = pty.openpty()
    process = terminal.start("try", strict, stdin=theirs, preexec_fn=lambda: _take_terminal(theirs))
    os.close(theirs)
    with os.fdopen(ours, "wb", buffering=0) as keyboard:
        until(terminal.is_tried)
        keyboard.write(typed)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert "Enter keeps it, n goes back" in err
    assert process.returncode == code, err
    assert blocks(net) == (code == 0)


def test_ctrl_c_before_it_has_begun_goes_back_all_the_same(
    machine: Host, terminal: Terminal, net: Network, strict: Path
) -> None:
    """There is nothing to go back from yet: its guard is told to, and does when there is."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard:
        with locked(bpffs_root()):
            process = terminal.start("try", strict, stdin=theirs, preexec_fn=lambda: _take_terminal(theirs))
            os.close(theirs)
            until(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
            keyboard.write(b"\x03")
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    told = f"chain {machine.name}: nothing was changed: its guard was told to end"
    nothing = (told, "Aborted!")  # the latter where the guard has just been started and has no order yet
    assert process.returncode == (1 if err.splitlines()[-1] in nothing else 4), err
    assert not blocks(net)
    assert machine.status().trial is None


def _take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who runs the tests in the background has it ignored


def test_aborted_from_elsewhere(machine: Host, terminal: Terminal, net: Network, strict: Path) -> None:
    process = terminal.start("try", strict)
    until(terminal.is_tried)
    assert terminal.run("abort", machine.name) == (0, "", f"chain {machine.name}: rolled back\n")
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 4
    assert err.splitlines()[-1] == f"chain {machine.name}: rolled back: it was aborted"
    assert not blocks(net)


def test_a_first_chain_is_taken_off_again(machine: Host, terminal: Terminal, net: Network) -> None:
    before = descriptors()
    code, _, err = terminal.run("try", terminal.directory("first", bridge()), "--timeout", 1)
    assert code == 4
    assert err.splitlines()[0] == (
        "going back does not undo everything: nothing runs under this name yet: "
        "going back takes the chain off its devices"
    )
    assert machine.name not in chains(bpffs_root())
    net.send("p1", frame(A, B))
    assert net.arrivals() == {}
    assert descriptors() == before


def test_nothing_to_try(machine: Host, terminal: Terminal) -> None:
    machine.apply(bridge())
    code, out, err = terminal.run("try", terminal.directory("same", bridge()))
    assert (code, out) == (0, "")
    assert err.startswith(f"chain {machine.name}: no changes")
    assert machine.generations() == ["generation-1"]


def test_what_cannot_be_applied_is_told_as_by_apply(machine: Host, terminal: Terminal) -> None:
    chain = bridge(ports=("p1", "p2", "p9"))
    code, out, err = terminal.run("try", terminal.directory("wrong", chain))
    assert (code, out) == (1, "")
    assert err.startswith("error[A101]: there is no device `p9`\n")
    assert machine.name not in chains(bpffs_root())


# --- who dies meanwhile ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_the_terminal_dies_and_the_guard_goes_back(
    number: signal.Signals, machine: Host, terminal: Terminal, net: Network, strict: Path
) -> None:
    """Its whole session gets the signal."""
    process = terminal.start("try", strict, "--timeout", 3, start_new_session=True)
    until(terminal.is_tried)
    os.killpg(process.pid, number)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -number
    assert is_guarded(chain_pins(bpffs_root(), machine.name))
    assert blocks(net)
    until(lambda: machine.generations() == ["generation-3"])
    assert not blocks(net)
    assert machine.status().problems == ()


def test_the_terminal_dies_and_somebody_confirms(machine: Host, terminal: Terminal, net: Network, strict: Path) -> None:
    process = terminal.start("try", strict, start_new_session=True)
    until(terminal.is_tried)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert terminal.run("confirm", machine.name)[0] == 0
    assert not is_guarded(chain_pins(bpffs_root(), machine.name))
    assert blocks(net)
    assert machine.generations() == ["generation-2"]


def guard_of(process: subprocess.Popen[str]) -> int:
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def test_the_guard_is_killed_and_the_terminal_goes_back(
    machine: Host, terminal: Terminal, net: Network, strict: Path
) -> None:
    process = terminal.start("try", strict)
    until(terminal.is_tried)
    os.kill(guard_of(process), signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 4
    assert err.splitlines()[-1] == f"chain {machine.name}: rolled back: its guard was killed"
    assert not blocks(net)
    assert machine.generations() == ["generation-3"]


def test_a_guard_that_is_told_to_end_goes_back(machine: Host, terminal: Terminal, net: Network, strict: Path) -> None:
    process = terminal.start("try", strict)
    until(terminal.is_tried)
    os.kill(guard_of(process), signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 4
    assert err.splitlines()[-1] == f"chain {machine.name}: rolled back: its guard was told to end"
    assert not blocks(net)


def test_both_are_killed_and_it_is_said(machine: Host, terminal: Terminal, net: Network, strict: Path) -> None:
    """By status; the next apply goes back first, and says so."""
    process = terminal.start("try", strict, start_new_session=True)
    until(terminal.is_tried)
    child = guard_of(process)
    os.kill(process.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_SECONDS)
    until(lambda: not is_guarded(chain_pins(bpffs_root(), machine.name)))
    name = machine.name
    assert blocks(net)
    (problem,) = machine.status().problems
    assert problem == (
        "generation 2 is being tried, and its guard was killed, so nobody goes back: "
        f"`bpfchain confirm {name}` keeps it, `bpfchain abort {name}` or the next apply goes back"
    )
    code, _, err = terminal.run("apply", terminal.directory("open", open_guard()))
    assert code == 0
    assert err == (
        f"warning[A145]: a try of chain `{name}` was never confirmed, and its guard was killed: "
        "went back to generation 1 first\n"
    )
    assert not blocks(net)
    assert machine.generations() == ["generation-3"]
    assert machine.status().problems == ()


def killed_at(machine: Host, chain: CompiledChain, number: int, require: str | None) -> None:
    """A guard in a child process that dies in the place of step `number`."""
    killed_at_step(lambda on_step: guarded(machine, chain, require, on_step), number)


def guarded(machine: Host, chain: CompiledChain, require: str | None, on_step: Any = None) -> Outcome:
    """A try in this process: with a required command it is kept, without it is over at once."""
    with entered(machine.namespace.name):
        order = Order(chain, LONG if require else SHORT, require)
        return guard(order, on_step=on_step, log_directory=machine.folder)


def steps_of(machine: Host, chain: CompiledChain, require: str | None) -> list[str]:
    titles: list[str] = []
    outcome = guarded(machine, chain, require, lambda step: titles.append(step.title))
    assert outcome.end is (End.KEPT if require else End.TAKEN_BACK)
    return titles


@pytest.mark.parametrize("require", [None, "true"], ids=["taken-back", "kept"])
def test_a_guard_that_is_killed_at_any_step_leaves_traffic_running_and_the_next_apply_mends(
    require: str | None, machine: Host, net: Network
) -> None:
    """By going back, and then on to what is wanted; every fourth time that is the chain that was tried."""
    first, second = machine.compiled(guarded_bridge()), machine.compiled(changed("9s"))
    machine.apply(first)
    steps = steps_of(machine, second, require)
    assert {"say what is being tried", "finish the new generation", WAITING} <= set(steps)
    assert ("keep what is tried" if require else "finish the way back") in steps
    # Before a try is made known it is an apply, which test_interruptions.py kills; how it begins is the same in both.
    untold = steps.index("finish the new generation" if require else "say what is being tried") - 1
    for number, title in list(enumerate(steps))[untold:]:
        machine.apply(first)
        killed_at(machine, second, number, require)
        forwards(net, "p2", "p3")
        wanted = second if number % 4 == 3 else first
        footprint = machine.footprint()
        machine.apply(wanted)
        assert len(machine.generations()) == 1, title
        assert read_trial(chain_pins(bpffs_root(), machine.name)) is None, title
        assert machine.status().problems == (), title
        assert not machine.plan(wanted), title
        now = machine.footprint()
        gone = Footprint(footprint.progs - now.progs, footprint.maps - now.maps, footprint.links - now.links)
        eventually(gone.left, NOTHING)


def test_a_first_try_that_is_killed_at_any_step_can_be_detached_or_aborted(machine: Host) -> None:
    chain = machine.compiled(bridge())
    devices = machine.devices()
    steps = steps_of(machine, chain, None)
    assert machine.name not in chains(bpffs_root())
    for number, title in enumerate(steps):
        killed_at(machine, chain, number, None)
        footprint = machine.footprint()
        live = read(bpffs_root(), machine.name)
        if live and live.trial and number % 2:
            with entered(machine.namespace.name):
                abort(machine.name)
        elif machine.name in chains(bpffs_root()):
            machine.detach()
        assert machine.name not in chains(bpffs_root()), title
        eventually(footprint.left, NOTHING)
        assert machine.devices() == devices, title


def dies_before_its_record_is_in_place(machine: Host, chain: CompiledChain) -> None:
    """A guard that is killed where the record of the try is pinned, and not yet under its name."""
    rename = Path.rename
    child = os.fork()
    if child == 0:
        with contextlib.ExitStack() as patched:
            patched.callback(os._exit, 1)

            def die(path: Path, target: Path) -> Path:
                return os._exit(KILLED) if path.name == "trial-fresh" else rename(path, target)

            patched.enter_context(mock.patch.object(Path, "rename", die))
            guarded(machine, chain, None)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED
    assert (chain_pins(bpffs_root(), machine.name).path / "trial-fresh").exists()


def test_half_a_record_of_a_try_is_dropped_by_the_next_apply_and_by_detach(machine: Host) -> None:
    chain, folder = machine.compiled(bridge()), chain_pins(bpffs_root(), machine.name).path
    dies_before_its_record_is_in_place(machine, chain)
    machine.apply(chain)
    assert [path.name for path in folder.iterdir()] == ["generation-2"]
    dies_before_its_record_is_in_place(machine, machine.compiled(bridge(aging="9s")))
    machine.detach()
    assert machine.name not in chains(bpffs_root())


def as_written_by_another_version(machine: Host, **record: Any) -> None:
    """A try that nobody guards any more, on record in another format."""
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(aging="9s"), lock)
    write_frozen(chain_pins(bpffs_root(), machine.name).path / "trial", json.dumps(record).encode())


@pytest.mark.parametrize("more", [{"format": 1}, {"format": 2, "replaced": []}], ids=["format-1", "format-2"])
def test_a_try_that_an_earlier_version_began_is_decided_or_taken_back(machine: Host, more: dict[str, Any]) -> None:
    running = machine.compiled(bridge())
    machine.apply(running)
    as_written_by_another_version(machine, number=2, back=1, deadline=0.0, **more)
    assert machine.status().trial
    assert [found.code for found in machine.apply(running).warnings] == ["A145"]
    as_written_by_another_version(machine, number=4, back=3, deadline=0.0, **more)
    with entered(machine.namespace.name):
        assert confirm(machine.name) == Decided(machine.name)
    assert machine.generations() == ["generation-4"]


def test_a_try_that_cannot_be_read_is_told_and_can_be_detached(machine: Host) -> None:
    machine.apply(bridge())
    as_written_by_another_version(machine, format=99)
    folder = chain_pins(bpffs_root(), machine.name).path
    reason = "it has format 99, this version knows 3"
    why = f"cannot read the record of the running generation at `{folder / 'trial'}`: {reason}"
    assert why in machine.status().problems
    assert [found.message for found in machine.refused(bridge())] == [why]
    commands = (confirm, abort, lambda _: machine.plan(bridge()))
    for command in commands:
        with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught:
            command(machine.name)
        assert (
            refusal(caught.value)
            == f"error[A112]: {why}\n  = help: `bpfchain detach {machine.name}` removes the chain\n"
        )
    machine.detach()
    assert machine.name not in chains(bpffs_root())


class Stopped(Exception):
    """Raised by a test in the place of a step."""


def test_a_try_that_fails_at_any_step_goes_back(machine: Host, net: Network) -> None:
    first, second = machine.compiled(guarded_bridge()), machine.compiled(changed("9s"))
    machine.apply(first)
    steps = steps_of(machine, second, None)
    before = descriptors()
    for number in range(steps.index(WAITING)):
        titles: list[str] = []

        def on_step(step: Step, titles: list[str] = titles, number: int = number) -> None:
            if len(titles) == number:
                raise Stopped
            titles.append(step.title)

        with pytest.raises(Stopped), entered(machine.namespace.name), contextlib.ExitStack() as lock:
            begin(second, LONG, lock, on_step=on_step)
        assert len(machine.generations()) == 1, steps[number]
        assert machine.status().problems == (), steps[number]
        assert machine.status().trial is None, steps[number]
        assert not machine.plan(first), steps[number]
        assert descriptors() == before, steps[number]
    forwards(net, "p2", "p3")


# --- what stands in the way -----------------------------------------------------------------------------------------


def test_a_guard_whose_lock_others_have_for_long_waits_for_its_turn(
    machine: Host, net: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with own_bpffs(tmp_path), contextlib.ExitStack() as other:
        machine.apply(open_guard())
        monkeypatch.setattr("runtime.lock.LOCK_PATIENCE_SECONDS", 0.05)

        def on_step(step: Step) -> None:
            if step.title == WAITING:
                other.enter_context(locked(bpffs_root()))
                threading.Timer(1, other.close).start()

        with entered(machine.namespace.name):
            outcome = guard(Order(machine.compiled(strict_guard()), SHORT), on_step=on_step, tell=said.append)
        assert outcome == Outcome(End.TAKEN_BACK, "it was not confirmed within 0.05 s")
        assert machine.generations() == ["generation-3"]
        assert not blocks(net)
    (refused,) = said[1:]
    assert refused.startswith("error[A111]: another apply or detach has been running for 0 s\n")


@pytest.mark.parametrize("require", [None, "true"], ids=["taken-back", "kept"])
def test_a_guard_tries_again_what_fails(
    require: str | None, machine: Host, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its steps fails once, until it is decided; a clean-up that fails is left to the next apply."""
    monkeypatch.setattr("runtime.guard._PAUSES", (0.01,))
    machine.apply(open_guard())
    done: list[str] = []
    failed: list[str] = []

    def on_step(step: Step) -> None:
        if WAITING in done and step.title not in failed:
            failed.append(step.title)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        done.append(step.title)

    assert guarded(machine, machine.compiled(strict_guard()), require, on_step).end is (
        End.KEPT if require else End.TAKEN_BACK
    )
    last = ["keep what is tried", "forget the try"] if require else ["finish the way back"]
    assert failed[-1 - len(last) :] == [*last, "wait for packets on their way"]
    assert machine.status().trial is None
    assert blocks(net) == bool(require)
    machine.apply(strict_guard() if require else open_guard())
    assert len(machine.generations()) == 1
    assert machine.status().problems == ()


NOT_YET = """\
error[A108]: `swap the program on p2 (native)` failed: [Errno 12] Cannot allocate memory

error[A108]: cannot take back `swap the program on p1 (native)`: [Errno 12] Cannot allocate memory
  = help: the next apply or detach finds what is left, and mends it

error[A108]: a try that failed cannot be taken back yet: A108: `swap the program on p1 (native)` failed: \
[Errno 12] Cannot allocate memory
  = help: whoever guards it tries again"""


def test_a_guard_whose_try_fails_and_cannot_be_taken_back_goes_on_until_it_is(
    machine: Host, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second hook cannot be swapped; then, twice, the first one cannot be swapped back."""
    machine.apply(open_guard())
    replace, turns, said = attach.replace, itertools.count(), list[str]()

    def fails(*arguments: Any) -> None:
        if next(turns) in (1, 2, 3):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        replace(*arguments)

    monkeypatch.setattr(attach, "replace", fails)
    order = Order(machine.compiled(strict_guard()), LONG)
    with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught:
        guard(order, tell=said.append, log_directory=machine.folder)
    assert said == [NOT_YET]
    assert [found.message for found in caught.value.diagnostics] == [
        line.partition(": ")[2] for line in NOT_YET.splitlines() if line.startswith("error")
    ][:2]
    assert machine.status().trial is None
    assert machine.status().problems == ()
    assert not machine.plan(open_guard())
    assert not blocks(net)


def test_a_guard_whose_try_fails_when_all_hooks_are_swapped_goes_back(
    machine: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first way back is barred."""
    machine.apply(open_guard())
    monkeypatch.setattr(trying, "go_back", mock.Mock(side_effect=OSError(errno.ENOMEM, "no memory")))

    def on_step(step: Step) -> None:
        if step.title == "wait for packets on their way":
            raise Stopped

    with pytest.raises(Stopped):
        guarded(machine, machine.compiled(strict_guard()), None, on_step)
    assert machine.status().trial is None
    assert machine.status().problems == ()
    assert machine.generations() == ["generation-3"]
    assert not machine.plan(open_guard())


def test_a_required_command_that_cannot_be_run_is_one_that_fails(machine: Host) -> None:
    machine.apply(open_guard())
    long = f"true {'x' * 200_000}"
    outcome = guarded(machine, machine.compiled(strict_guard()), long)
    assert outcome == Outcome(End.TAKEN_BACK, f"`{long}` cannot be run: Argument list too long")


def test_a_hook_that_somebody_took_meanwhile_does_not_keep_the_rest_from_going_back(
    machine: Host, net: Network, tmp_path: Path
) -> None:
    machine.apply(bridge(ports=("p1", "p2", "p3")))
    with host(net.dut, tmp_path) as other, contextlib.ExitStack() as lock:
        tried(machine, bridge(ports=("p1", "p2")), lock)
        other.apply(at("p3"))
        taken_back(machine, lock)
        states = {found.name: found.state for found in machine.status().interfaces}
        assert states == {
            "p1": "attached",
            "p2": "attached",
            "p3": "nothing of this chain is attached any more",
        }
        assert other.status().problems == ()
    assert machine.generations() == ["generation-3"]
    machine.apply(bridge(ports=("p1", "p2", "p3")))
    forwards(net, "p2", "p3")


def at(device: str) -> dict[str, Any]:
    """A guard between one device and the host."""
    links = [["p1", "guard.outside"], ["guard.inside", "host"]]
    return {**guard_chain(), "interfaces": {"p1": {"device": device}}, "links": links}


def test_what_others_apply_next_is_not_how_it_ended(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.apply(bridge())

    @contextlib.contextmanager
    def others_turn(*arguments: Any) -> Iterator[None]:
        with locked(*arguments):
            yield
        machine.apply(bridge(aging="8s"))

    monkeypatch.setattr("runtime.guard.locked", others_turn)
    assert guarded(machine, machine.compiled(bridge(aging="9s")), "true") == Outcome(End.KEPT)
    assert machine.generations() == ["generation-3"]


def test_whoever_has_to_wait_says_so(machine: Host, terminal: Terminal, net: Network, strict: Path) -> None:
    for command, code in (("confirm", 0), ("abort", 0), ("detach", 0)):
        machine.apply(open_guard())
        with contextlib.ExitStack() as lock:
            if command != "detach":
                tried(machine, strict_guard(), lock)
            lock.close()
            assert waits(terminal, command, machine.name) == code
    assert waits(terminal, "try", strict, "--require", "true") == 0


def waits(terminal: Terminal, *arguments: object) -> int:
    """Runs a command on a terminal while somebody else is at work, until it says that it waits; its exit code."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        with locked(bpffs_root()):
            process = terminal.start(*arguments, stderr=theirs)
            shown = b""
            while b"wait for another apply or detach" not in shown:
                assert select.select([screen], [], [], PATIENCE_SECONDS)[0], shown
                shown += screen.read(4096)
        os.close(theirs)
        process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode


# --- what is kept ---------------------------------------------------------------------------------------------------


def tried(machine: Host, chain: Mapping[str, Any], lock: contextlib.ExitStack) -> None:
    with entered(machine.namespace.name):
        applied, trial = begin(machine.compiled(chain), LONG, lock, log_directory=machine.folder)
    assert trial
    assert applied.plan.way is Way.GENERATION


def taken_back(machine: Host, lock: contextlib.ExitStack) -> None:
    lock.close()
    with entered(machine.namespace.name):
        abort(machine.name)


def test_what_was_learned_and_counted_is_there_after_going_back(machine: Host, net: Network) -> None:
    """In maps that stayed what is learned while it is tried, too; in maps that were made anew what was there before."""
    chain = bridge(ports=("p1", "p2", "p3"))
    machine.apply(chain)
    net.send("p2", frame(B, A))
    assert net.arrivals(p1=1, p3=1).keys() == {"p1", "p3"}
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(ports=("p1", "p2", "p3"), aging="9s"), lock)
        net.send("p1", frame(A, B))
        assert "p2" in net.arrivals(p2=1)
        taken_back(machine, lock)
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1).keys() == {"p2"}, "the station is known again"
    counts = machine.status().service("br0")
    assert counts.port("p1").received.packets == 2
    assert counts.port("p2").received.packets == 1


def test_no_frame_is_lost_or_doubled_while_it_is_tried_and_taken_back(machine: Host, net: Network) -> None:
    machine.apply(open_guard())
    stop = threading.Event()
    sent, arrived = 0, list[bytes]()

    def send() -> None:
        nonlocal sent
        while not stop.is_set():
            net.send("p1", OPEN + sent.to_bytes(4, "big"))
            sent += 1
            while (found := net.wires["p2"].receive(0.0005)) is not None:
                arrived.append(found)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(3):
            with contextlib.ExitStack() as lock:
                tried(machine, strict_guard(), lock)
                taken_back(machine, lock)
    finally:
        stop.set()
        sender.join()
    arrived += net.arrivals().get("p2", [])
    assert [int.from_bytes(found[60:64], "big") for found in arrived] == list(range(sent))
    assert sent > 100


def test_an_interface_that_is_left_out_while_it_is_tried_comes_back(machine: Host, net: Network) -> None:
    machine.apply(bridge(ports=("p1", "p2", "p3")))
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(ports=("p1", "p2")), lock)
        net.send("p1", frame(A, B))
        assert net.arrivals(p2=1).keys() == {"p2"}
        assert machine.status().problems == ()
        assert {found.name for found in machine.status().interfaces} == {"p1", "p2"}
        taken_back(machine, lock)
    forwards(net, "p2", "p3")
    assert {found.state for found in machine.status().interfaces} == {"attached"}
    assert not machine.plan(bridge(ports=("p1", "p2", "p3")))


def test_a_device_that_goes_while_it_is_tried_does_not_keep_the_rest_from_going_back(
    machine: Host, net: Network
) -> None:
    machine.apply(bridge(ports=("p1", "p2", "p3")))
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(ports=("p1", "p2", "p3"), aging="9s"), lock)
        with machine.namespace.netlink() as netlink:
            netlink.link("del", ifname="p3")
        taken_back(machine, lock)
    net.wires["p1"].send(frame(A, B))
    states = {found.name: found.state for found in machine.status().interfaces}
    assert (states["p1"], states["p2"]) == ("attached", "attached")
    assert states["p3"] != "attached"
    assert machine.generations() == ["generation-3"]


@pytest.mark.parametrize("mode", ["generic", "tc"])
def test_another_mode_and_back(mode: str, machine: Host, net: Network) -> None:
    machine.apply(guarded_bridge())
    with contextlib.ExitStack() as lock:
        tried(machine, guarded_bridge(mode), lock)
        forwards(net, "p2", "p3")
        assert {found.mode for found in machine.status().interfaces} == {mode} if mode == "generic" else True
        taken_back(machine, lock)
    forwards(net, "p2", "p3")
    assert {found.mode.value for found in machine.status().interfaces} == {"native"}
    assert machine.status().problems == ()
    assert not machine.plan(guarded_bridge())


def test_nothing_adds_up(machine: Host) -> None:
    machine.apply(bridge())
    before, devices = descriptors(), machine.devices()
    seen = [machine.footprint()]
    for number in range(10):
        with contextlib.ExitStack() as lock:
            tried(machine, bridge(aging=f"{number + 5}s"), lock)
            seen.append(machine.footprint())
            if number % 2:
                lock.close()
                with entered(machine.namespace.name):
                    confirm(machine.name)
            else:
                taken_back(machine, lock)
        seen.append(machine.footprint())
    assert len(machine.generations()) == 1
    assert descriptors() == before
    assert machine.devices() == devices
    machine.detach()
    everything = Footprint(
        frozenset().union(*(found.progs for found in seen)),
        frozenset().union(*(found.maps for found in seen)),
        frozenset().union(*(found.links for found in seen)),
    )
    eventually(everything.left, NOTHING)


# --- one at a time --------------------------------------------------------------------------------------------------


def refusal(error: ChainError) -> str:
    return render(error.diagnostics, {})


def test_a_second_apply_or_try_is_refused_and_told_how_to_go_on(machine: Host) -> None:
    machine.apply(bridge())
    name = machine.name
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(aging="9s"), lock)
        for chain in (bridge(aging="8s"), bridge(aging="9s")):
            with pytest.raises(LoadFailed) as caught:
                machine.apply(chain)
            (found,) = caught.value.diagnostics
            assert found.code == "A140"
            assert found.message.startswith(f"chain `{name}` is being tried: generation 2 instead of 1, for another ")
            assert found.help == f"`bpfchain confirm {name}` keeps it, `bpfchain abort {name}` goes back"
            with (
                pytest.raises(LoadFailed, match="A140"),
                entered(machine.namespace.name),
                contextlib.ExitStack() as other,
            ):
                begin(machine.compiled(chain), LONG, other)
        assert len(machine.generations()) == 2
        assert machine.status().trial
        machine.detach()
    assert machine.name not in chains(bpffs_root())


def test_nothing_is_being_tried(machine: Host) -> None:
    machine.apply(bridge())
    with entered(machine.namespace.name):
        for decide in (confirm, abort):
            with pytest.raises(LoadFailed) as caught:
                decide(machine.name)
            assert refusal(caught.value) == f"error[A141]: chain `{machine.name}` is not being tried\n"
            with pytest.raises(LoadFailed, match="A109"):
                decide("bpfchain-none")


def test_what_was_interrupted_before_all_of_it_ran_cannot_be_kept(machine: Host, net: Network) -> None:
    first, second = machine.compiled(guarded_bridge()), machine.compiled(changed("9s"))
    machine.apply(first)
    steps = steps_of(machine, second, None)
    killed_at(machine, second, steps.index("finish the new generation"), None)
    with entered(machine.namespace.name):
        with pytest.raises(LoadFailed) as caught:
            confirm(machine.name)
        assert refusal(caught.value) == (
            f"error[A142]: the try of chain `{machine.name}` was interrupted before all of it ran, "
            "so it cannot be kept\n"
            f"  = help: `bpfchain abort {machine.name}` goes back\n"
        )
        abort(machine.name)
    forwards(net, "p2", "p3")
    assert not machine.plan(first)
    assert len(machine.generations()) == 1


def test_what_cannot_be_gone_back_to(machine: Host) -> None:
    machine.apply(bridge())
    with contextlib.ExitStack() as lock:
        tried(machine, bridge(aging="9s"), lock)
    before = chain_pins(bpffs_root(), machine.name).finished(1)
    (before.path / "record").unlink()
    name = machine.name
    with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught:
        abort(name)
    assert refusal(caught.value) == (
        f"error[A143]: chain `{name}` cannot go back to generation 1: "
        "it has no record: whoever built it was interrupted\n"
        f"  = help: `bpfchain confirm {name}` keeps what is tried, `bpfchain detach {name}` removes all\n"
    )
    with entered(machine.namespace.name):
        assert confirm(name).chain == name
    assert machine.generations() == ["generation-2"]


def long_list(*more: str) -> tuple[str, ...]:
    """Enough sources for a trie."""
    return (*(f"10.{number // 256}.{number % 256}.0/24" for number in range(300)), *more)


def test_an_interrupted_update_in_place_comes_first(machine: Host) -> None:
    first, second = (
        machine.compiled(guard_chain(sources=long_list(source))) for source in ("192.0.2.0/24", "203.0.113.0/24")
    )
    machine.apply(first)
    assert machine.plan(second).way is Way.IN_PLACE
    current = chain_pins(bpffs_root(), machine.name).finished(1)
    from runtime.record import new_record

    current.write_record(new_record(second.manifest, {}), pending=True)
    with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught, contextlib.ExitStack() as lock:
        begin(second, LONG, lock)
    assert refusal(caught.value) == (
        f"error[A144]: an update in place of chain `{machine.name}` was interrupted\n"
        "  = help: `bpfchain apply` finishes it; then try again\n"
    )


def test_a_change_in_place_is_a_generation_while_it_is_tried(machine: Host, net: Network) -> None:
    """So that going back is one swap, and not as many writes as there are entries."""
    machine.apply(guard_chain(sources=long_list("198.51.100.0/24")))
    change = guard_chain(sources=long_list("203.0.113.0/24"))
    assert machine.plan(change).way is Way.IN_PLACE
    with contextlib.ExitStack() as lock:
        tried(machine, change, lock)
        assert blocks(net)
        taken_back(machine, lock)
    assert not blocks(net)


def test_what_going_back_does_not_undo(machine: Host) -> None:
    machine.apply(guarded_bridge())
    wanted = machine.plan(changed("9s"))
    (interrupts,) = (change for change in wanted.changes if change.effect is Effect.INTERRUPTS)
    lost = Change(Action.CHANGE, Kind.MAP, "br0__fdb", ("smaller",), Effect.SWAP, Fate.LOST)
    migrated = Change(Action.CHANGE, Kind.MAP, "br0__fdb", ("larger",), Effect.SWAP, Fate.MIGRATED)
    assert list(cannot_be_undone(replace(wanted, changes=(interrupts, lost, migrated)))) == [
        "attach point p2 (p2 (native) → p2 (generic)): traffic is interrupted now, and when going back",
        "map br0__fdb: what was learned is lost once it is confirmed; what is learned from now on, when going back",
        "map br0__fdb: what is learned from now on is lost when going back",
    ]


def test_several_are_tried(machine: Host, net: Network, tmp_path: Path) -> None:
    with host(net.dut, tmp_path) as other, contextlib.ExitStack() as locks:
        for one, ports in ((machine, ("p1",)), (other, ("p2",))):
            lock = locks.enter_context(contextlib.ExitStack())
            tried(one, at(ports[0]), lock)
        with entered(machine.namespace.name), pytest.raises(LoadFailed) as caught:
            confirm()
        (found,) = caught.value.diagnostics
        assert (found.code, found.message) == ("A141", "several chains are being tried")
        assert f"`{machine.name}`" in found.notes[0]
        assert f"`{other.name}`" in found.notes[0]
        assert found.help == "name the chain that is meant"


def test_without_a_name_the_only_one_is_meant(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests try chains meanwhile, which this one does not see."""
    machine.apply(bridge())
    monkeypatch.setattr(trying, "chains", lambda root: [name for name in chains(root) if name == machine.name])
    with pytest.raises(LoadFailed) as caught:
        confirm()
    assert refusal(caught.value) == "error[A141]: nothing is being tried here\n"
    for decide, generation in ((confirm, "generation-2"), (abort, "generation-4")):
        with contextlib.ExitStack() as lock:
            tried(machine, bridge(aging=f"{generation[-1]}s"), lock)
        with entered(machine.namespace.name):
            assert decide().chain == machine.name
        assert machine.generations() == [generation]


def test_the_lock_of_the_guard(machine: Host) -> None:
    machine.apply(bridge())
    pins = chain_pins(bpffs_root(), machine.name)
    assert not is_guarded(pins)
    with guarding(pins):
        assert is_guarded(pins)
    assert not is_guarded(pins)
    assert not is_guarded(chain_pins(bpffs_root(), "bpfchain-none"))


def vlans() -> dict[str, Any]:
    """The bridge with a table of another layout, which knows nothing of the one before."""
    chain = bridge()
    chain["services"]["br0"]["ports"] = {port: {"vlan": {"access": 10}} for port in ("p1", "p2")}
    return chain


def test_state_that_would_be_lost_is_asked_for_and_is_there_again(
    machine: Host, terminal: Terminal, net: Network
) -> None:
    machine.apply(bridge())
    net.send("p1", frame(A, B))
    assert net.arrivals(p2=1) == {"p2": [frame(A, B)]}
    directory = terminal.directory("vlans", vlans())
    code, _, err = terminal.run("try", directory)
    assert code == 1
    assert "error[A150]: what was learned would be lost\n" in err
    assert err.endswith("  = help: `bpfchain try --accept-state-loss` begins anew with these\n")
    assert machine.generations() == ["generation-1"]
    (running,) = read(bpffs_root(), machine.name).generations  # type: ignore[union-attr]
    assert terminal.run("try", directory, "--accept-state-loss", "--timeout", 1)[0] == 4
    (again,) = read(bpffs_root(), machine.name).generations  # type: ignore[union-attr]
    assert again.maps["br0__fdb"].id == running.maps["br0__fdb"].id
