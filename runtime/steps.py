"""Steps in, all of them done or all of them undone out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from schemas.diagnostic import ChainError, Diagnostic, LoadFailed, Severity
from schemas.stopwatch import Stopwatch


class Step(Struct, frozen=True):
    """One thing to do, and how to take it back. `undo` finds everything as `do` left it, or was interrupted.

    `undo` returns what there is to tell where things are not quite as before. One that `clears` away what later steps
    build on is left out where one of these could not be taken back: it may be in use, and mending starts from it.
    `stage` is what the time that it takes is counted as.
    """

    title: str
    do: Callable[[], object]
    undo: Callable[[], Diagnostic | None] | None = None
    clears: bool = False
    stage: str = ""


OnStep = Callable[[Step], None]
"""Called before each step: for progress, and for tests that fail there."""


def staged(stage: str, steps: Iterable[Step]) -> Iterator[Step]:
    """The same steps as parts of a stage."""
    return (replace(step, stage=stage) for step in steps)


def timed(watch: Stopwatch, on_step: OnStep | None) -> OnStep:
    """Tells the watch of stages, and `on_step` of steps."""

    def hear(step: Step) -> None:
        watch.enter(step.stage)
        if on_step:
            on_step(step)

    return hear


def carry_out(steps: Sequence[Step], on_step: OnStep | None = None) -> None:
    """Does every step, or takes back what was done, last first, and raises what stopped it.

    What the system refuses becomes `LoadFailed` (A108) that names the step; if taking back fails too, that is told with
    it and the rest is taken back all the same, as far as that clears nothing away.
    """
    begun: list[Step] = []
    try:
        for step in steps:
            if on_step:
                on_step(step)
            begun.append(step)
            step.do()
    except BaseException as error:
        problems = _take_back(begun)
        if isinstance(error, OSError):
            raise LoadFailed(_refused(begun[-1] if begun else None, error), *problems) from error
        if isinstance(error, ChainError):
            error.diagnostics = (*error.diagnostics, *problems)
        raise


NEXT_TIME = "the next apply or detach goes on with it"
BY_HAND = "take it off by hand: the chain's program comes before it"
GONE = "take it off by hand, if it is not to be there"
"""What to do about programs of others that could not be taken off."""


def tidy_up(
    steps: Iterable[Step],
    on_step: OnStep | None = None,
    *,
    done: str = "the chain runs",
    ways_on: str = NEXT_TIME,
) -> tuple[Diagnostic, ...]:
    """Does what is left to do where all that matters is `done`: what fails ends it, and is a warning (A114)."""
    title = "look what is left over"
    try:
        for step in steps:
            title = step.title
            if on_step:
                on_step(step)
            step.do()
    except (OSError, ChainError) as error:
        message = f"{done}, but tidying up is not done: `{title}` failed: {error}"
        return (Diagnostic("A114", message, severity=Severity.WARNING, help=ways_on),)
    return ()


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """What the system refuses in the block becomes `LoadFailed` (A108)."""
    try:
        yield
    except OSError as error:
        raise LoadFailed(Diagnostic("A108", f"cannot {what}: {error}")) from error


def _take_back(begun: Sequence[Step]) -> list[Diagnostic]:
    told: list[Diagnostic] = []
    failed = False
    for step in reversed(begun):
        if step.undo is None or (failed and step.clears):
            continue
        try:
            notice = step.undo()
        except (OSError, ChainError) as error:
            failed = True
            help_text = "the next apply or detach finds what is left, and mends it"
            told.append(Diagnostic("A108", f"cannot take back `{step.title}`: {error}", help=help_text))
        else:
            told += [notice] if notice else []
    return told


def _refused(step: Step | None, error: OSError) -> Diagnostic:
    return Diagnostic("A108", f"`{step.title if step else 'the first step'}` failed: {error}")
