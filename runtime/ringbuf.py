"""A BPF ring buffer in, its records out: read from memory that the kernel shares, without a system call.

The kernel maps the data twice in a row, so that no record is ever broken at the end (kernel/bpf/ringbuf.c). The
position up to which all is read moves once a batch: moving it for each record would cost most of the time.
"""

from __future__ import annotations

import mmap
import struct
from types import TracebackType
from typing import Any

from . import sys
from .info import map_info

_HEADER = struct.Struct("<II")  # struct bpf_ringbuf_hdr: length and two flags, page offset
_WORD = 4
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_LENGTH = _DISCARDED - 1
_ALIGN = 8


class RingBuffer:
    """The one reader of a ring buffer."""

    def __init__(self, fd: sys.Fd) -> None:
        """Takes `fd` over."""
        self._fd = fd
        self.size = map_info(fd).max_entries
        page = mmap.PAGESIZE
        # A descriptor of bpf(2) has no size of its own; `mmap` asks only regular files for theirs.
        self._consumer_page = mmap.mmap(fd.fileno(), page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_pages = mmap.mmap(
            fd.fileno(), page + 2 * self.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._consumer = memoryview(self._consumer_page).cast("Q")
        self._producer = memoryview(self._producer_pages).cast("Q")
        self._words = memoryview(self._producer_pages).cast("I")

    def fileno(self) -> int:
        """Readable when a program has woken its reader up, and there is something to read."""
        return self._fd.fileno()

    @property
    def pending(self) -> int:
        """Bytes that are waiting, records that are still being written included."""
        return self._producer[0] - self._consumer[0]

    def read(self, limit: int, head: struct.Struct) -> list[tuple[tuple[Any, ...], bytes]]:
        """Up to `limit` records, oldest first: the fields of `head` that each begins with, and the bytes behind them.

        Their room is free for programs when this returns. On one CPU a record costs a quarter of a microsecond.
        """
        position, end, mask = self._consumer[0], self._producer[0], self.size - 1
        pages, words, unpack, first = self._producer_pages, self._words, head.unpack_from, mmap.PAGESIZE
        before, size = _HEADER.size, _HEADER.size + head.size
        records: list[tuple[tuple[Any, ...], bytes]] = []
        append = records.append
        while position < end and len(records) < limit:
            start = first + (position & mask)
            length = words[start // _WORD]
            if length < _DISCARDED:
                append((unpack(pages, start + before), pages[start + size : start + before + length]))
            elif length & _BUSY:
                break
            position += ((length & _LENGTH) + before + _ALIGN - 1) & -_ALIGN
        self._consumer[0] = position
        return records

    def close(self) -> None:
        for view in (self._consumer, self._producer, self._words):
            view.release()
        self._consumer_page.close()
        self._producer_pages.close()
        self._fd.close()

    def __enter__(self) -> RingBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
