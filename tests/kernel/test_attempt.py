"""Chains that are tried from a program: what it confirms stays, all else is taken back, also when it dies over it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys as python
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

import bpfchain
from runtime.bpffs import bpffs_root
from runtime.guard import End, Outcome
from runtime.netns import entered
from runtime.pin import chains
from schemas.compiled import save
from schemas.diagnostic import LoadFailed, NotSupported
from tests.kernel.live import Host, bridge, descriptors, host
from tests.rig.network import network
from tests.rig.waiting import eventually

pytestmark = pytest.mark.kernel


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    with network("p1", "p2") as net, host(net.dut, tmp_path) as found:
        found.apply(bridge())
        with entered(net.dut.name):
            yield found


def runs(machine: Host, aging: str) -> bool:
    return not machine.plan(bridge(aging=aging)) and machine.status().problems == ()


def test_what_is_confirmed_stays(machine: Host) -> None:
    before = descriptors()
    with bpfchain.try_(machine.compiled(bridge(aging="9s"))) as attempt:
        assert attempt.outcome is None
        assert machine.status().trial
        attempt.confirm()
        assert attempt.outcome == Outcome(End.KEPT)
    assert machine.generations() == ["generation-2"]
    assert runs(machine, "9s")
    assert descriptors() == before
    (said,) = attempt.said
    assert said.startswith(f"chain {machine.name}: runs generation 2 (")


def test_what_is_not_confirmed_is_taken_back_at_the_end_of_the_block(machine: Host) -> None:
    with bpfchain.try_(machine.compiled(bridge(aging="9s"))) as attempt:
        pass
    assert attempt.outcome == Outcome(End.TAKEN_BACK, "it was aborted")
    assert runs(machine, "300s")


def test_an_error_in_the_block_goes_back_and_is_raised(machine: Host) -> None:
    chain = machine.compiled(bridge(aging="9s"))

    def fails() -> None:
        with bpfchain.try_(chain):
            assert machine.status().trial
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert runs(machine, "300s")


def test_what_the_kernel_cannot_do_is_the_error_that_apply_raises(machine: Host) -> None:
    chain = machine.compiled(bridge(aging="9s"))
    wanting = replace(chain, manifest=replace(chain.manifest, features=("prog:none",)))
    with pytest.raises(NotSupported, match="L140: this version does not know the kernel feature `prog:none`") as caught:
        bpfchain.try_(wanting)
    assert caught.value.feature == "prog:none"
    assert runs(machine, "300s")


def test_too_late_is_an_error(machine: Host) -> None:
    with bpfchain.try_(machine.compiled(bridge(aging="9s")), 0.1) as attempt:
        eventually(lambda: machine.status().trial, None)
        with pytest.raises(LoadFailed, match="A141"):
            attempt.confirm()
    assert attempt.outcome == Outcome(End.TAKEN_BACK, "it was not confirmed within 0.1 s")
    assert runs(machine, "300s")


def test_from_elsewhere_it_is_decided_too(machine: Host) -> None:
    attempt = bpfchain.try_(machine.compiled(bridge(aging="9s")))
    bpfchain.confirm(machine.name)
    assert attempt.wait() == Outcome(End.KEPT)
    again = bpfchain.try_(machine.compiled(bridge(aging="8s")))
    bpfchain.abort(machine.name)
    assert again.wait() == Outcome(End.TAKEN_BACK, "it was aborted")
    assert runs(machine, "9s")


def test_a_command_decides(machine: Host) -> None:
    kept = bpfchain.try_(machine.compiled(bridge(aging="9s")), require="true")
    assert kept.wait() == Outcome(End.KEPT)
    other = bpfchain.try_(machine.compiled(bridge(aging="8s")), require="exit 3")
    assert other.wait() == Outcome(End.TAKEN_BACK, "`exit 3` failed with exit code 3")
    assert runs(machine, "9s")


def test_a_command_has_the_environment_of_whoever_tries(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that which its guard was started with."""
    for value in (None, "/elsewhere"):
        if value:
            monkeypatch.setenv("PYTHONPATH", value)
        else:
            monkeypatch.delenv("PYTHONPATH", raising=False)
        wanted = f'test "${{PYTHONPATH-none}}" = {value or "none"}'
        attempt = bpfchain.try_(machine.compiled(bridge(aging=f"{len(wanted)}s")), require=wanted)
        assert attempt.wait() == Outcome(End.KEPT)


def test_nothing_to_try_is_nothing_to_confirm(machine: Host) -> None:
    with bpfchain.try_(machine.compiled(bridge())) as attempt:
        assert attempt.outcome == Outcome(End.NOTHING)
        attempt.confirm()
        attempt.abort()
    assert machine.generations() == ["generation-1"]


def test_what_cannot_be_applied_is_raised(machine: Host) -> None:
    chain, before = machine.compiled(bridge(ports=("p1", "p9"))), descriptors()
    with pytest.raises(LoadFailed, match="A101: there is no device `p9`"):
        bpfchain.try_(chain)
    assert descriptors() == before


def test_a_guard_that_is_killed_is_stood_in_for(machine: Host) -> None:
    with bpfchain.try_(machine.compiled(bridge(aging="9s"))) as attempt:
        attempt.guard.process.kill()
        assert attempt.wait() == Outcome(End.TAKEN_BACK, "its guard was killed")
    assert runs(machine, "300s")


TRIES = """
    import os, signal, sys
    import bpfchain
    attempt = bpfchain.try_(bpfchain.load(sys.argv[1]), 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_goes_back_when_the_program_that_tries_is_killed(machine: Host, tmp_path: Path) -> None:
    save(machine.compiled(bridge(aging="9s")), tmp_path / "out")
    command = [python.executable, "-c", textwrap.dedent(TRIES), str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert machine.status().trial
    eventually(machine.generations, ["generation-3"])
    assert runs(machine, "300s")


def test_a_guard_has_nothing_of_whoever_tries(machine: Host) -> None:
    """Neither open files, nor the session: a program with sockets and a terminal tries as well."""
    with open(os.devnull) as some:
        os.set_inheritable(some.fileno(), True)
        with bpfchain.try_(machine.compiled(bridge(aging="9s"))) as attempt:
            pid = attempt.guard.process.pid
            opened = {int(path.name): os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
            assert some.fileno() not in opened
            assert os.getsid(pid) == pid
            assert {opened[number] for number in (0, 1, 2)} == {os.devnull}


def test_a_guard_looks_for_its_modules_where_they_are(
    machine: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where whoever tries happens to stand."""
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise SystemExit(1)")
    chain = machine.compiled(bridge(aging="9s"))
    monkeypatch.chdir(tmp_path)
    with bpfchain.try_(chain) as attempt:
        attempt.confirm()
    assert machine.name in chains(bpffs_root())
