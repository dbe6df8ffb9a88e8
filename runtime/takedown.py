"""A chain that runs in, the steps that leave nothing of it behind out, or nothing but one generation."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from schemas.manifest import Manifest

from . import hooks, link, sys, veth
from .attach import empty
from .counts import carry_counts
from .home import is_reachable
from .info import link_info
from .pin import GenerationPins
from .state import LiveChain, LiveGeneration
from .steps import Step


def take_down(live: LiveChain) -> Iterator[Step]:
    """Hooks first, so that no packet is on its way through what goes next."""
    for attachment in live.attachments:
        yield Step(f"leave {attachment.point}", functools.partial(hooks.remove, attachment))
    for generation in live.generations:
        yield Step(f"detach the links of {generation.pins.path.name}", functools.partial(_unlink, generation))
    yield Step("wait for packets on their way", link.settle)
    yield from drop_veths(live, None)  # before the records that know of them
    for generation in live.generations:
        yield Step(f"drop {generation.pins.path.name}", generation.pins.remove)


def drop_rest(
    taken: hooks.Hooks,
    live: LiveChain,
    kept: GenerationPins,
    manifest: Manifest,
    *,
    home: str | None = None,
    between: Iterable[Step] = (),
) -> Iterator[Step]:
    """What the generation `kept` (of `manifest`, in `home`) does not need; `between` once no packet is in any of it."""
    others = tuple(generation for generation in live.generations if generation.pins != kept)
    for attachment in taken.stale():
        yield Step(f"leave {attachment.point}", functools.partial(hooks.remove, attachment))
    yield Step("wait for packets on their way", link.settle)
    yield Step("keep what was counted", functools.partial(carry_counts, kept, others))
    yield from between
    yield from drop_veths(live, manifest, home)  # before the records that know of them
    for old in others:
        yield Step(f"drop {old.pins.path.name}", old.pins.remove)


def _unlink(generation: LiveGeneration) -> None:
    """Also the links of a generation whose record cannot be read; none that runs somebody else's program."""
    for path in generation.pins.pinned("links"):
        with sys.obj_get(path) as fd:
            if link_info(fd).prog_id in generation.programs.values():
                empty(fd)


def drop_veths(live: LiveChain, manifest: Manifest | None, home: str | None = None) -> Iterator[Step]:
    """Internal links that `manifest`, which runs in `home`, does not need; with their namespace they have gone."""
    needed = {(pair.a, pair.netns) for pair in veth.veth_pairs(manifest, home)} if manifest else set()
    pairs = {
        (pair.a, pair.netns): pair
        for old in live.generations
        if old.record
        for pair in veth.veth_pairs(old.record.manifest, old.home)
    }
    alive = {attachment.point.place for attachment in live.attachments if attachment.ifindex}
    for place, pair in pairs.items():
        if place not in needed and (is_reachable(pair.netns) or pair.attach_point.place in alive):
            yield Step(f"remove internal link {pair.link}", functools.partial(veth.remove_ours, pair))
