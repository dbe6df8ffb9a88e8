"""A chain that runs in, everything that was counted since it was first applied out, across all of its reloads.

A counters map that cannot stay is not copied: programs of the old generation still count in it while those of the new
one begin at zero. It is read when its last packet is through, and what it says is kept by name beside the new
generation. Whoever asks before that gets the sum of both, so no count is ever missing and none is there twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from schemas.manifest import Manifest

from . import sys
from .pin import GenerationPins
from .record import Counted
from .state import LiveChain, LiveGeneration, read_generation
from .tally import Tally, added, counted_maps, read_tally, surviving

NOTHING = Counted({}, frozenset())


def totals(live: LiveChain) -> Tally:
    """All counts of a chain that runs, by name."""
    current = live.current
    assert current
    assert current.record
    manifest = current.record.manifest
    return added(counted_before(current, live.leftovers).tally, *_tallies(current, manifest, own_maps(current)))


def counted_before(current: LiveGeneration, others: Iterable[LiveGeneration]) -> Counted:
    """What was counted in maps that are not `current`'s: known already, or still to be read from `others`.

    `others` are all other generations that there still are. A map is known by its id, which the kernel does not give
    twice: what is counted once is never counted again, however often a reload is interrupted.
    """
    assert current.record
    now, own = current.record.manifest, own_maps(current)
    known = _known(current, others, now)
    tallies, read = [known.tally], set(known.maps)
    for other in others:
        fresh = own_maps(other) - own - read
        tallies += _tallies(other, now, fresh)
        read |= fresh
    still_there = {found for other in others for found in own_maps(other)}
    return Counted({name: count for name, count in added(*tallies).items() if count}, frozenset(read & still_there))


def carry_counts(pins: GenerationPins, others: Iterable[LiveGeneration]) -> None:
    """Keeps what other generations counted beside the one that runs; no packet is in a program of theirs any more."""
    current = read_generation(pins)
    counted = counted_before(current, others)
    if counted.tally != (current.counted or NOTHING).tally:
        pins.write_counted(counted)


def own_maps(generation: LiveGeneration) -> set[int]:
    """Ids of the maps that a generation's programs count in."""
    if generation.record is None:
        return set()
    names = [record.name for record in counted_maps(generation.record.manifest)]
    return {generation.maps[name].id for name in names if name in generation.maps}


def _known(current: LiveGeneration, others: Iterable[LiveGeneration], now: Manifest) -> Counted:
    """What `current` knows from before it; until it does, what the last generation that ran knew."""
    if current.counted:
        return current.counted
    before = [other for other in others if other.pins.finished and other.number < current.number and other.counted]
    last = max(before, key=lambda other: other.number, default=None)
    if last is None or last.counted is None or last.record is None:
        return NOTHING
    return Counted(surviving(last.counted.tally, last.record.manifest, now), last.counted.maps)


def _tallies(generation: LiveGeneration, now: Manifest, ids: set[int]) -> Iterator[Tally]:
    """What the maps of a generation that have these ids say of what is in the chain `now`."""
    if generation.record is None:
        return
    then = generation.record.manifest
    for record in counted_maps(then):
        if record.name in generation.maps and generation.maps[record.name].id in ids:
            with sys.obj_get(generation.pins.map(record.name, record.layout)) as fd:
                yield surviving(read_tally(then, record, fd), then, now)
