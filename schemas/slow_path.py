"""What lies in a chain's ring buffer: a record before each packet that goes up, as compiler/bpf/slow_path.h has it."""

from __future__ import annotations

import struct

RECORD = struct.Struct("<QIIHHHH")
"""struct slow_path_record: time_ns, length, note, then indices of service and port, the reason, and the hook."""

FRAME_BYTES = 9600
"""Of a longer frame only so many bytes are sent."""

SLOW_PATH_REASON_LIMIT = 256
"""Reasons are numbers below this."""

FATES = ("sent up", "refused: rate", "refused: ring full")
"""enum slow_path_fate, as people read it."""
