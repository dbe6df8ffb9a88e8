"""A command that dies at any of its calls, or whose calls fail one by one: never half a chain, and nothing left behind.

The calls are those that a clean run makes, so a new one is covered by itself. `BPFCHAIN_TEST_EVERY_CALL=1` tries each
single call of every scenario.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from runtime import features, steps, sys
from runtime.apply import apply
from runtime.attach import AttachPoint, Occupant, evict, occupants
from runtime.bpffs import bpffs_root
from runtime.devices import require_device
from runtime.guard import End, Order
from runtime.guard import guard as try_
from runtime.netns import entered
from runtime.pin import chain_pins, chains
from runtime.plan import Kind, Way
from runtime.steps import OnStep, Step
from runtime.trying import begin, confirm
from runtime.uapi import AttachType, MapType
from runtime.veth import veth_pairs
from schemas.compiled import CompiledChain
from schemas.diagnostic import ChainError, Diagnostic, LoadFailed
from schemas.manifest import Mode, Role
from tests.kernel.faults import KILLED, Call, Doors, Point, Stream, dies, to_die_at, to_fail
from tests.kernel.live import NOTHING, Host, bridge, descriptors, guard, guarded_bridge
from tests.kernel.strangers import CASES, Case, Foreign, strangers
from tests.rig.network import Network
from tests.rig.waiting import eventually

pytestmark = pytest.mark.kernel


def blocked(*more: str) -> dict[str, Any]:
    """Too long a list to be compiled in: it is in a trie, and changes in place."""
    return guard(sources=(*(f"10.{number // 256}.{number % 256}.0/24" for number in range(300)), *more))


def renamed(chain: dict[str, Any]) -> dict[str, Any]:
    """The same devices under other names."""
    interfaces = {f"{name}-again": interface for name, interface in chain["interfaces"].items()}
    return {**chain, "interfaces": interfaces, "links": [[port, f"{name}-again"] for port, name in chain["links"]]}


small = functools.partial(bridge, size=64)
"""Whatever looks at a bridge reads its whole table."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What runs and what is to run (None: nothing), whether packets may be lost, whether the kernel has links."""

    before: dict[str, Any] | None
    after: dict[str, Any] | None
    lossless: bool = False
    links: bool = True


SCENARIOS = {
    "first apply": Scenario(None, guarded_bridge()),
    "swap": Scenario(small(), small(aging="9s"), lossless=True),
    "swap at TC": Scenario(small("tc"), small("tc", aging="9s"), lossless=True),
    "swap by netlink": Scenario(small(), small(aging="9s"), lossless=True, links=False),
    "swap of a filter": Scenario(small("tc"), small("tc", aging="9s"), lossless=True, links=False),
    "another mode": Scenario(small(), small("generic")),
    "another mode, by netlink": Scenario(small(), small("generic"), links=False),
    "more, by netlink": Scenario(small(), guarded_bridge(), links=False),
    "less, by netlink": Scenario(guarded_bridge(), small(), links=False),
    "another name": Scenario(small(), renamed(small())),
    "in place": Scenario(blocked("198.51.100.0/24"), blocked("203.0.113.0/24"), lossless=True),
    "detach": Scenario(guarded_bridge(), None),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A scenario on a machine, compiled."""

    machine: Host
    before: CompiledChain | None
    after: CompiledChain | None

    def bring(self, chain: CompiledChain | None) -> tuple[Diagnostic, ...]:
        """Makes the machine run this chain, or nothing: warnings."""
        if chain:
            return self.machine.apply(chain).warnings
        if self.runs:
            self.machine.detach()
        return ()

    @property
    def runs(self) -> bool:
        return self.machine.name in chains(bpffs_root())

    def clean_run(self) -> list[Point]:
        """The calls from `before` to `after` that do not depend on what else this host does."""
        runs = []
        for _ in range(2):
            self.bring(self.before)
            doors = Doors()
            with doors.watched():
                self.bring(self.after)
            runs.append(doors.points)
        always = set(runs[0]) & set(runs[1])
        return [point for point in runs[1] if point in always]

    def settled(self, chain: CompiledChain | None) -> None:
        """Fails unless exactly this chain runs, whole, and nothing else is there."""
        self.nowhere_else(chain)
        if chain is None:
            assert not self.runs
            assert self.machine.qdiscs() == []
            return
        assert len(self.machine.generations()) == 1
        assert self.machine.status().problems == ()
        assert not self.machine.plan(chain)
        self.whole_tables()
        assert not [path for path in self.machine.pins() if "fresh" in path or "pending" in path]

    def nowhere_else(self, chain: CompiledChain | None) -> None:
        """Fails where there is a veth pair, or a program on a device, that this chain does not need."""
        pairs = veth_pairs(chain.manifest) if chain else ()
        ends = {end for pair in pairs for end in (pair.a, pair.b)}
        assert {name for name in self.machine.devices() if name.startswith("bc")} == ends
        used = {interface.device for interface in chain.manifest.interfaces} if chain else set()
        namespace = self.machine.namespace.name
        for port in {"p1", "p2", "p3"} - used:
            for mode in (Mode.NATIVE, Mode.TC):
                assert (
                    occupants(AttachPoint(port, port, namespace, mode), require_device(port, namespace).ifindex) == ()
                )

    def empty_hooks(self) -> set[str]:
        """Devices of both chains that no program of theirs is on."""
        programs = self.machine.footprint().progs
        return {port for port in ("p1", "p2") if not programs & self._occupants(port)}

    def _occupants(self, port: str) -> set[int]:
        namespace = self.machine.namespace.name
        points = [AttachPoint(port, port, namespace, mode) for mode in (Mode.NATIVE, Mode.TC)]
        ifindex = require_device(port, namespace).ifindex
        return {found.prog_id for point in points for found in occupants(point, ifindex)}

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
    others = list(SCENARIOS)[: list(SCENARIOS).index(name)]
    for other in others:
        if other not in _CALLS:
            with staged(SCENARIOS[other], machine) as stage:
                _CALLS[other] = {call for call, _ in stage.clean_run()}
    return set().union(*(_CALLS[other] for other in others))


_CALLS: dict[str, set[Call]] = {}

# --- deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_whoever_dies_at_any_call_is_mended_by_the_next(name: str, machine: Host, net: Network) -> None:
    scenario, known = SCENARIOS[name], _known(name, machine)
    with staged(scenario, machine) as stage, contextlib.ExitStack() as meanwhile:
        points = to_die_at(stage.clean_run(), known)
        assert points
        stage.bring(stage.before)
        stream = meanwhile.enter_context(Stream(net, "p1", "p2")) if scenario.lossless else None
        for turn, point in enumerate(points):
            dies(Doors(die=point), lambda: stage.bring(stage.after))
            if stream:
                stream.goes_on()
            if scenario.before and scenario.after:
                eventually(lambda: len(stage.empty_hooks()), 0)
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
    """Before the new generation is finished, all is as it was; after that it runs, and a warning says what is left."""
    known = _known(name, machine)
    with staged(SCENARIOS[name], machine) as stage:
        failures = 0
        for point in to_fail(stage.clean_run(), known):
            stage.bring(stage.before)
            running, before = machine.footprint(), descriptors()
            try:
                with Doors(point).watched():
                    told = stage.bring(stage.after)
            except ChainError as error:  # anything else is no diagnostic, and fails the test
                failures += 1
                _is_told(error.diagnostics, point)
                _as_before(stage, running.progs, str(point))
            else:
                if told:
                    assert {found.code for found in told} == {"A114"}
                    _is_told(told, point)
                    _only_left_over(stage, str(point))
                else:
                    stage.settled(stage.after)
            assert descriptors() == before
            stage.bring(stage.after)
            stage.settled(stage.after)
            eventually((running - machine.footprint()).left, NOTHING)
        assert failures


def _is_told(diagnostics: tuple[Diagnostic, ...], point: Point) -> None:
    told = "\n".join(str(found.message) for found in diagnostics)
    assert re.search("ENOMEM|no memory|Cannot allocate memory", told), f"{told}\n{point}"


def _as_before(stage: Stage, programs: frozenset[int], where: str) -> None:
    """What a command that failed leaves: everything as it was."""
    if stage.after is None:  # half a detach: what is left still says so
        assert stage.runs, where
        return
    stage.settled(stage.before)
    assert stage.machine.footprint().progs == programs, where


def _only_left_over(stage: Stage, where: str) -> None:
    """What a command that warns leaves: the new chain at work, and something to tidy up."""
    assert stage.after
    assert {change.kind for change in stage.machine.plan(stage.after).changes} <= {Kind.LEFTOVER}, where
    assert {found.state for found in stage.machine.status().interfaces} == {"attached"}, where


COMMITS = ("finish the new generation", "keep the record")


def _taken_back(stage: Stage, doors: Doors) -> None:
    """Stops an apply right before its last step; what takes it back goes through the doors."""
    with contextlib.ExitStack() as meanwhile:

        def stop(step: Step) -> None:
            if step.title in COMMITS:
                meanwhile.enter_context(doors.watched())
                raise LoadFailed

        assert stage.after
        with pytest.raises(LoadFailed):
            stage.machine.apply(stage.after, stop)


@pytest.mark.parametrize("name", ["swap", "more, by netlink", "another mode", "in place"])
def test_what_cannot_be_taken_back_is_mended_by_the_next(name: str, machine: Host, net: Network) -> None:
    """One call that takes an apply back fails, or that one and all that follow."""
    scenario = SCENARIOS[name]
    with staged(scenario, machine) as stage, contextlib.ExitStack() as meanwhile:
        stage.bring(stage.before)
        stream = meanwhile.enter_context(Stream(net, "p1", "p2")) if scenario.lossless else None
        clean = Doors()
        _taken_back(stage, clean)
        stage.settled(stage.before)
        for turn, point in enumerate(to_fail(clean.points)):
            onwards = clean.points[clean.points.index(point) :]
            before = descriptors()
            _taken_back(stage, Doors(*(onwards if turn % 2 else [point])))
            assert descriptors() == before
            if stream:
                stream.goes_on()
            footprint, wanted = machine.footprint(), stage.after if turn % 4 < 2 else stage.before
            stage.bring(wanted)
            stage.settled(wanted)
            eventually((footprint - machine.footprint()).left, NOTHING)
            stage.bring(stage.before)
        if stream:
            stream.goes_on()
    if stream:
        stream.check()


# --- updates in place, one after the other ---------------------------------------------------------------------------


def test_an_update_in_place_that_died_is_taken_back_by_whatever_comes_next(machine: Host) -> None:
    """The next command dies too, or fails, at any of its calls; or it is a new generation, which keeps the tables."""
    scenario = Scenario(blocked("198.51.100.0/24"), blocked("203.0.113.0/24"))
    other, larger = machine.compiled(blocked("192.0.2.0/24")), blocked("198.51.100.0/24")
    larger["services"]["guard"]["rate"] = {"per-source": 1000}
    with staged(scenario, machine) as stage:
        commit = [point for point in stage.clean_run() if point[0].name == "rename"][-1]

        def half() -> None:
            """All entries are those of `after`, and the record is not."""
            stage.bring(stage.before)
            dies(Doors(die=commit), lambda: stage.bring(stage.after))
            assert machine.status().problems == ("an update in place was interrupted: apply again",)

        half()
        doors = Doors()
        with doors.watched():
            machine.apply(other)
        for point in to_die_at(doors.points):
            half()
            dies(Doors(die=point), lambda: stage.bring(other))
            stage.bring(stage.before)
            stage.settled(stage.before)
        for point in (found for found in to_fail(doors.points) if found[0].lasts):
            half()
            with contextlib.suppress(ChainError), Doors(point).watched():
                stage.bring(other)
            stage.bring(stage.before)
            stage.settled(stage.before)
        half()
        generation = machine.compiled(larger)
        assert machine.apply(generation).plan.way is Way.GENERATION
        stage.settled(generation)


# --- a hook that changes hands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_whoever_dies_while_a_hook_changes_hands_leaves_it_to_one_of_both(
    mode: str, machine: Host, net: Network
) -> None:
    """Whoever made the link still holds it; in another mode the hook may be empty, but not for long."""
    chain, ifindex = machine.compiled(bridge(mode)), net.cables["p2"].port.ifindex
    _probe(chain)
    hook = AttachPoint("p2", "p2", net.dut.name, Mode(mode))

    def take_over() -> None:
        with entered(net.dut.name):
            apply(chain, replace=[("p2", foreign)])

    with strangers(net) as others:
        foreign, put_there = others.xdp_id, functools.partial(others.by_link, "p2", AttachType.BPF_XDP)
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
                if mode == "generic":
                    eventually(lambda: len(occupants(hook, ifindex)), 1)
                (there,) = {found.prog_id for found in occupants(hook, ifindex)}
                assert there == foreign or there in machine.footprint().progs
                take_over()
                assert machine.status().problems == ()
                machine.detach()
                assert occupants(hook, ifindex) == ()


@dataclass(frozen=True, slots=True)
class Hand:
    """A hook that is to change hands: whose it is, how it is put there, and who may be on it afterwards."""

    case: Case
    foreign: Foreign
    machine: Host

    @property
    def mode(self) -> Mode:
        return Mode(self.case.mode)

    @property
    def replaced(self) -> tuple[str, int]:
        return "p2", self.foreign.tc_id if self.mode is Mode.TC else self.foreign.xdp_id

    def occupants(self) -> tuple[Occupant, ...]:
        return self.foreign.on("p2", self.mode)

    @contextlib.contextmanager
    def put_there(self) -> Iterator[tuple[Occupant, ...]]:
        """Puts the foreign program on the hook for the length of the block; and takes the chain off after it."""
        with contextlib.ExitStack() as stack:
            link = self.case.put(self.foreign)
            if link:
                stack.enter_context(link)
            yield self.occupants()
        if self.machine.name in chains(bpffs_root()):
            self.machine.detach()
        for left in self.occupants():
            evict(AttachPoint("p2", "p2", self.machine.namespace.name, self.mode), self.foreign.ifindex("p2"), left)


HANDS = ["link", "netlink", "netlink in another mode", "TCX link"]


def calls_of(command: Callable[[], object]) -> list[Point]:
    doors = Doors()
    with doors.watched():
        command()
    return doors.points


@pytest.mark.parametrize("name", HANDS)
def test_any_call_that_fails_while_a_hook_changes_hands_leaves_it_to_one_of_both(
    name: str, machine: Host, net: Network
) -> None:
    """To whom it was, where the apply fails; to the chain, where it warns. What any apply calls fails above."""
    chain = machine.compiled(bridge(CASES[name].mode))
    _probe(chain)
    with strangers(net) as foreign:
        hand = Hand(CASES[name], foreign, machine)
        replaced = hand.replaced  # looked up through no doors

        def take_over() -> tuple[Diagnostic, ...]:
            with entered(net.dut.name):
                return apply(chain, replace=[replaced], log_directory=machine.folder).warnings

        known = {call for call, _ in calls_of(lambda: machine.apply(chain))}
        machine.detach()
        with hand.put_there():
            points = calls_of(take_over)
        failures = 0
        for point in to_fail(points, known):
            with hand.put_there() as there:
                before = descriptors()
                try:
                    with Doors(point).watched():
                        told = take_over()
                except ChainError as error:
                    failures += 1
                    _is_told(error.diagnostics, point)
                    assert hand.occupants() == there, point
                    assert machine.name not in chains(bpffs_root()), point
                else:
                    assert {found.code for found in told} <= {"A114"}
                    assert hand.occupants()[0].prog_id in machine.footprint().progs, point
                    assert machine.status().problems == () or told, point
                assert descriptors() == before
        assert failures


def test_any_call_that_fails_while_a_chain_is_tried_goes_back(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that an apply makes as well fail above."""
    monkeypatch.setattr("runtime.guard._PAUSES", (0.01,))
    monkeypatch.setattr("runtime.guard.POLL_SECONDS", 0.001)
    with staged(Scenario(bridge(), bridge(aging="9s")), machine) as stage:
        assert stage.after
        order = Order(stage.after, timedelta(seconds=0.001))

        def is_tried() -> None:
            with entered(machine.namespace.name):
                assert try_(order, log_directory=machine.folder).end is End.TAKEN_BACK

        stage.bring(stage.before)
        applied = {call.step for call, _ in calls_of(lambda: (stage.bring(stage.after), stage.bring(stage.before)))}
        points = calls_of(is_tried)
        for point in to_fail(points, {call for call, _ in points if call.step in applied}):
            stage.bring(stage.before)
            before = descriptors()
            try:
                with Doors(point).watched():
                    is_tried()
            except ChainError as error:
                _is_told(error.diagnostics, point)
            assert machine.status().trial is None, point
            stage.bring(stage.before)  # a clean-up that failed is left to the next apply
            stage.settled(stage.before)
            assert descriptors() == before


@pytest.mark.parametrize("name", ["link", "netlink in another mode"])
def test_whoever_dies_while_a_hook_is_lent_leaves_it_to_one_of_both_and_the_next_apply_gives_it_back(
    name: str, machine: Host, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.guard.POLL_SECONDS", 0.001)
    chain = machine.compiled(bridge(CASES[name].mode))
    _probe(chain)
    with strangers(net) as foreign:
        hand = Hand(CASES[name], foreign, machine)
        theirs = hand.replaced

        def lend(*replaced: tuple[str, int]) -> None:
            with entered(net.dut.name):
                try_(Order(chain, timedelta(seconds=0.001), replace=replaced), log_directory=machine.folder)

        known = {call for call, _ in calls_of(lend)}
        with hand.put_there():
            points = calls_of(lambda: lend(theirs))
        for point in to_die_at(points, known):
            with hand.put_there() as there:
                dies(Doors(die=point), lambda: lend(theirs))
                eventually(lambda: len(hand.occupants()), 1)
                assert [found.code for found in machine.refused(chain)] == ["A102"], point
                assert hand.occupants() == there, point
                assert machine.status().trial is None if machine.name in chains(bpffs_root()) else True, point


@pytest.mark.parametrize("name", ["link", "netlink in another mode", "TCX link"])
def test_any_call_that_fails_while_a_hook_is_lent_gives_it_back_in_the_end(
    name: str, machine: Host, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try that fails, or a way back that does: its guard goes on until the hook, never empty, is whose it was."""
    monkeypatch.setattr("runtime.guard._PAUSES", (0.01,))
    monkeypatch.setattr("runtime.guard.POLL_SECONDS", 0.001)
    chain = machine.compiled(bridge(CASES[name].mode))
    _probe(chain)
    with strangers(net) as foreign:
        hand = Hand(CASES[name], foreign, machine)
        theirs = hand.replaced  # looked up through no doors

        def never_empty(_: Step) -> None:
            assert hand.occupants()

        def lend(*replaced: tuple[str, int], on_step: OnStep | None = None) -> End:
            order = Order(chain, timedelta(seconds=0.001), replace=replaced)
            with entered(net.dut.name):
                return try_(order, on_step=on_step, log_directory=machine.folder).end

        known = {call for call, _ in calls_of(lend)}
        with hand.put_there():
            points = calls_of(lambda: lend(theirs))
        for point in to_fail(points, known):
            with hand.put_there() as there:
                before = descriptors()
                with contextlib.suppress(ChainError), Doors(point).watched():
                    assert lend(theirs, on_step=never_empty) is End.TAKEN_BACK
                assert hand.occupants() == there, point
                assert machine.name not in chains(bpffs_root()), point
                assert descriptors() == before


@pytest.mark.parametrize("name", ["another mode", "another mode, by netlink"])
def test_whoever_dies_while_a_change_of_mode_is_taken_back_leaves_no_hook_empty(name: str, machine: Host) -> None:
    """What puts the new program on the hook fails, and what takes that back is the last that somebody does."""
    with staged(SCENARIOS[name], machine) as stage:

        def fails(doors: Doors) -> None:
            with contextlib.suppress(ChainError), doors.watched():
                stage.bring(stage.after)

        points = [point for point in stage.clean_run() if _puts_on_a_hook(point[0])]
        failing = points[-1]
        stage.bring(stage.before)
        doors = Doors(failing)
        fails(doors)
        stage.settled(stage.before)
        for point in to_die_at(doors.points[doors.points.index(failing) + 1 :]):
            stage.bring(stage.before)
            dies(Doors(failing, die=point), lambda: stage.bring(stage.after))
            eventually(lambda: len(stage.empty_hooks()), 0)
            stage.bring(stage.after)
            stage.settled(stage.after)


@pytest.mark.parametrize("name", ["another mode", "another mode, by netlink"])
def test_a_mode_that_is_refused_is_left_again_before_anything_else(
    name: str, machine: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever dies between the refusal and the way back leaves no hook empty."""
    with staged(SCENARIOS[name], machine) as stage:
        points = [point for point in stage.clean_run() if _puts_on_a_hook(point[0])]
        monkeypatch.setattr(steps, "_take_back", lambda _: os._exit(KILLED))
        for point in points:
            stage.bring(stage.before)
            child = os.fork()
            if child == 0:
                try:
                    with Doors(point).watched():
                        stage.bring(stage.after)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED, point
            assert stage.empty_hooks() == set(), point
        monkeypatch.undo()
        stage.bring(stage.after)
        stage.settled(stage.after)


def _puts_on_a_hook(call: Call) -> bool:
    return call.name in ("BPF_LINK_CREATE", "link set") and any(file.endswith("/hooks.py") for file, _ in call.place)


def _kept(machine: Host) -> tuple[Diagnostic, ...]:
    with entered(machine.namespace.name):
        return confirm(machine.name).warnings


@dataclass(frozen=True, slots=True)
class Loan:
    """A hook that a try takes over from somebody else, beside hooks that the chain had."""

    hand: Hand
    running: CompiledChain
    chain: CompiledChain

    @contextlib.contextmanager
    def tried(self) -> Iterator[None]:
        """The try, which nobody guards any more, for the length of the block."""
        machine = self.hand.machine
        with self.hand.put_there():
            machine.apply(self.running)
            with entered(machine.namespace.name), contextlib.ExitStack() as lock:
                begin(self.chain, timedelta(seconds=60), lock, replace=[self.hand.replaced])
            yield

    def calls_to_keep(self) -> list[Point]:
        with self.tried():
            return calls_of(lambda: _kept(self.hand.machine))


@contextlib.contextmanager
def lent(name: str, machine: Host, net: Network) -> Iterator[Loan]:
    mode = CASES[name].mode
    running, chain = machine.compiled(bridge(mode, ports=("p1", "p3"))), machine.compiled(bridge(mode))
    _probe(chain)
    with strangers(net) as foreign:
        yield Loan(Hand(CASES[name], foreign, machine), running, chain)


def _ours_alone(hand: Hand, point: Point) -> None:
    """Fails unless what was confirmed runs, whole, and nobody else is on the hook."""
    (there,) = hand.occupants()
    assert there.prog_id in hand.machine.footprint().progs, point
    assert hand.machine.status().problems == (), point
    assert len(hand.machine.generations()) == 1, point
    assert not list(chain_pins(bpffs_root(), hand.machine.name).path.glob("trial*")), point


@pytest.mark.parametrize("name", ["link", "TCX link"])
def test_whoever_dies_while_a_try_is_kept_has_kept_it_or_not(name: str, machine: Host, net: Network) -> None:
    """Then it can still be confirmed; else the next apply ends it, and whom it replaced has gone."""
    with lent(name, machine, net) as loan:
        for point in to_die_at(loan.calls_to_keep()):
            with loan.tried():
                dies(Doors(die=point), lambda: _kept(machine))
                if machine.status().trial:
                    assert _kept(machine) == ()
                else:
                    assert machine.apply(loan.chain).warnings == ()
                _ours_alone(loan.hand, point)


@pytest.mark.parametrize("name", ["link", "TCX link"])
def test_any_call_that_fails_while_a_try_is_kept_is_mended_by_the_next(name: str, machine: Host, net: Network) -> None:
    """It is still tried, and told why; or it is kept, and a warning says what is left."""
    with lent(name, machine, net) as loan:
        warned = 0
        for point in to_fail(loan.calls_to_keep()):
            with loan.tried():
                before = descriptors()
                try:
                    with Doors(point).watched():
                        told = _kept(machine)
                except ChainError as error:
                    _is_told(error.diagnostics, point)
                    assert machine.status().trial, point
                    assert _kept(machine) == ()
                else:
                    assert {found.code for found in told} <= {"A114"}
                    if told:
                        warned += 1
                        _is_told(told, point)
                    assert machine.apply(loan.chain).warnings == (), point
                assert descriptors() == before
                _ours_alone(loan.hand, point)
        assert warned
