"""A command that dies at any of its calls, or whose calls fail one by one: never half a chain, and nothing left behind.

The calls are those that a clean run makes, so a new one is covered by itself. `BPFCHAIN_TEST_EVERY_CALL=1` tries each
single call of every scenario.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime import features, sys
from runtime.apply import apply
from runtime.attach import AttachPoint, occupants
from runtime.info import prog_info
from runtime.load import load_object
from runtime.netns import entered
from runtime.object import read_object
from runtime.pin import bpffs_root, chain_pins, chains
from runtime.plan import Kind
from runtime.uapi import AttachType, MapType
from schemas.compiled import CompiledChain
from schemas.diagnostic import ChainError
from schemas.manifest import Mode, Role
from tests.clang.c import compile_c
from tests.kernel.faults import Call, Doors, Stream, dies, to_die_at, to_fail
from tests.kernel.live import NOTHING, Host, bridge, descriptors, eventually, guard, guarded_bridge, host
from tests.rig.network import Network, network

pytestmark = pytest.mark.kernel


@pytest.fixture
def net() -> Iterator[Network]:
    with network("p1", "p2", "p3") as found:
        yield found


@pytest.fixture
def machine(net: Network, tmp_path: Path) -> Iterator[Host]:
    with host(net.dut, tmp_path) as found:
        yield found


def blocked(*more: str) -> dict[str, Any]:
    """Too long a list to be compiled in: it is in a trie, and changes in place."""
    return guard(sources=(*(f"10.{number // 256}.{number % 256}.0/24" for number in range(300)), *more))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What runs and what is to run (None: nothing), whether packets may be lost, whether the kernel has links."""

    before: dict[str, Any] | None
    after: dict[str, Any] | None
    lossless: bool = False
    links: bool = True


SCENARIOS = {
    "first apply": Scenario(None, guarded_bridge()),
    "swap": Scenario(bridge(), bridge(aging="9s"), lossless=True),
    "swap at TC": Scenario(bridge("tc"), bridge("tc", aging="9s"), lossless=True),
    "swap by netlink": Scenario(bridge(), bridge(aging="9s"), lossless=True, links=False),
    "swap of a filter": Scenario(bridge("tc"), bridge("tc", aging="9s"), lossless=True, links=False),
    "another mode": Scenario(bridge(), bridge("generic")),
    "in place": Scenario(blocked("198.51.100.0/24"), blocked("203.0.113.0/24"), lossless=True),
    "detach": Scenario(guarded_bridge(), None),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A scenario on a machine, compiled."""

    machine: Host
    before: CompiledChain | None
    after: CompiledChain | None

    def bring(self, chain: CompiledChain | None) -> None:
        """Makes the machine run this chain, or nothing."""
        if chain:
            self.machine.apply(chain)
        elif self.runs:
            self.machine.detach()

    @property
    def runs(self) -> bool:
        return self.machine.name in chains(bpffs_root())

    def clean_run(self) -> Doors:
        """The calls from `before` to `after`."""
        self.bring(self.before)
        doors = Doors()
        with doors.watched():
            self.bring(self.after)
        return doors

    def settled(self, chain: CompiledChain | None) -> None:
        """Fails unless exactly this chain runs, whole, and nothing else is there."""
        if chain is None:
            assert not self.runs
            assert not [name for name in self.machine.devices() if name.startswith("bc")]
            assert self.machine.qdiscs() == []
            return
        assert len(self.machine.generations()) == 1
        assert self.machine.status().problems == ()
        assert not self.machine.plan(chain)
        self.whole_tables()
        assert not [path for path in self.machine.pins() if "fresh" in path or "pending" in path]

    def whole_tables(self) -> None:
        """Fails unless configured maps have what the record says."""
        for pins in chain_pins(bpffs_root(), self.machine.name).generations():
            record = pins.read_record()
            assert record
            for table in (found for found in record.manifest.maps if found.role is Role.CONFIG):
                with sys.obj_get(pins.map(table.name, table.layout)) as fd:
                    size = sys.user_value_size(MapType[table.type], table.value_size)
                    assert {key for key, _ in sys.map_entries(fd, table.key_size, size)} == {
                        entry.key for entry in table.entries
                    }


@contextlib.contextmanager
def staged(scenario: Scenario, machine: Host) -> Iterator[Stage]:
    before, after = (machine.compiled(chain) if chain else None for chain in (scenario.before, scenario.after))
    _probe(*(chain for chain in (before, after) if chain))
    with pytest.MonkeyPatch.context() as patched:
        if not scenario.links:
            has = features.has
            patched.setattr(features, "has", lambda feature: not feature.startswith("link:") and has(feature))
        stage = Stage(machine, before, after)
        yield stage
        stage.bring(None)


def _probe(*used: CompiledChain) -> None:
    """The kernel's features are asked for once in a process: not in the runs that are counted, then."""
    for feature in ("link:xdp", "link:tcx", *(feature for chain in used for feature in chain.manifest.features)):
        features.has(feature)


def _known(name: str, machine: Host) -> set[Call]:
    """The calls of the scenarios before this one: what these try already need not be tried again."""
    known: set[Call] = set()
    for other in list(SCENARIOS)[: list(SCENARIOS).index(name)]:
        with staged(SCENARIOS[other], machine) as stage:
            known |= set(stage.clean_run().calls)
    return known


# --- deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_whoever_dies_at_any_call_is_mended_by_the_next(name: str, machine: Host, net: Network) -> None:
    scenario, known = SCENARIOS[name], _known(name, machine)
    with staged(scenario, machine) as stage, contextlib.ExitStack() as meanwhile:
        points = to_die_at(stage.clean_run().points, known)
        assert points
        stage.bring(stage.before)
        stream = meanwhile.enter_context(Stream(net, "p1", "p2")) if scenario.lossless else None
        for turn, point in enumerate(points):
            dies(Doors(die=point), lambda: stage.bring(stage.after))
            if stream:
                stream.goes_on()
            footprint = machine.footprint()
            wanted = stage.after if turn % 2 else stage.before
            stage.bring(wanted)
            stage.settled(wanted)
            assert machine.footprint().left() == machine.footprint(), f"death before {point}"
            gone = footprint - machine.footprint()
            eventually(gone.left, NOTHING)
            stage.bring(stage.before)
        if stream:
            stream.goes_on()
    if stream:
        stream.check()


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_any_call_that_fails_leaves_one_whole_generation(name: str, machine: Host) -> None:
    """Before the new generation is finished, all is as it was; after that it runs, and only tidying is left."""
    known = _known(name, machine)
    with staged(SCENARIOS[name], machine) as stage:
        failures = 0
        for point in to_fail(stage.clean_run().points, known):
            stage.bring(stage.before)
            running, before = machine.footprint(), descriptors()
            try:
                with Doors(fail=point).watched():
                    stage.bring(stage.after)
            except ChainError as error:  # anything else is no diagnostic, and fails the test
                failures += 1
                told = "\n".join(str(found.message) for found in error.diagnostics)
                assert re.search("ENOMEM|no memory|Cannot allocate memory", told), f"{told}\n{point}"
                _one_of_two(stage, running.progs, str(point))
            else:
                stage.settled(stage.after)
            assert descriptors() == before
            stage.bring(stage.after)
            stage.settled(stage.after)
            eventually((running - machine.footprint()).left, NOTHING)
        assert failures


def _one_of_two(stage: Stage, programs: frozenset[int], where: str) -> None:
    """What a failed command leaves: everything as it was, or the new state with something to tidy up."""
    machine = stage.machine
    if stage.after is None:  # half a detach: what is left still says so
        assert stage.runs, where
    elif stage.before is None and not stage.runs:
        stage.settled(None)
    elif stage.before and not machine.plan(stage.before):
        assert machine.footprint().progs == programs, where
        stage.settled(stage.before)
    else:
        assert {change.kind for change in machine.plan(stage.after).changes} <= {Kind.LEFTOVER}, where
        assert {found.state for found in machine.status().interfaces} == {"attached"}, where


# --- a hook that changes hands --------------------------------------------------------------------------------------

FOREIGN = 'SEC("xdp") int stranger(struct xdp_md *ctx) { return 2; }'


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_whoever_dies_while_a_hook_changes_hands_leaves_it_to_one_of_both(
    mode: str, machine: Host, net: Network
) -> None:
    """Whoever made the link still holds it; in another mode the hook may be empty, if death comes right then."""
    chain, ifindex = machine.compiled(bridge(mode)), net.cables["p2"].port.ifindex
    _probe(chain)
    hook = AttachPoint("p2", "p2", net.dut.name, Mode(mode))

    def take_over() -> None:
        with entered(net.dut.name):
            apply(chain, replace=[("p2", foreign)])

    with load_object(read_object(compile_c(FOREIGN)), maps={}) as loaded:
        program = loaded.programs["stranger"]
        foreign = prog_info(program).id

        def put_there() -> sys.Fd:
            with entered(net.dut.name):
                return sys.link_create(program, ifindex, AttachType.BPF_XDP)

        known, doors = Doors(), Doors()
        with known.watched():
            take_over()
        machine.detach()
        with put_there(), doors.watched():
            take_over()
        machine.detach()
        for point in to_die_at(doors.points, known.calls):
            with put_there():
                dies(Doors(die=point), take_over)
                there = {found.prog_id for found in occupants(hook, ifindex)}
                assert there == {foreign} or there <= machine.footprint().progs
                assert there or mode == "generic"
                take_over()
                assert machine.status().problems == ()
                machine.detach()
                assert occupants(hook, ifindex) == ()
