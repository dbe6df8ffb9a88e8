"""A compiled chain in, a new generation of it in the place of the one that runs out.

Everything new is made, loaded, filled and checked beside what runs. Then each hook gets its new program in one atomic
step; then the old generation goes. A failure before that touches nothing, a failure in it is taken back.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.compiled import CompiledChain
from schemas.diagnostic import Diagnostic
from schemas.manifest import Manifest

from . import features, hooks, link, sys, veth
from .counts import carry_counts
from .devices import find_device
from .elf import bpf_structs
from .generation import Generation, Predecessor, fill_maps, load_programs, make_maps, prepare
from .host import Host, host_facts, look, require_interfaces
from .pin import ChainPins, GenerationPins
from .plan import Plan
from .record import new_record
from .state import LiveChain, LiveGeneration, read_generation
from .steps import BY_HAND, OnStep, Step, carry_out, staged, tidy_up
from .takedown import drop_rest

if TYPE_CHECKING:
    from .foreign import Replace
    from .handback import HandBack


def get_ready() -> None:
    """Imports what the first swap of a process would wait for, where there is time to do so before."""
    from . import foreign  # noqa: F401

    bpf_structs()


def swap_generations(
    chain: CompiledChain,
    wanted: Plan,
    live: LiveChain | None,
    pins: ChainPins,
    on_step: OnStep | None,
    log_directory: Path | None,
    replace: Collection[Replace] = (),
    *,
    accept_state_loss: bool,
    begun: Callable[[hooks.Hooks], Step] | None = None,
) -> tuple[Diagnostic, ...]:
    """Builds generation `wanted.following`, puts it on every hook, drops what ran before: warnings of what is left.

    A try drops nothing: `begun` is a step that makes it known, before any packet notices; the generation that ran
    before stays, and so do programs of others at TC.
    """
    with contextlib.ExitStack() as opened:
        generation = opened.enter_context(Generation(chain.manifest, {}, {}))
        taken = hooks.hooks_of(chain.manifest, live, opened, replace)
        new_pins = pins.unfinished(wanted.following)
        try:
            carry_out(
                (
                    *staged("load", _build(chain, generation, taken, live, new_pins, log_directory, accept_state_loss)),
                    *staged("swap", [begun(taken)] if begun else []),
                    *staged("swap", taken.steps(generation, new_pins)),
                    Step("finish the new generation", new_pins.finish, stage="swap"),
                ),
                on_step,
            )
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong before is to be told; detach finds the empty directory
                pins.remove_if_empty()
            raise
        new = pins.finished(wanted.following)
        if begun:
            carry_out(tuple(staged("clean up", _hand_over(taken, live, generation))), on_step)
            return ()
        return (
            *_evict(taken, on_step),
            *tidy_up(staged("clean up", _drop_old(taken, live, new, generation)), on_step),
        )


def _evict(taken: hooks.Hooks, on_step: OnStep | None) -> Iterator[Diagnostic]:
    """Each whether or not the others can be."""
    for step in staged("clean up", taken.evictions()):
        yield from tidy_up([step], on_step, ways_on=BY_HAND)


def _catch_up(generation: Generation, before: Predecessor | None) -> None:
    assert before, "something was migrated"
    for migrated in generation.migrated:
        with before.open(migrated.succession.old) as old_fd:
            migrated.catch_up(old_fd, generation.maps[migrated.succession.new.name])


def _predecessor(live: LiveChain | None) -> Predecessor | None:
    current = live.current if live else None
    if current is None or current.record is None:
        return None
    return Predecessor(current.pins, current.record.manifest, frozenset(current.maps))


def _build(
    chain: CompiledChain,
    generation: Generation,
    taken: hooks.Hooks,
    live: LiveChain | None,
    pins: GenerationPins,
    log_directory: Path | None,
    accept_state_loss: bool,
) -> Iterator[Step]:
    """Everything up to the first swap; no packet notices any of it."""
    manifest = chain.manifest

    def find_devices() -> None:
        host = look(manifest)
        generation.devices, generation.facts = host.devices, host_facts(manifest, host)

    def provide_maps() -> None:
        make_maps(generation, _predecessor(live))
        short = [migrated for migrated in generation.migrated if migrated.moved.left_out]
        if short and not accept_state_loss:
            from .migrate import no_room

            raise no_room(short)

    def link_up() -> None:
        link.fill(manifest, generation.maps, generation.programs, generation.devices)

    def begin() -> None:
        pins.make()
        pins.write_record(new_record(manifest, {}))

    def pin() -> None:
        pins.write_record(new_record(manifest, generation.facts))
        for record in manifest.maps:
            sys.obj_pin(generation.maps[record.name], pins.map(record.name, record.layout))
        for name, fd in generation.programs.items():
            sys.obj_pin(fd, pins.program(name))

    def unpin() -> None:
        """Hooks may have run the new programs for a moment, and then what these counted is the old ones' to tell."""
        current = live.current if live else None
        if current:
            link.settle()
            carry_counts(current.pins, [read_generation(pins)])

    yield Step("ask the kernel for its features", lambda: features.require(manifest.features))
    yield Step("begin the new generation", begin, pins.remove, clears=True)  # its record knows of all that follows
    for pair in veth.veth_pairs(manifest):
        if not taken.attached(pair.attach_point) and not veth.is_ours(pair):
            yield _make_veth(pair, manifest)
    yield Step("look who is on the hooks", taken.check_free)
    yield Step("find the devices", find_devices)
    yield Step("make the maps", provide_maps)
    if any(record.filled for record in manifest.maps):
        yield Step("fill the tables", lambda: fill_maps(generation))
    yield Step("load the programs", lambda: load_programs(generation, chain.objects, log_directory))
    yield Step("fill and check the slots", link_up)
    yield Step("pin the new generation", pin, unpin, clears=True)


def _make_veth(pair: veth.VethPair, manifest: Manifest) -> Step:
    def do() -> None:
        devices = [find_device(interface.device, interface.netns) for interface in manifest.interfaces]
        veth.create(pair, max(device.mtu for device in devices if device) + veth.INJECTED_BYTES)

    return Step(f"make internal link {pair.link}", do, functools.partial(veth.remove_ours, pair), clears=True)


def _hand_over(taken: hooks.Hooks, live: LiveChain | None, generation: Generation) -> Iterator[Step]:
    """Nothing of the old generation runs any more, and all of it is still there."""
    yield from taken.leave_stale()
    yield Step("wait for packets on their way", link.settle)
    yield from _catching_up(live, generation)


def _catching_up(live: LiveChain | None, generation: Generation) -> Iterator[Step]:
    """What was migrated has changed since in the old maps, until the last packet was through."""
    if generation.migrated:
        yield Step("catch up with what was learned", functools.partial(_catch_up, generation, _predecessor(live)))


def return_to(
    back: LiveGeneration, live: LiveChain, pins: ChainPins, hands: tuple[HandBack, ...], on_step: OnStep | None
) -> None:
    """Puts a generation that is still there on every hook again, as a new one of the same programs and maps.

    So it is a swap as any other: whoever is killed in it leaves what the next one finds and mends. Hooks whose devices
    are gone, or that somebody else took meanwhile, are left out; `hands` are those that others get back.
    """
    assert back.record, "what cannot be read is refused before"
    manifest = back.record.manifest
    with contextlib.ExitStack() as opened:
        generation = opened.enter_context(Generation(manifest, back.record.facts, {}))
        taken = hooks.hooks_again(manifest, back.home, live, opened, [hand.point for hand in hands])
        new_pins = pins.unfinished(live.next_number)
        carry_out(
            (
                *_reopen(back, generation, taken, new_pins),
                *taken.steps(generation, new_pins),
                *(hand.step() for hand in hands),
                Step("finish the way back", new_pins.finish),
            ),
            on_step,
        )
        new = pins.finished(live.next_number)
        carry_out(tuple(_drop_old(taken, live, new, generation, back.home)), on_step)


def _reopen(back: LiveGeneration, generation: Generation, taken: hooks.Hooks, pins: GenerationPins) -> Iterator[Step]:
    record = back.record
    assert record

    def begin() -> None:
        pins.make()
        pins.write_record(record)
        for program in back.programs:
            generation.programs[program] = sys.obj_get(back.pins.program(program))
            sys.obj_pin(generation.programs[program], pins.program(program))
        for found in record.manifest.maps:
            if found.name in back.maps:
                generation.maps[found.name] = sys.obj_get(back.pins.map(found.name, found.layout))
                sys.obj_pin(generation.maps[found.name], pins.map(found.name, found.layout))

    yield Step("begin the way back", begin, pins.remove, clears=True)
    for pair in veth.veth_pairs(record.manifest, back.home):
        if not veth.is_ours(pair):
            yield _make_veth(pair, record.manifest)
    yield Step("look who is on the hooks", taken.check_free)


def _drop_old(
    taken: hooks.Hooks,
    live: LiveChain | None,
    new: GenerationPins,
    generation: Generation,
    home: str | None = None,
) -> Iterator[Step]:
    """What nothing needs any more; from here on there is no way back."""
    if live:
        between = _catching_up(live, generation)
        yield from drop_rest(taken, live, new, generation.manifest, home=home, between=between)


@contextlib.contextmanager
def prepared(chain: CompiledChain, *, host: Host | None = None) -> Iterator[Generation]:
    """A whole generation for the length of a `with` block, internal links included, attached to nothing: for tests."""
    require_interfaces(chain.manifest)
    features.require(chain.manifest.features)
    with contextlib.ExitStack() as made:
        for pair in veth.veth_pairs(chain.manifest):
            if not veth.is_ours(pair):
                _make_veth(pair, chain.manifest).do()
                made.callback(veth.remove_ours, pair)
        yield made.enter_context(prepare(chain, host))
