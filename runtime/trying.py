"""A chain that is applied for now: begun, and then either kept or taken back, by whoever comes first.

Beginning is a swap that drops nothing. Taking back is a swap too, to the programs and maps that are still there, so
both are atomic for each hook, and can be interrupted anywhere.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from schemas.compiled import CompiledChain
from schemas.diagnostic import ChainError, Diagnostic, LoadFailed, Severity
from schemas.manifest import Manifest, Mode
from schemas.stopwatch import Stopwatch

from . import features, link
from .apply import Applied, applied, would_lose
from .attach import Holder
from .bpffs import bpffs_root, ensure_bpffs, locked
from .counts import carry_counts
from .daemon_socket import tell_daemon
from .handback import evictions, hand_backs, without
from .host import look, require_interfaces
from .lock import OnWait
from .pin import ChainPins, chain_pins, chains
from .plan import Effect, Fate, Plan, Way, make_plan
from .state import LiveChain, LiveGeneration, not_running, read
from .steps import BY_HAND, NEXT_TIME, OnStep, Step, carry_out, explained, tidy_up, timed
from .takedown import drop_veths, take_down
from .trial import (
    Trial,
    forget_replaced,
    forget_trial,
    guarding,
    is_guarded,
    now,
    pin_replaced,
    read_trial,
    write_trial,
)

if TYPE_CHECKING:
    from .foreign import Replace
    from .hooks import Hooks

_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.02


@explained("try the chain")
def begin(
    chain: CompiledChain,
    timeout: timedelta,
    guard: contextlib.ExitStack,
    *,
    bpffs: str | Path | None = None,
    replace: Collection[Replace] = (),
    accept_state_loss: bool = False,
    on_step: OnStep | None = None,
    on_wait: OnWait | None = None,
    log_directory: Path | None = None,
) -> tuple[Applied, Trial | None]:
    """Applies a chain for now, and None instead of a try where there is nothing to change.

    Whoever holds `guard` is who goes back. Raises as `apply` does, `LoadFailed` (A140) where a try is under way, and
    `NotTakenBack` where it failed and somebody has to go back yet.
    """
    watch = Stopwatch()
    watch.enter("look")
    on_step = timed(watch, on_step)
    features.require_privilege()
    root = bpffs_root(bpffs)
    require_interfaces(chain.manifest)
    ensure_bpffs(root)
    with locked(root, on_wait):
        live, warnings = settle(root, chain.manifest.chain, on_step)
        wanted = make_plan(chain.manifest, live, look(chain.manifest))
        if not wanted and live and live.current:
            return applied(wanted, live.current.number, watch, warnings), None
        _require_way_back(live, wanted, accept_state_loss=accept_state_loss)
        from .swap import swap_generations

        pins = chain_pins(root, chain.manifest.chain)

        swapped = structs.replace(wanted, way=Way.GENERATION)  # there has to be an old one beside it
        announced = _Announcement(wanted, timeout, guard, pins)
        try:
            swap_generations(
                chain,
                swapped,
                live,
                pins,
                on_step,
                log_directory,
                replace,
                accept_state_loss=accept_state_loss,
                begun=announced.step,
            )
        except BaseException as error:
            if announced.trial:
                _take_back(root, pins.chain, announced.trial, error)
            raise
    tell_daemon(root)
    return applied(swapped, wanted.following, watch, warnings), announced.trial


def _require_way_back(live: LiveChain | None, wanted: Plan, *, accept_state_loss: bool) -> None:
    """Raises `LoadFailed` where going back would not be to what runs now (A144), or what was learned is lost (A150)."""
    if wanted.lost and not accept_state_loss:
        raise would_lose(wanted, "try")
    if live and live.current and live.current.pending:
        message = f"an update in place of chain `{live.chain}` was interrupted"
        raise LoadFailed(Diagnostic("A144", message, help="`bpfchain apply` finishes it; then try again"))


class _Announcement(Struct):
    """Puts on record what will be on the hooks from the next step on, and who was there: from then on a `trial`."""

    plan: Plan
    timeout: timedelta
    guard: contextlib.ExitStack
    pins: ChainPins
    trial: Trial | None = None

    def step(self, taken: Hooks) -> Step:
        end = functools.partial(forget_trial, self.pins)
        return Step("say what is being tried", functools.partial(self._say, taken), end, clears=True)

    def _say(self, taken: Hooks) -> None:
        self.guard.enter_context(guarding(self.pins))
        replaced = tuple((name, found) for name, others in taken.foreign.items() for found in others)
        for name, found in replaced:
            if found.mode is not Mode.TC:  # there it stays where it is until the try is confirmed
                pin_replaced(self.pins, name, found)
        self.trial = Trial(self.plan.following, self.plan.running, now() + self.timeout.total_seconds(), replaced)
        write_trial(self.pins, self.trial)


class NotTakenBack(LoadFailed):
    """A try that failed for the reason `error`, and could not be taken back either: `trial` is still on record."""

    def __init__(self, trial: Trial, error: BaseException, another: ChainError | OSError) -> None:
        why = error.diagnostics if isinstance(error, ChainError) else (Diagnostic("A108", f"the try failed: {error}"),)
        message = f"a try that failed cannot be taken back yet: {another}"
        super().__init__(*why, Diagnostic("A108", message, help="whoever guards it tries again"))
        self.trial, self.error = trial, error


def _take_back(root: Path, chain: str, trial: Trial, error: BaseException) -> None:
    """Goes back from a try that failed once it was on record. Raises `NotTakenBack`."""
    try:
        left = read(root, chain)
        if left and left.trial == trial:
            go_back(root, left)
    except (ChainError, OSError) as another:
        raise NotTakenBack(trial, error, another) from error


class Decided(Struct, frozen=True):
    """The chain whose try is over, and warnings (A114) of what could not be tidied up."""

    chain: str
    warnings: tuple[Diagnostic, ...] = ()


@explained("keep what is being tried")
def confirm(
    chain: str | None = None,
    *,
    bpffs: str | Path | None = None,
    on_step: OnStep | None = None,
    on_wait: OnWait | None = None,
) -> Decided:
    """Keeps what is being tried, drops what ran before. Raises `LoadFailed` (A109, A141, A142)."""
    return _decide(keep, chain, bpffs, on_step, on_wait)


@explained("go back")
def abort(
    chain: str | None = None,
    *,
    bpffs: str | Path | None = None,
    on_step: OnStep | None = None,
    on_wait: OnWait | None = None,
) -> Decided:
    """Takes back what is being tried. Raises `LoadFailed` (A109, A141, A143)."""
    return _decide(go_back, chain, bpffs, on_step, on_wait)


def _decide(
    decision: Callable[[Path, LiveChain, OnStep | None], tuple[Diagnostic, ...]],
    chain: str | None,
    bpffs: str | Path | None,
    on_step: OnStep | None,
    on_wait: OnWait | None,
) -> Decided:
    features.require_privilege()
    root = bpffs_root(bpffs)
    name = _tried(root, chain)
    with locked(root, on_wait):
        warnings = decision(root, _require_trial(root, name), on_step)
    tell_daemon(root)
    _let_the_guard_go(root, name)
    return Decided(name, warnings)


def _let_the_guard_go(root: Path, chain: str) -> None:
    """Waits until the guard has seen how it ended: what is done next to the chain must not look to him like the end."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while is_guarded(chain_pins(root, chain)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def keep(root: Path, live: LiveChain, on_step: OnStep | None = None) -> tuple[Diagnostic, ...]:
    """What is tried stays, and what ran before it goes: warnings (A114) of what is left. For whoever has the lock.

    Raises `LoadFailed` (A142), and what keeps the first step from being done; after that there is no way back.
    """
    current = live.current
    if not current or not current.record or not live.trial or current.number != live.trial.number:
        message = f"the try of chain `{live.chain}` was interrupted before all of it ran, so it cannot be kept"
        raise LoadFailed(Diagnostic("A142", message, help=f"`bpfchain abort {live.chain}` goes back"))
    pins, kept = chain_pins(root, live.chain), structs.replace(live.trial, kept=True)
    carry_out([Step("keep what is tried", functools.partial(write_trial, pins, kept))], on_step)
    return (*_end_kept(live, pins, on_step), *tidy_up(_drop_back(live, current, current.record.manifest), on_step))


def _end_kept(
    live: LiveChain, pins: ChainPins, on_step: OnStep | None, ways_on: str = NEXT_TIME
) -> tuple[Diagnostic, ...]:
    """Takes off what a try has replaced that is kept, each whether or not the others can be; then it is forgotten."""
    told = [warning for step in evictions(live) for warning in tidy_up([step], on_step, ways_on=ways_on)]
    return tuple(told) or tidy_up([Step("forget the try", functools.partial(forget_trial, pins))], on_step)


def _drop_back(live: LiveChain, current: LiveGeneration, manifest: Manifest) -> Iterator[Step]:
    """What there was to go back to."""
    yield Step("wait for packets on their way", link.settle)
    yield Step("keep what was counted", functools.partial(carry_counts, current.pins, live.leftovers))
    yield from drop_veths(live, manifest, current.home)
    for old in live.leftovers:
        yield Step(f"drop {old.pins.path.name}", old.pins.remove)


def go_back(root: Path, live: LiveChain, on_step: OnStep | None = None) -> tuple[Diagnostic, ...]:
    """What ran before the try runs again, or nothing; nothing to warn of. For whoever has the lock.

    Raises `LoadFailed` (A143).
    """
    assert live.trial
    pins = chain_pins(root, live.chain)
    hands = hand_backs(live, pins)
    ours = without(live, hands)
    end = [Step("end the try", functools.partial(forget_trial, pins))]
    if hands:
        end.insert(0, Step("forget what was replaced", functools.partial(forget_replaced, pins)))
    if live.trial.back is None:
        carry_out([hand.step() for hand in hands], on_step)
        carry_out((*take_down(ours), *end), on_step)
        pins.remove_if_empty()
        return ()
    back = next((g for g in live.generations if g.pins.finished and g.number == live.trial.back), None)
    if back is None or back.record is None:
        reason = back.problem if back else "it is not there any more"
        message = f"chain `{live.chain}` cannot go back to generation {live.trial.back}: {reason}"
        ways_on = f"`bpfchain confirm {live.chain}` keeps what is tried, `bpfchain detach {live.chain}` removes all"
        raise LoadFailed(Diagnostic("A143", message, help=ways_on))
    from .swap import return_to

    return_to(back, ours, pins, hands, on_step)
    carry_out(end, on_step)
    return ()


def settle(root: Path, chain: str, on_step: OnStep | None = None) -> tuple[LiveChain | None, tuple[Diagnostic, ...]]:
    """What runs of a chain, once no try is under way; and what to tell about that. For whoever has the lock.

    Raises `LoadFailed` (A140) while somebody guards a try. One whose guard was killed is taken back; one that was kept
    by somebody who was killed over it, or failed, is ended.
    """
    pins = chain_pins(root, chain)
    read_trial(pins)  # what cannot be read is refused
    live = read(root, chain)
    told: tuple[Diagnostic, ...] = ()
    if live and live.trial:
        if is_guarded(pins):
            raise under_way(live, live.trial)
        go_back(root, live, on_step)
        told = (_went_back(live, live.trial),)
        live = read(root, chain)
    elif live and live.recorded and live.recorded.kept:
        return live, _end_kept(live, pins, on_step, BY_HAND)  # the next one may not know the tried generation any more
    forget_trial(pins)
    return live, told


def under_way(live: LiveChain, trial: Trial) -> LoadFailed:
    """The refusal (A140) to change what is being tried."""
    instead = f"instead of {trial.back}" if trial.back is not None else "where nothing ran before"
    message = (
        f"chain `{live.chain}` is being tried: generation {trial.number} {instead}, "
        f"for another {trial.seconds_left:.0f} s"
    )
    ways_on = f"`bpfchain confirm {live.chain}` keeps it, `bpfchain abort {live.chain}` goes back"
    return LoadFailed(Diagnostic("A140", message, help=ways_on))


def _went_back(live: LiveChain, trial: Trial) -> Diagnostic:
    to = f"to generation {trial.back}" if trial.back is not None else "to nothing"
    message = f"a try of chain `{live.chain}` was never confirmed, and its guard was killed: went back {to} first"
    return Diagnostic("A145", message, severity=Severity.WARNING)


def _tried(root: Path, chain: str | None) -> str:
    """The chain that is meant: the only one that is being tried, where none is named."""
    if chain is not None:
        return chain
    names = [name for name in chains(root) if (trial := read_trial(chain_pins(root, name))) and not trial.kept]
    if len(names) == 1:
        return names[0]
    message = "several chains are being tried" if names else "nothing is being tried here"
    notes = (f"chains that are: {', '.join(f'`{name}`' for name in names)}",) if names else ()
    raise LoadFailed(Diagnostic("A141", message, notes=notes, help="name the chain that is meant" if names else ""))


def _require_trial(root: Path, chain: str) -> LiveChain:
    live = read(root, chain)
    if live is None:
        raise not_running(chain, root)
    read_trial(chain_pins(root, chain))  # what cannot be read is no answer
    if live.trial is None:
        raise LoadFailed(Diagnostic("A141", f"chain `{chain}` is not being tried"))
    return live


def cannot_be_undone(plan: Plan, replaced: Collection[Replace] = ()) -> Iterator[str]:
    """What going back from a plan does not bring back: for people, before it is carried out."""
    if plan.running is None:
        yield "nothing runs under this name yet: going back takes the chain off its devices"
    for found in plan.taken:
        if found.interrupts and (found.point.device, found.occupant.prog_id) in replaced:
            yield f"{found.title} on {found.point.device}: traffic is interrupted now, and when going back"
            if found.occupant.holder is Holder.XDP_LINK:
                yield f"{found.title} on {found.point.device}: its link is detached for good, it comes back by netlink"
    for change in plan.changes:
        name = f"{change.kind} {change.name}"
        if change.effect is Effect.INTERRUPTS:
            yield f"{name} ({', '.join(change.reasons)}): traffic is interrupted now, and when going back"
        if change.state is Fate.LOST:
            yield f"{name}: what was learned is lost once it is confirmed; what is learned from now on, when going back"
        if change.state is Fate.MIGRATED:
            yield f"{name}: what is learned from now on is lost when going back"
