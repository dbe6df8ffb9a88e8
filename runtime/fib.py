"""Tables of schemas/fib in maps of the kernel: the map's memory as words, and how to wait for those who read it."""

from __future__ import annotations

import functools
import mmap
from typing import Literal

from . import sys
from .info import map_info
from .uapi import MapType

_ZERO = bytes(4)


def words_of(map_fd: sys.AnyFd, kind: Literal["I", "Q"]) -> memoryview:
    """The one value of an array with BPF_F_MMAPABLE, in its place: what is written here, programs see at once.

    `kind` is the format of a word. The memory stays for as long as the view does.
    """
    number = map_fd if isinstance(map_fd, int) else map_fd.fileno()
    size = map_info(map_fd).value_size
    words: memoryview = memoryview(mmap.mmap(number, size))[:size].cast(kind)
    return words


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
