"""A guard at work in, its outcome out: what a terminal shows meanwhile, and what is answered there."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from schemas.diagnostic import LoadFailed
from schemas.render import render

from .guard import End, Outcome, Tell
from .guard_process import Guard, its_end
from .lock import OnWait
from .trying import Decided, abort, confirm

_POLL_SECONDS = 0.2
_YES = {"", "y", "yes"}
_NOTHING_TRIED = {"A109", "A141"}


class Attendant(Struct):
    """Whoever looks on while `chain` is tried. Questions are asked of standard input, if `ask`, once there is a try."""

    guard: Guard
    chain: str
    bpffs: Path | None
    tell: Tell
    ask: bool
    on_wait: OnWait
    begun: bool = False

    def attend(self) -> Outcome:
        """Until the guard ends; Ctrl-C goes back. Raises what the guard could not do; if it is killed, goes back."""
        try:
            while True:
                try:
                    outcome = self._look()
                    if outcome:
                        return outcome
                    self._answer()
                except KeyboardInterrupt:
                    self._decide(abort)
        except EOFError:
            return in_its_place(self.guard, self.chain, self.bpffs, self.on_wait)
        finally:
            self.guard.wait()

    def _look(self) -> Outcome | None:
        for message in self.guard.messages(_POLL_SECONDS):
            if "text" in message:
                self.tell(message["text"])
            elif "waits" in message:
                self.on_wait()
            elif "begun" in message:
                self.begun = True
                self.tell(self._invitation(message["begun"]))
            else:
                return its_end(message)
        return None

    def _invitation(self, seconds: int) -> str:
        here = "Enter keeps it, n goes back" if self.ask else f"`bpfchain confirm {self.chain}` keeps it"
        return f"chain {self.chain}: goes back in {seconds} s; {here}"

    def _answer(self) -> None:
        if self.ask and self.begun and select.select([sys.stdin], [], [], 0)[0]:
            answer = sys.stdin.readline()
            if answer:  # an empty one is the end of the terminal
                self._decide(confirm if answer.strip().lower() in _YES else abort)

    def _decide(self, decision: Callable[..., Decided]) -> None:
        """Too late is no error: how it ended is what the guard says."""
        try:
            for warning in decision(self.chain, bpffs=self.bpffs, on_wait=self.on_wait).warnings:
                self.tell(render([warning], {}).rstrip())
        except LoadFailed as refusal:
            if not _is_nothing_tried(refusal):
                self.tell(render(refusal.diagnostics, {}).rstrip())
            elif not self.begun:
                self.guard.process.terminate()  # too early: it goes back as soon as there is something to go back from


def in_its_place(guard: Guard, chain: str, bpffs: str | Path | None, on_wait: OnWait | None = None) -> Outcome:
    """Does what a guard that has gone without a word would have done: goes back, if it had begun."""
    try:
        abort(chain, bpffs=bpffs, on_wait=on_wait)
    except LoadFailed as refusal:
        if _is_nothing_tried(refusal):
            return Outcome(End.NOT_BEGUN, guard.why_silent)
        raise
    return Outcome(End.TAKEN_BACK, guard.why_silent)


def _is_nothing_tried(refusal: LoadFailed) -> bool:
    return {found.code for found in refusal.diagnostics} <= _NOTHING_TRIED
