"""A router's tables, kept true to a kernel table in the daemon's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..control import Context, Timer
from ..kernel_routes import Follower
from ..rtnetlink import Interrupted, Path, Prefix
from .followed import Followed

_PAUSE_SECONDS = 0.5
"""Before the table is dumped again because it changed while it was."""

_LONGEST_PATIENCE_SECONDS = 8.0
"""Likewise, at most, where changes are followed meanwhile, and only a route that has not changed may be missing."""


@dataclass(slots=True)
class Following:
    """Begins at once, and goes on until it is closed."""

    context: Context
    followed: Followed
    netns: str | None
    table: int
    follower: Follower = field(init=False)
    loaded: bool = False
    _work: Timer | None = None
    _unplaced: int = 0

    def __post_init__(self) -> None:
        self.follower = Follower(self.netns, self._take, self.table)
        self._work = self.context.spawn(self._resync())

    def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
        self.follower.close()

    async def _resync(self) -> None:
        """Reads the table until nothing meanwhile asks for more."""
        patience = _PAUSE_SECONDS
        while True:
            try:
                await in_steps(self.follower.resync())
                if not self.loaded:
                    await self._load()
                if self.follower.whole:
                    break
                if self.follower.has_gaps:
                    await self._read_for(patience)
                    patience = min(2 * patience, _LONGEST_PATIENCE_SECONDS)
                    continue
            except Interrupted:
                self.context.log.warning("kernel-routes-do-not-hold-still", again_in=_PAUSE_SECONDS)
            await asyncio.sleep(_PAUSE_SECONDS)
        self._work = self.context.watch(self.follower, self._read)

    async def _read_for(self, seconds: float) -> None:
        """Follows changes for a while, or until they do not tell enough."""
        trouble = asyncio.Event()

        def read() -> None:
            if not self.follower.read():
                watch.cancel()
                trouble.set()

        watch = self.context.watch(self.follower, read)
        try:
            await asyncio.wait_for(trouble.wait(), seconds)
            await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            pass
        finally:
            watch.cancel()

    async def _load(self) -> None:
        """What is told of before is in the follower's table."""
        await in_steps(self.followed.load(self.follower.routes.items()))
        self.loaded = True
        self.context.log.info("kernel-routes-loaded", routes=len(self.follower.routes))
        self._report()

    def _read(self) -> None:
        if not self.follower.read():
            if self._work is not None:
                self._work.cancel()
            self._work = self.context.spawn(self._resync())

    def _take(self, routes: Mapping[Prefix, Path | None]) -> None:
        if self.loaded:
            self.followed.update(routes)
            self._report()

    def _report(self) -> None:
        """Says once when routes begin to be without a place, and when all have one again."""
        unplaced = self.followed.without_room
        if bool(unplaced) != bool(self._unplaced):
            event = "kernel-routes-do-not-fit" if unplaced else "kernel-routes-fit-again"
            self.context.log.warning(event, behind=unplaced)
        self._unplaced = unplaced


async def in_steps(work: Iterator[None]) -> None:
    """Does all of it, while everything else in the loop goes on."""
    for _ in work:
        await asyncio.sleep(0)
