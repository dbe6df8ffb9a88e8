"""A compiled chain in, that chain running out: what runs is looked at, compared, and brought over step by step.

Everything new is made, loaded, filled and checked beside what runs. Then each hook gets its new program in one atomic
step; then the old generation goes. A failure before that touches nothing, a failure in it is taken back.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.compiled import CompiledChain
from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, MapRecord

from . import features, hooks, link, sys, veth
from .attach import empty
from .devices import find_device
from .generation import (
    Generation,
    Host,
    Predecessor,
    host_facts,
    load_programs,
    look,
    make_maps,
    prepare,
    require_interfaces,
)
from .home import here, is_reachable
from .pin import (
    ChainPins,
    GenerationPins,
    Record,
    bpffs_root,
    chain_pins,
    chains,
    ensure_bpffs,
    locked,
)
from .plan import Plan, Way, entry_updates, make_plan
from .state import LiveChain, LiveGeneration, read
from .steps import OnStep, Step, carry_out


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did. `generation` is the number of the one that runs now."""

    plan: Plan
    generation: int
    seconds: float

    def __str__(self) -> str:
        took = f"{self.seconds * 1000:.0f} ms"
        chain = self.plan.manifest.chain
        if not self.plan:
            return f"chain {chain}: no changes ({took})"
        how = f"changed {self.plan.way}" if self.plan.way is Way.IN_PLACE else f"runs generation {self.generation}"
        return f"chain {chain}: {how} ({took})"


def plan(chain: CompiledChain | Manifest, *, bpffs: str | Path | None = None) -> Plan:
    """What `apply` would do now; nothing is touched. Raises `LoadFailed`, `NotSupported`."""
    features.require_privilege()
    manifest = chain if isinstance(chain, Manifest) else chain.manifest
    require_interfaces(manifest)
    return make_plan(manifest, read(bpffs_root(bpffs), manifest.chain), look(manifest))


def apply(
    chain: CompiledChain,
    *,
    bpffs: str | Path | None = None,
    on_step: OnStep | None = None,
    log_directory: Path | None = None,
) -> Applied:
    """Makes the host run `chain`. Raises `LoadFailed`, `VerifierRejected`, `NotSupported`: then all is as it was."""
    started = time.monotonic()
    features.require_privilege()
    root = bpffs_root(bpffs)
    require_interfaces(chain.manifest)
    ensure_bpffs(root)
    with locked(root):
        live = read(root, chain.manifest.chain)
        wanted = make_plan(chain.manifest, live, look(chain.manifest))
        pins = chain_pins(root, chain.manifest.chain)
        current = live.current if live else None
        if wanted.way is Way.GENERATION:
            _swap_generations(chain, wanted, live, pins, on_step, log_directory)
            number = wanted.following
        else:
            assert live, "a plan without a new generation has one to keep"
            assert current
            assert current.record
            number = current.number
            if wanted.way is Way.IN_PLACE:
                carry_out(tuple(_in_place(chain.manifest, wanted, current)), on_step)
            elif chain.manifest != current.record.manifest:
                current.pins.write_record(_record(chain.manifest, current.record.facts))
            _clean_up([generation.pins for generation in live.leftovers], on_step)
    return Applied(wanted, number, time.monotonic() - started)


def _record(manifest: Manifest, facts: Mapping[str, bytes]) -> Record:
    return Record(manifest, facts, here(), int(time.time()))


# --- a new generation -----------------------------------------------------------------------------------------------


def _swap_generations(
    chain: CompiledChain,
    wanted: Plan,
    live: LiveChain | None,
    pins: ChainPins,
    on_step: OnStep | None,
    log_directory: Path | None,
) -> None:
    with contextlib.ExitStack() as opened:
        generation = opened.enter_context(Generation(chain.manifest, {}, {}))
        taken = hooks.hooks_of(generation, live, opened)
        before = _predecessor(live)
        new_pins = pins.unfinished(wanted.following)
        try:
            carry_out(
                (
                    *_build(chain, generation, taken, before, new_pins, log_directory),
                    *taken.steps(generation, new_pins),
                    Step("finish the new generation", lambda: _finish(new_pins)),
                ),
                on_step,
            )
        except BaseException:
            pins.remove_if_empty()
            raise
        carry_out(tuple(_drop_old(taken, live, chain.manifest)), on_step)


def _finish(pins: GenerationPins) -> None:
    pins.finish()


def _predecessor(live: LiveChain | None) -> Predecessor | None:
    current = live.current if live else None
    if current is None or current.record is None:
        return None
    return Predecessor(current.pins, current.record.manifest, frozenset(current.maps))


def _build(
    chain: CompiledChain,
    generation: Generation,
    taken: hooks.Hooks,
    before: Predecessor | None,
    pins: GenerationPins,
    log_directory: Path | None,
) -> Iterator[Step]:
    """Everything up to the first swap; no packet notices any of it."""
    manifest = chain.manifest

    def find_devices() -> None:
        host = look(manifest)
        generation.devices, generation.facts = host.devices, host_facts(manifest, host)

    def link_up() -> None:
        link.fill(manifest, generation.maps, generation.programs, generation.devices)

    def pin() -> None:
        pins.make()
        pins.write_record(_record(manifest, generation.facts))
        for record in manifest.maps:
            sys.obj_pin(generation.maps[record.name], pins.map(record.name, record.layout))
        for name, fd in generation.programs.items():
            sys.obj_pin(fd, pins.program(name))

    yield Step("ask the kernel for its features", lambda: features.require(manifest.features))
    for pair in veth.veth_pairs(manifest):
        if not veth.is_ours(pair):
            yield _make_veth(pair, manifest)
    yield Step("look who is on the hooks", taken.check_free)
    yield Step("find the devices", find_devices)
    yield Step("make the maps", lambda: make_maps(generation, before))
    yield Step("load the programs", lambda: load_programs(generation, chain.objects, log_directory))
    yield Step("fill and check the slots", link_up)
    yield Step("pin the new generation", pin, pins.remove)


def _make_veth(pair: veth.VethPair, manifest: Manifest) -> Step:
    def do() -> None:
        devices = [find_device(interface.device, interface.netns) for interface in manifest.interfaces]
        veth.create(pair, max(device.mtu for device in devices if device))

    return Step(f"make internal link {pair.link}", do, lambda: veth.remove(pair))


def _drop_old(taken: hooks.Hooks, live: LiveChain | None, manifest: Manifest) -> Iterator[Step]:
    """What nothing needs any more; from here on there is no way back."""
    if live is None:
        return
    for attachment in taken.stale():
        yield Step(f"leave {attachment.point}", functools.partial(hooks.remove, attachment))
    yield Step("wait for packets on their way", link.settle)
    for old in live.generations:
        yield Step(f"drop {old.pins.path.name}", old.pins.remove)
    yield from _drop_veths(live, manifest)


def _drop_veths(live: LiveChain, manifest: Manifest | None) -> Iterator[Step]:
    needed = {(pair.a, pair.netns) for pair in veth.veth_pairs(manifest)} if manifest else set()
    pairs = {
        (pair.a, pair.netns): pair
        for old in live.generations
        if old.record
        for pair in veth.veth_pairs(old.record.manifest, old.home)
    }
    alive = {attachment.point.place for attachment in live.attachments if attachment.ifindex}
    for place, pair in pairs.items():
        if place not in needed and (is_reachable(pair.netns) or pair.attach_point.place in alive):
            yield Step(f"remove internal link {pair.link}", functools.partial(veth.remove, pair))


def _clean_up(leftovers: list[GenerationPins], on_step: OnStep | None) -> None:
    carry_out([Step(f"drop {pins.path.name}", pins.remove) for pins in leftovers], on_step)


# --- in place -------------------------------------------------------------------------------------------------------


def _in_place(manifest: Manifest, wanted: Plan, current: LiveGeneration) -> Iterator[Step]:
    """Entries of maps, and then the record that says so. A pending record makes an interruption known."""
    assert current.record is not None
    running = current.record.manifest
    record = _record(manifest, current.record.facts)
    bases = [running, *([current.pending] if current.pending else [])]
    yield Step(
        "say what is about to change",
        lambda: current.pins.write_record(record, pending=True),
        current.pins.forget_pending,
    )
    before = {old.name: old for old in running.maps}
    for new in manifest.maps:
        writes, deletes = entry_updates(new, bases)
        if writes or deletes:
            back = entry_updates(before[new.name], [manifest])
            yield Step(
                f"update {new.name}",
                functools.partial(_update, current.pins, new, writes, deletes),
                functools.partial(_update, current.pins, new, *back),
            )
    yield Step("keep the record", lambda: current.pins.write_record(record))
    yield Step("forget the change", current.pins.forget_pending)


def _update(pins: GenerationPins, record: MapRecord, writes: Mapping[bytes, bytes], deletes: set[bytes]) -> None:
    """New entries first, so that nothing is open in between; unless there is no room for both."""
    with sys.obj_get(pins.map(record.name, record.layout)) as fd:
        full = len(record.entries) + len(deletes) > record.max_entries
        if full:
            sys.map_delete_batch(fd, sorted(deletes))
        sys.map_update_batch(fd, list(writes), list(writes.values()))
        if not full and deletes:
            sys.map_delete_batch(fd, sorted(deletes))


# --- the way out ----------------------------------------------------------------------------------------------------


def detach(chain: str, *, bpffs: str | Path | None = None, on_step: OnStep | None = None) -> None:
    """Stops a chain and leaves nothing of it behind. Raises `LoadFailed` (A109) where it does not run."""
    features.require_privilege()
    root = bpffs_root(bpffs)
    if chain not in chains(root):
        running = ", ".join(f"`{name}`" for name in chains(root)) or "none"
        raise LoadFailed(
            Diagnostic("A109", f"chain `{chain}` does not run here", notes=(f"running chains: {running}",))
        )
    with locked(root):
        live = read(root, chain)
        if live:
            carry_out(tuple(_take_down(live)), on_step)
        chain_pins(root, chain).remove_if_empty()


def not_running(chain: str, root: Path) -> LoadFailed:
    """The refusal (A109) to look for a chain that is not there."""
    running = ", ".join(f"`{name}`" for name in chains(root)) or "none"
    return LoadFailed(Diagnostic("A109", f"chain `{chain}` does not run here", notes=(f"running chains: {running}",)))


def _take_down(live: LiveChain) -> Iterator[Step]:
    for attachment in live.attachments:
        yield Step(f"leave {attachment.point}", functools.partial(hooks.remove, attachment))
    for generation in live.generations:
        yield Step(f"detach the links of {generation.pins.path.name}", functools.partial(_unlink, generation.pins))
    yield Step("wait for packets on their way", link.settle)
    for generation in live.generations:
        yield Step(f"drop {generation.pins.path.name}", generation.pins.remove)
    yield from _drop_veths(live, None)


def _unlink(pins: GenerationPins) -> None:
    """Also the links of a generation whose record cannot be read."""
    for path in pins.pinned("links"):
        with sys.obj_get(path) as fd:
            empty(fd)


# --- loaded, and attached nowhere -----------------------------------------------------------------------------------


@contextlib.contextmanager
def prepared(chain: CompiledChain, *, host: Host | None = None) -> Iterator[Generation]:
    """A whole generation for the length of a `with` block, internal links included, attached to nothing: for tests."""
    require_interfaces(chain.manifest)
    features.require(chain.manifest.features)
    with contextlib.ExitStack() as made:
        for pair in veth.veth_pairs(chain.manifest):
            if not veth.is_ours(pair):
                _make_veth(pair, chain.manifest).do()
                made.callback(veth.remove, pair)
        yield made.enter_context(prepare(chain, host))
