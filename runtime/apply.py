"""A compiled chain in, that chain running out: what runs is looked at, compared, and changed as little as will do.

Entries of maps are changed in place (here), anything else is a new generation (swap.py).
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from schemas.compiled import CompiledChain
from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest, MapRecord
from schemas.stopwatch import Stopwatch, Timings

from . import features, sys
from .bpffs import bpffs_root, ensure_bpffs, locked
from .daemon_socket import tell_daemon
from .host import look, require_interfaces
from .lock import OnWait
from .pin import GenerationPins, chain_pins, chains
from .plan import Fate, Plan, Way, entry_updates, make_plan
from .record import new_record
from .state import LiveChain, LiveGeneration, not_running, read, read_steadily
from .steps import GONE, OnStep, Step, carry_out, explained, staged, tidy_up, timed
from .trial import forget_trial, read_trial

if TYPE_CHECKING:
    from .foreign import Replace, Stranger


class Applied(Struct, frozen=True):
    """What an apply did. `generation` is the number of the one that runs now.

    `timings` are those of its stages: look, then load and swap, or update (in place), then clean up. `live_at` is when
    all of the chain was as it is now, before anything was cleaned up: in the seconds of `time.monotonic()`.
    """

    plan: Plan
    generation: int
    timings: Timings
    live_at: float
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(seconds for _, seconds in self.timings)

    def __str__(self) -> str:
        took = f"{self.seconds * 1000:.0f} ms"
        chain = self.plan.manifest.chain
        if not self.plan:
            return f"chain {chain}: no changes ({took})"
        how = f"changed {self.plan.way}" if self.plan.way is Way.IN_PLACE else f"runs generation {self.generation}"
        return f"chain {chain}: {how} ({took})"


@explained("make a plan")
def plan(chain: CompiledChain | Manifest, *, bpffs: str | Path | None = None) -> Plan:
    """What `apply` would do now; nothing is touched. Raises `LoadFailed`, `NotSupported`."""
    features.require_privilege()
    manifest = chain if isinstance(chain, Manifest) else chain.manifest
    require_interfaces(manifest)
    root = bpffs_root(bpffs)
    read_trial(chain_pins(root, manifest.chain))  # what cannot be read `apply` refuses
    live = read_steadily(root, manifest.chain)
    found = make_plan(manifest, live, look(manifest))
    return replace(found, taken=_strangers(manifest, live)) if found.way is Way.GENERATION else found


def _strangers(manifest: Manifest, live: LiveChain | None) -> tuple[Stranger, ...]:
    from .hooks import hooks_of  # not where nothing is attached

    with contextlib.ExitStack() as opened:
        return tuple(hooks_of(manifest, live, opened).strangers())


@explained("apply the chain")
def apply(
    chain: CompiledChain,
    *,
    bpffs: str | Path | None = None,
    replace: Collection[Replace] = (),
    accept_state_loss: bool = False,
    on_step: OnStep | None = None,
    on_wait: OnWait | None = None,
    log_directory: Path | None = None,
) -> Applied:
    """Makes the host run `chain`. Raises `LoadFailed`, `VerifierRejected`, `NotSupported`: then what ran runs on.

    What fails once the change is live is a warning (A114) in what is returned.

    `replace` names foreign programs, as (device, program id), that may be taken off the chain's hooks.
    `on_wait` is called where another apply or detach has to be waited for.
    Where something that was learned would be lost, it is refused (A150, A151) unless `accept_state_loss`.
    """
    watch = Stopwatch()
    watch.enter("look")
    on_step = timed(watch, on_step)
    features.require_privilege()
    root = bpffs_root(bpffs)
    require_interfaces(chain.manifest)
    ensure_bpffs(root)
    with locked(root, on_wait):
        live, warnings = _settled(root, chain.manifest.chain, on_step)
        if live and live.current:
            live.current.pins.tidy()
        wanted = make_plan(chain.manifest, live, look(chain.manifest))
        if wanted.lost and not accept_state_loss:
            raise would_lose(wanted, "apply")
        live = _as_recorded(live, on_step) if live else None
        pins = chain_pins(root, chain.manifest.chain)
        current = live.current if live else None
        if wanted.way is Way.GENERATION:
            from .swap import swap_generations  # the loader takes a while to import: not where nothing is loaded

            warnings += swap_generations(
                chain, wanted, live, pins, on_step, log_directory, replace, accept_state_loss=accept_state_loss
            )
            number = wanted.following
        else:
            assert live, "a plan without a new generation has one to keep"
            assert current
            assert current.record
            number = current.number
            if wanted.way is Way.IN_PLACE:
                carry_out(tuple(staged("update", _in_place(chain.manifest, current))), on_step)
            elif chain.manifest != current.record.manifest:
                current.pins.write_record(new_record(chain.manifest, current.record.facts))
            warnings += tidy_up(staged("clean up", _clean_up(chain.manifest, live, current)), on_step)
    tell_daemon(root)
    return applied(wanted, number, watch, warnings)


def applied(done: Plan, generation: int, watch: Stopwatch, warnings: tuple[Diagnostic, ...]) -> Applied:
    """What was done up to now, by the watch that was told of its stages."""
    timings = watch.stop()
    return Applied(done, generation, timings, time.monotonic() - dict(timings).get("clean up", 0.0), warnings)


def _settled(root: Path, chain: str, on_step: OnStep | None) -> tuple[LiveChain | None, tuple[Diagnostic, ...]]:
    """What runs, and what to tell about a try that was still open. Raises `LoadFailed` (A140) while one is guarded."""
    pins = chain_pins(root, chain)
    if read_trial(pins) is None:
        forget_trial(pins)  # what a try left that was killed before it was made known
        return read(root, chain), ()
    from .trying import settle  # rarely needed

    return settle(root, chain, on_step)


def would_lose(wanted: Plan, command: str) -> LoadFailed:
    """The refusal (A150) of a command to lose what was learned."""
    lost = [change for change in wanted.changes if change.state is Fate.LOST]
    notes = tuple(f"`{change.name}`: {', '.join(change.reasons)}" for change in lost)
    help_text = f"`bpfchain {command} --accept-state-loss` begins anew with these"
    return LoadFailed(Diagnostic("A150", "what was learned would be lost", notes=notes, help=help_text))


def _clean_up(manifest: Manifest, live: LiveChain, current: LiveGeneration) -> Iterator[Step]:
    """What an interrupted apply left, and what was counted there."""
    if live.leftovers:
        from .hooks import hooks_of
        from .takedown import drop_rest

        with contextlib.ExitStack() as opened:
            yield from drop_rest(hooks_of(manifest, live, opened), live, current.pins, manifest)


# --- in place -------------------------------------------------------------------------------------------------------


def _in_place(manifest: Manifest, current: LiveGeneration) -> Iterator[Step]:
    """Entries of maps, and then the record that says so. A pending record makes an interruption known."""
    assert current.record is not None
    running = current.record.manifest
    record = new_record(manifest, current.record.facts)
    yield Step(
        "say what is about to change",
        lambda: current.pins.write_record(record, pending=True),
        current.pins.forget_pending,
        clears=True,
    )
    for there, back in _changed_maps(running, manifest):
        yield Step(
            f"update {there.name}",
            functools.partial(_update, current.pins, there, *entry_updates(there, [running])),
            functools.partial(_update, current.pins, back, *entry_updates(back, [manifest])),
        )
    yield Step("keep the record", current.pins.keep_pending)


def _changed_maps(running: Manifest, wanted: Manifest) -> Iterator[tuple[MapRecord, MapRecord]]:
    """Maps whose entries change, as they are to be and as they were."""
    before = {old.name: old for old in running.maps}
    for new in wanted.maps:
        if any(entry_updates(new, [running])):
            yield new, before[new.name]


def _as_recorded(live: LiveChain, on_step: OnStep | None) -> LiveChain:
    """The chain once an update in place that was interrupted is taken back: from there on, the record is the truth."""
    current = live.current
    if current is None or current.record is None or current.pending is None:
        return live
    steps = [
        Step(
            f"take back {record.name}",
            functools.partial(_update, current.pins, record, *entry_updates(record, [current.pending])),
        )
        for _, record in _changed_maps(current.record.manifest, current.pending)
        if record.name in current.maps
    ]
    carry_out(tuple(staged("look", [*steps, Step("forget what was pending", current.pins.forget_pending)])), on_step)
    mended = replace(current, pending=None)
    return replace(live, generations=tuple(mended if found is current else found for found in live.generations))


def _update(pins: GenerationPins, record: MapRecord, writes: Mapping[bytes, bytes], deletes: set[bytes]) -> None:
    """New entries first, so that nothing is open in between; unless there is no room for both.

    What old and new entries agree on holds all the time: entries that stay are not touched, and while both are there an
    address that one of them is for is found. A map whose entries have a meaning only together must not be of this role.
    """
    with sys.obj_get(pins.map(record.name, record.layout)) as fd:
        full = len(record.entries) + len(deletes) > record.max_entries
        if full:
            sys.map_delete_batch(fd, sorted(deletes))
        sys.map_update_batch(fd, list(writes), list(writes.values()))
        if not full and deletes:
            sys.map_delete_batch(fd, sorted(deletes))


# --- the way out ----------------------------------------------------------------------------------------------------


@explained("detach the chain")
def detach(
    chain: str,
    *,
    bpffs: str | Path | None = None,
    on_step: OnStep | None = None,
    on_wait: OnWait | None = None,
) -> tuple[Diagnostic, ...]:
    """Stops a chain and leaves nothing of it behind. Raises `LoadFailed` (A109) where it does not run.

    What a try had replaced that was confirmed goes as well: a warning (A114) where it does not.
    """
    features.require_privilege()
    root = bpffs_root(bpffs)
    if chain not in chains(root):
        raise not_running(chain, root)
    from .takedown import take_down

    with locked(root, on_wait):
        live = read(root, chain)
        warnings = _end_confirmed(live, on_step) if live else ()
        if live:
            carry_out(tuple(take_down(live)), on_step)
        forget_trial(chain_pins(root, chain))
        chain_pins(root, chain).remove_if_empty()
    tell_daemon(root)
    return warnings


def _end_confirmed(live: LiveChain, on_step: OnStep | None) -> tuple[Diagnostic, ...]:
    """A confirm that was interrupted had decided that programs of others go: they go, before the chain's own do."""
    if live.recorded is None or not live.recorded.kept:
        return ()
    from .handback import evictions

    told = (tidy_up([step], on_step, done="the chain is detached", ways_on=GONE) for step in evictions(live))
    return tuple(warning for warnings in told for warning in warnings)
