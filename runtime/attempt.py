"""An order in, a chain that is being tried out: for programs, what `bpfchain try` is for people."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType

from msgspec import Struct, field

from schemas.diagnostic import LoadFailed
from schemas.render import render

from .attend import in_its_place
from .guard import End, Order, Outcome
from .guard_process import Guard, its_end, set_guard
from .trying import Decided, abort, confirm

_POLL_SECONDS = 0.2


class Attempt(Struct):
    """A chain that runs for now. As a context it goes back at the end of the block, unless it was confirmed in it.

    A process of its own guards it, which also goes back when the time is over, whatever became of the one that tries.
    `said` is what it has told people, warnings included; `outcome` how it ended, None until that is known.
    """

    order: Order
    guard: Guard
    said: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    def confirm(self) -> None:
        """Keeps the chain. Raises `LoadFailed` (A141) where it was taken back already."""
        self._decide(confirm)

    def abort(self) -> None:
        """Goes back now. Raises `LoadFailed` (A141) where it is over already."""
        self._decide(abort)

    def wait(self) -> Outcome:
        """Until it is over: decided from elsewhere or by the required command, or taken back for want of that."""
        while self.outcome is None:
            self._listen()
        return self.outcome

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.outcome is None:
            with contextlib.suppress(LoadFailed):  # the guard goes on with what stands in the way, and says how it ends
                abort(self._chain, bpffs=self.order.bpffs)
            self.wait()

    @property
    def _chain(self) -> str:
        return self.order.chain.manifest.chain

    def _decide(self, decision: Callable[..., Decided]) -> None:
        if self.outcome and self.outcome.end is End.NOTHING:
            return
        decided = decision(self._chain, bpffs=self.order.bpffs)
        self.said += [render([warning], {}).rstrip() for warning in decided.warnings]
        self.wait()

    def begin(self) -> None:
        """Until the chain runs, or it is known that it will not. Raises what keeps it from that."""
        try:
            while self.outcome is None and not self._listen():
                pass
        except BaseException:
            self.guard.process.terminate()  # it goes back then, if it had begun
            self.guard.wait()
            raise

    def _listen(self) -> bool:
        """Hears what the guard says, for a moment: whether that is that the chain runs."""
        try:
            for message in self.guard.messages(_POLL_SECONDS):
                self.said += [message["text"]] if "text" in message else []
                self.outcome = its_end(message)
                if "begun" in message:
                    return True
        except EOFError:
            self.outcome = in_its_place(self.guard, self._chain, self.order.bpffs)
        if self.outcome:
            self.guard.wait()
        return False


def attempt(order: Order) -> Attempt:
    """Tries a chain: returns once it runs, or with an outcome. Raises `ChainError` where it cannot be applied."""
    found = Attempt(order, set_guard(order))
    found.begin()
    return found
