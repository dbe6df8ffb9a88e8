"""Tables of schemas/fib in maps of the kernel: how to wait for those who read them."""

from __future__ import annotations

import functools

from . import sys
from .uapi import MapType

_ZERO = bytes(4)


def grace_period() -> None:
    """Returns when every program that was running has ended.

    A change of a map of maps does that before it returns (maybe_wait_bpf_programs(), kernel commit 1ae80cf31938, 5.0):
    programs run under RCU, and it waits for a grace period. membarrier(2) would do too, except on a kernel with CPUs
    that have no tick.
    """
    array = functools.partial(sys.map_create, key_size=4, value_size=4, max_entries=1)
    with (
        array(MapType.BPF_MAP_TYPE_ARRAY) as inner,
        array(MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS, inner_map_fd=inner) as outer,
    ):
        sys.map_update_elem(outer, _ZERO, inner.fileno().to_bytes(4, "little"))
