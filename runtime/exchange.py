"""An array map in, the power to change single words of it from user space out, by compare-and-swap as programs do it.

A bpf(2) update writes a whole value over whatever programs have put there since it was read. This changes one aligned
word of it, and only if that is still what it was.
"""

from __future__ import annotations

import struct
from types import TracebackType

from . import sys
from .instructions import with_fd
from .uapi import ProgType

WORD_SIZE = 8
_REQUEST = struct.Struct("<IIQQ")  # the frame of a test run: element, byte offset of the word, expected, desired
_DONE, _OTHER, _NOWHERE = range(3)


def _insn(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | destination, offset, immediate)


def _program(last_word: int) -> bytes:
    """One exchange, at byte `last_word` of a value at most; the map's descriptor is still to be written into it."""
    return b"".join(
        (
            _insn(0x61, 7, 1, 76),  # r7 = skb->data
            _insn(0x61, 8, 1, 80),  # r8 = skb->data_end
            _insn(0xB7, 0, immediate=_NOWHERE),
            _insn(0xBF, 2, 7),
            _insn(0x07, 2, immediate=_REQUEST.size),
            _insn(0x2D, 2, 8, offset=20),  # if (r2 > r8) out
            _insn(0x61, 3, 7, 0),
            _insn(0x63, 10, 3, -4),  # the element's index
            _insn(0x18, 1, 1),  # r1 = the map
            _insn(0),
            _insn(0xBF, 2, 10),
            _insn(0x07, 2, immediate=-4),
            _insn(0x85, immediate=1),  # r0 = bpf_map_lookup_elem(r1, r2)
            _insn(0xBF, 9, 0),
            _insn(0xB7, 0, immediate=_NOWHERE),
            _insn(0x15, 9, offset=10),  # if (!r9) out
            _insn(0x61, 2, 7, 4),
            _insn(0x57, 2, immediate=~(WORD_SIZE - 1) & 0x7FFFFFFF),
            _insn(0x25, 2, offset=7, immediate=last_word),  # if (r2 > last_word) out
            _insn(0x0F, 9, 2),
            _insn(0x79, 0, 7, 8),  # r0 = expected
            _insn(0xBF, 8, 0),
            _insn(0x79, 3, 7, 16),  # r3 = desired
            _insn(0xDB, 9, 3, immediate=0xF1),  # r0 = cmpxchg(r9, r0, r3)
            _insn(0x1D, 0, 8, offset=2),  # if (r0 == r8) goto done
            _insn(0xB7, 0, immediate=_OTHER),
            _insn(0x95),
            _insn(0xB7, 0, immediate=_DONE),
            _insn(0x95),
        )
    )


class WordExchange:
    """Exchanges words of one array map; a context manager, because it holds a program."""

    _MAP_INSN = 8

    def __init__(self, map_fd: sys.AnyFd, value_size: int) -> None:
        insns = bytearray(_program(value_size - WORD_SIZE))
        with_fd(insns, self._MAP_INSN, map_fd if isinstance(map_fd, int) else map_fd.fileno())
        self._last_word = value_size - WORD_SIZE
        self._fd = sys.prog_load(
            ProgType.BPF_PROG_TYPE_SCHED_CLS, bytes(insns), license="GPL", prog_name="bpfchain_exchange"
        )

    def __enter__(self) -> WordExchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fd.close()

    def __call__(self, element: int, offset: int, expected: int, desired: int) -> bool:
        """Puts `desired` in the place of `expected`; False, and nothing is changed, where the word is another one.

        `offset` in bytes, a multiple of 8. Raises `IndexError` where the map has no such word.
        """
        misplaced = offset % WORD_SIZE or not 0 <= offset <= self._last_word
        request = b"" if misplaced else _REQUEST.pack(element, offset, expected, desired)
        answer = _NOWHERE if misplaced else sys.prog_test_run(self._fd, request).retval
        if answer == _NOWHERE:
            raise IndexError(f"no word at byte {offset} of element {element}")
        return answer == _DONE
