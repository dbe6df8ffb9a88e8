"""A chain's ring buffer in, the packets that its services sent up out (schemas/slow_path.py)."""

from __future__ import annotations

from typing import NamedTuple

from schemas.slow_path import RECORD

from .ringbuf import RingBuffer


class Upcall(NamedTuple):
    """A packet that was sent up. `service` and `port` are indices in the manifest of the generation that sent it.

    `time_ns` is the coarse monotonic clock, `length` that of the frame on the wire, which is longer than `frame` where
    it was cut; `hook` is 0 for XDP, 1 for TC. The outer VLAN tag is in the frame, whatever the hook.
    """

    time_ns: int
    length: int
    note: int
    service: int
    port: int
    reason: int
    hook: int
    frame: bytes


def read_upcalls(ring: RingBuffer, limit: int) -> list[Upcall]:
    """Up to `limit` packets, oldest first."""
    return [Upcall._make((*fields, frame)) for fields, frame in ring.read(limit, RECORD)]
