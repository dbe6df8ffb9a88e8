"""A router's tables, kept true to a kernel table in the daemon's loop."""

from __future__ import annotations

import asyncio
import time
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

_GATHER_SECONDS = 0.01
"""From one read of changes to the next, at least. To be woken for each of a burst, and to write blocks of the tables
that several are in again and again, would take longer than all the rest."""


@dataclass(slots=True)
class Following:
    """Begins at once, and goes on until it is closed."""

    context: Context
    followed: Followed
    netns: str | None
    table: int
    follower: Follower = field(init=False)
    loaded: bool = False
    _work: Timer = field(init=False)
    _unplaced: int = 0

    def __post_init__(self) -> None:
        self.follower = Follower(self.netns, self._take, self.table)
        self._work = self.context.spawn(self._follow())

    def close(self) -> None:
        self._work.cancel()
        self.follower.close()

    async def _follow(self) -> None:
        while True:
            await self._resync()
            await self._read_for(None)

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
                    enough = await self._read_for(patience)
                    patience = min(2 * patience, _LONGEST_PATIENCE_SECONDS)
                    if enough:
                        continue
            except Interrupted:
                self.context.log.warning("kernel-routes-do-not-hold-still", again_in=_PAUSE_SECONDS)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _read_for(self, seconds: float | None) -> bool:
        """Follows changes for a while (None: for ever), or until they do not tell enough: then False."""
        try:
            async with asyncio.timeout(seconds):
                while await self._read():
                    pass
        except TimeoutError:
            return True
        return False

    async def _read(self) -> bool:
        """Waits for changes, and takes some of them; False if they do not tell enough."""
        await self._readable()
        began = time.monotonic()
        whole = self.follower.read()
        if whole:
            await asyncio.sleep(max(0.0, began + _GATHER_SECONDS - time.monotonic()))
        return whole

    async def _readable(self) -> None:
        ready = asyncio.Event()
        # By its number: what is new to it asyncio describes to itself, and a follower has all routes to tell of.
        watch = self.context.watch(self.follower.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            watch.cancel()

    async def _load(self) -> None:
        """What is told of before is in the follower's table."""
        await in_steps(self.followed.load(self.follower.routes.items()))
        self.loaded = True
        self.context.log.info("kernel-routes-loaded", routes=len(self.follower.routes))
        self._report()

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
