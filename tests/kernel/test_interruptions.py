"""What stops an apply at any of its steps: an error takes everything back, a death leaves what the next apply mends."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from runtime import lock, sys
from runtime.apply import apply, detach
from runtime.bpffs import bpffs_root, ensure_bpffs, locked
from runtime.netns import entered
from runtime.pin import chain_pins, chains
from runtime.steps import Step
from schemas.compiled import CompiledChain, object_file
from schemas.diagnostic import Diagnostic, LoadFailed, VerifierRejected
from schemas.manifest import ValueRecord
from schemas.render import render
from tests.clang.c import compile_c
from tests.kernel.live import (
    NOTHING,
    Host,
    bridge,
    changed,
    descriptors,
    forwards,
    guarded_bridge,
)
from tests.rig.network import Network
from tests.rig.waiting import eventually
from tests.unit.manifests import with_program

pytestmark = pytest.mark.kernel

KILLED = 9
ROUNDS = 60


class Stopped(Exception):
    """Raised by a test in the place of a step."""


def steps_of(machine: Host, chain: CompiledChain) -> list[str]:
    """Titles of the steps that apply goes through."""
    titles: list[str] = []
    machine.apply(chain, on_step=lambda step: titles.append(step.title))
    return titles


def attached(machine: Host) -> dict[str, int]:
    return {found.name: found.prog_id for found in machine.status().interfaces}


def stopped_at(number: int) -> tuple[list[str], object]:
    """(titles so far, an on_step that raises in the place of step `number`)."""
    titles: list[str] = []

    def on_step(step: Step) -> None:
        if len(titles) == number:
            raise Stopped
        titles.append(step.title)

    return titles, on_step


def test_a_first_apply_that_fails_at_any_step_leaves_nothing(machine: Host) -> None:
    chain = machine.compiled(guarded_bridge())
    steps = steps_of(machine, chain)
    machine.detach()
    before, devices = descriptors(), machine.devices()
    assert {"load the programs", "attach to p1 (native)", "finish the new generation"} <= set(steps)
    for number in range(len(steps)):
        titles, on_step = stopped_at(number)
        with pytest.raises(Stopped):
            machine.apply(chain, on_step=on_step)  # type: ignore[arg-type]
        assert titles == steps[:number]
        assert machine.name not in chains(bpffs_root()), steps[number]
        assert machine.devices() == devices, steps[number]
        assert descriptors() == before, steps[number]


def test_a_swap_that_fails_at_any_step_goes_back(machine: Host, net: Network) -> None:
    first, second = machine.compiled(guarded_bridge()), machine.compiled(changed())
    machine.apply(first)
    steps = steps_of(machine, second)
    commit = steps.index("finish the new generation")
    machine.apply(first)
    running, footprint = attached(machine), machine.footprint()
    before, devices = descriptors(), machine.devices()
    for number in range(commit + 1):
        _, on_step = stopped_at(number)
        with pytest.raises(Stopped):
            machine.apply(second, on_step=on_step)  # type: ignore[arg-type]
        assert attached(machine) == running, steps[number]
        assert len(machine.generations()) == 1, steps[number]
        assert machine.footprint().progs == footprint.progs, steps[number]
        assert machine.devices() == devices, steps[number]
        assert descriptors() == before, steps[number]
        assert machine.status().problems == ()
    forwards(net, "p2", "p3")
    assert not machine.plan(first)


# --- what the kernel refuses ----------------------------------------------------------------------------------------

REJECTED = """
SEC("xdp") int FUNCTION(struct xdp_md *ctx) { return *(u32 *)(long)ctx->data; }
"""


def with_object(chain: CompiledChain, name: str, content: bytes) -> CompiledChain:
    """The chain with another object for one of its programs."""
    program = next(program for program in chain.manifest.programs if program.name == name)
    manifest = with_program(chain.manifest, replace(program, object=object_file(content), values=()))
    objects = {**chain.objects, object_file(content): content}
    return CompiledChain(manifest, {record.file: objects[record.file] for record in manifest.objects})


def test_a_program_that_the_verifier_refuses_changes_nothing(machine: Host, net: Network) -> None:
    chain = machine.compiled(bridge(ports=("p1", "p2", "p3")))
    content = compile_c(REJECTED.replace("FUNCTION", "br0__p2__xdp"))
    bad = with_object(chain, "br0__p2__xdp", content)
    before = descriptors()
    with pytest.raises(VerifierRejected) as caught:
        machine.apply(bad)
    assert "`br0.p2` (xdp)" in caught.value.diagnostics[0].message
    assert machine.name not in chains(bpffs_root())
    assert descriptors() == before

    machine.apply(chain)
    running = machine.footprint()
    with pytest.raises(VerifierRejected):
        machine.apply(bad)
    assert machine.footprint() == running
    assert machine.generations() == ["generation-1"]
    forwards(net, "p2", "p3")


def test_an_object_without_the_function(machine: Host) -> None:
    content = compile_c('SEC("xdp") int something(struct xdp_md *ctx) { return 2; }')
    with pytest.raises(LoadFailed) as caught:
        machine.apply(with_object(machine.compiled(bridge()), "br0__p2__xdp", content))
    (found,) = caught.value.diagnostics
    assert found.code == "M107"
    assert found.message == f"object `{object_file(content)}` has no function `br0__p2__xdp`"
    assert machine.name not in chains(bpffs_root())


def test_values_and_places_that_do_not_belong_together(machine: Host) -> None:
    """An instruction without a value, and a value without an instruction."""
    chain = machine.compiled(bridge())
    program = next(program for program in chain.manifest.programs if program.name == "br0__p2__xdp")
    (aging,) = program.values

    def refusal(*values: ValueRecord) -> Diagnostic:
        manifest = with_program(chain.manifest, replace(program, values=values))
        with pytest.raises(LoadFailed) as caught:
            machine.apply(CompiledChain(manifest, chain.objects))
        assert machine.name not in chains(bpffs_root())
        (found,) = caught.value.diagnostics
        return found

    missing = refusal()
    assert missing.code == "L122"
    assert missing.message == "program `br0__p2__xdp` wants a value for `value_br0__fdb__aging`, and there is none"
    idle = refusal(aging, ValueRecord("value_br0__limit", 7))
    assert idle.code == "M110"
    assert idle.message == "no instruction of program `br0__p2__xdp` loads `value_br0__limit`, which has a value"
    assert idle.help == "compile the chain again"


# --- one at a time --------------------------------------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Path]:
    """A bpffs of its own: nobody else has its lock."""
    root = tmp_path / "bpffs"
    root.mkdir()
    ensure_bpffs(root)
    yield root
    sys.umount(str(root))


LOCKED = """\
error[A111]: another apply or detach has been running for 0 s
  = note: it is process PID, `COMMAND`
  = help: wait until it is done
"""


def test_a_second_apply_waits_and_then_gives_up(machine: Host, apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = machine.compiled(bridge())

    def applied() -> None:
        with entered(machine.namespace.name):
            apply(chain, bpffs=apart)

    monkeypatch.setattr(lock, "LOCK_PATIENCE_SECONDS", 0.2)
    with locked(apart), pytest.raises(LoadFailed) as caught:
        applied()
    command = b" ".join(Path("/proc/self/cmdline").read_bytes().split(b"\0")).decode().strip()
    shown = render(caught.value.diagnostics, {}, "text")
    assert shown == LOCKED.replace("PID", str(os.getpid())).replace("COMMAND", command)
    monkeypatch.setattr(lock, "LOCK_PATIENCE_SECONDS", 20.0)
    with locked(apart):
        applying = threading.Thread(target=applied)
        applying.start()
        applying.join(0.2)
        assert applying.is_alive()
    applying.join()
    assert chains(apart) == (machine.name,)
    detach(machine.name, bpffs=apart)


def test_what_cannot_be_read_can_be_taken_down(machine: Host) -> None:
    machine.apply(bridge())
    footprint = machine.footprint()
    (generation,) = chain_pins(bpffs_root(), machine.name).generations()
    (generation.path / "record").unlink()
    assert machine.status().problems == ("it has no record: whoever built it was interrupted",)
    (found,) = machine.refused(bridge())
    assert found.code == "A112"
    machine.detach()
    eventually(footprint.left, NOTHING)


def test_another_bpffs(machine: Host, tmp_path: Path) -> None:
    """`--bpffs` mounts one where there is none, and everything is there."""
    root = tmp_path / "bpffs"
    root.mkdir()
    from runtime.status import status

    with entered(machine.namespace.name):
        apply(machine.compiled(bridge()), bpffs=root)
        try:
            assert machine.name not in chains(bpffs_root())
            assert [found.chain for found in status(bpffs=root)] == [machine.name]
            detach(machine.name, bpffs=root)
            assert not (root / "bpfchain").exists()
        finally:
            sys.umount(str(root))


def test_nothing_adds_up(machine: Host) -> None:
    chain, other = machine.compiled(bridge()), machine.compiled(bridge(aging="9s"))
    machine.apply(chain)
    machine.detach()
    before, ever = descriptors(), [NOTHING]
    for number in range(ROUNDS):
        machine.apply(other if number % 3 else chain)
        ever.append(machine.footprint())
        machine.detach()
        assert descriptors() == before
    assert machine.name not in chains(bpffs_root())
    assert descriptors() == before
    everything = functools.reduce(operator.or_, ever)
    assert len(everything.progs) == 2 * ROUNDS
    assert len(everything.btfs) >= ROUNDS
    eventually(everything.left, NOTHING)
