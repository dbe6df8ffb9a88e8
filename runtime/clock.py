"""The kernel's own clocks as programs read them; user space has no other way to jiffies."""

from __future__ import annotations

import struct

from . import sys
from .features import HELPERS
from .uapi import ProgType

_HIGH, _LOW = 32, 0


def jiffies64() -> int:
    """What bpf_jiffies64() says now. Raises `SyscallFailed` where the kernel has no such helper (before 5.6)."""
    with _program(_HIGH) as high, _program(_LOW) as low:
        while True:  # a test run answers 32 bits: both halves, from the same time
            before = _ask(high)
            below = _ask(low)
            if _ask(high) == before:
                return before << 32 | below


def _program(shift: int) -> sys.Fd:
    """Returns jiffies without their lowest `shift` bits."""
    call = struct.pack("<BBhi", 0x85, 0, 0, HELPERS["bpf_jiffies64"])
    shift_right = struct.pack("<BBhi", 0x77, 0, 0, shift)
    leave = struct.pack("<BBhi", 0x95, 0, 0, 0)
    return sys.prog_load(ProgType.BPF_PROG_TYPE_SCHED_CLS, call + shift_right + leave, license="GPL")


def _ask(program: sys.Fd) -> int:
    return sys.prog_test_run(program, bytes(14)).retval
