"""Entries that have grown old in, the same entries gone out, but none that a program has refreshed meanwhile.

What user space reads as old may be in use again before it deletes it. So it deletes in three steps. It *condemns*: from
then on, programs neither refresh these entries nor make them anew (compiler/bpf/expiry.h). It *waits* until every
program that had begun before is through. It *looks again*: what was refreshed until then is pardoned, the rest removed.
Sentences lapse after a while, so that an entry is not lost to programs for ever if this process dies in between.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import link
from .control_maps import ControlMap

SENTENCE_NS = 5 * 10**9
MARGIN_NS = 10**9
"""So long before the sentences lapse nothing is removed any more."""


class Expiry:
    """Removes old entries of one map. All keys and values are as `entries` gives them."""

    def __init__(self, entries: ControlMap, condemned: ControlMap) -> None:
        """`condemned` is the map that compiler/expiry.py makes; what an earlier process has left in it is pardoned."""
        self._entries = entries
        self._condemned = condemned
        self._at_once = condemned.record.max_entries
        self._pardon(key for key, _ in condemned.items())

    async def expire(self, is_old: Callable[[Any, Any], bool]) -> list[tuple[Any, Any]]:
        """Removes every entry for which `is_old(key, value)`; gives those that are gone, with their last values.

        A value that is another one after the wait, whatever has changed in it, is asked about again.
        """
        removed: list[tuple[Any, Any]] = []
        old = [key for key, value in self._entries.items() if is_old(key, value)]
        for keys in _batches(old, self._at_once):
            removed += await self._expire(keys, is_old)
        return removed

    async def _expire(self, keys: list[Any], is_old: Callable[[Any, Any], bool]) -> list[tuple[Any, Any]]:
        until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + SENTENCE_NS
        sentence = until.to_bytes(8, "little")
        self._condemned.set_many((key, sentence) for key in keys)
        try:
            await asyncio.to_thread(link.settle)
            found = [(key, self._entries.get(key)) for key in keys]
            removed = [(key, value) for key, value in found if value is not None and is_old(key, value)]
            if time.clock_gettime_ns(time.CLOCK_MONOTONIC) > until - MARGIN_NS:
                return []  # this machine is so busy that the sentences may lapse: next time, then
            self._entries.delete_many(key for key, _ in removed)
        finally:
            self._pardon(keys)
        return removed

    def _pardon(self, keys: Iterable[Any]) -> None:
        self._condemned.delete_many(list(keys))


def _batches(keys: list[Any], size: int) -> Iterator[list[Any]]:
    left = iter(keys)
    while batch := list(itertools.islice(left, size)):
        yield batch
