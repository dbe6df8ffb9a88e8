"""The run-time side of the ddos service: rate buckets in a table of another size (compiler/services/ddos/ddos.bpf.h).

A set has four buckets of two words: the source, and when its next packet would come if it kept exactly to its rate.
`meaning` says how many sets there are: `ddos-sets/1 BITS`.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ..migrate import Entries, Exchange, Migration, Moved, Table

_MEANING = re.compile(r"ddos-sets/1 (\d+)")
_WAYS = 4
_SET = struct.Struct(f"<{2 * _WAYS}Q")
_BUCKET_SIZE = 16
_DUE_AT = 8
_HASH = 0x9E3779B97F4A7C15  # DDOS_SET_HASH
_TIME_SHIFT = 4  # DDOS_TIME_SHIFT
_LOW_64 = (1 << 64) - 1


def migration(old: Table, new: Table) -> Migration | None:
    """For other numbers of sets. Only buckets that are not full are worth a place: a full one is the same as none."""
    before, after = _MEANING.fullmatch(old.record.meaning), _MEANING.fullmatch(new.record.meaning)
    if not before or not after or (old.record.value_size, new.record.value_size) != (_SET.size, _SET.size):
        return None
    way = _Way(int(after[1]))
    return Migration(way.content, way.late)


@dataclass(frozen=True)
class _Way:
    """Into a table of 2^bits sets."""

    bits: int

    @cached_property
    def _now(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC) << _TIME_SHIFT

    def content(self, entries: Entries) -> Moved:
        sets: dict[int, list[tuple[int, int]]] = {}
        for source, due in sorted(self._buckets(entries), key=lambda bucket: bucket[1], reverse=True):
            sets.setdefault(self._set_of(source), []).append((source, due))
        full = {number: (buckets + [(0, 0)] * _WAYS)[:_WAYS] for number, buckets in sets.items()}
        packed = {
            number.to_bytes(4, "little"): _SET.pack(*(word for bucket in buckets for word in bucket))
            for number, buckets in full.items()
        }
        return Moved(packed, sum(max(0, len(buckets) - _WAYS) for buckets in sets.values()))

    def late(self, then: Entries, now: Entries, placed: Entries, exchange: Exchange) -> None:
        """What known sources have spent since. One that came up since begins with a full bucket."""
        spent = dict(self._buckets(now))
        for source, due in self._buckets(then):
            number = self._set_of(source)
            words = _SET.unpack(placed.get(number.to_bytes(4, "little"), bytes(_SET.size)))
            for way in range(_WAYS):
                if words[2 * way] == source and spent.get(source, due) != due:
                    exchange(number, way * _BUCKET_SIZE + _DUE_AT, words[2 * way + 1], spent[source])

    def _set_of(self, source: int) -> int:
        return (source ^ source >> 32) * _HASH % (_LOW_64 + 1) >> (64 - self.bits)

    def _buckets(self, entries: Entries) -> Iterator[tuple[int, int]]:
        """(source, due) of every bucket that is not full."""
        for content in entries.values():
            words = _SET.unpack(content)
            yield from ((source, due) for source, due in zip(words[::2], words[1::2], strict=True) if due > self._now)
