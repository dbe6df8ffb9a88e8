"""A BPF ring buffer in, its records out: read from memory that the kernel shares, without a system call.

The kernel maps the data twice in a row, so that no record is ever broken at the end (kernel/bpf/ringbuf.c). The
position up to which all is read moves once a batch: moving it for each record would cost most of the time.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from types import TracebackType

from . import sys
from .info import map_info

_HEADER = struct.Struct("<II")  # struct bpf_ringbuf_hdr: length and two flags, page offset
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_LENGTH = _DISCARDED - 1
_ALIGN = 8


class RingBuffer:
    """The one reader of a ring buffer. Where records lie is told by offsets into `data`, which `read` hands out."""

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
        self._data = memoryview(self._producer_pages)[page:]

    def fileno(self) -> int:
        """Readable when a program has woken its reader up, and there is something to read."""
        return self._fd.fileno()

    @property
    def pending(self) -> int:
        """Bytes that are waiting, records that are still being written included."""
        return self._producer[0] - self._consumer[0]

    def read(self, limit: int) -> Iterator[memoryview]:
        """Up to `limit` records, oldest first, as views that hold until the next call or the end of the iteration.

        Their room is free for programs once all of them have been taken, or the iterator is closed.
        """
        position, end, mask = self._consumer[0], self._producer[0], self.size - 1
        data, unpack = self._data, _HEADER.unpack_from
        try:
            while limit and position < end:
                start = position & mask
                word, _ = unpack(data, start)
                if word & _BUSY:
                    break
                length = word & _LENGTH
                position += (length + _HEADER.size + _ALIGN - 1) & -_ALIGN
                if not word & _DISCARDED:
                    limit -= 1
                    yield data[start + _HEADER.size : start + _HEADER.size + length]
        finally:
            self._consumer[0] = position

    def close(self) -> None:
        for view in (self._consumer, self._producer, self._data):
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
