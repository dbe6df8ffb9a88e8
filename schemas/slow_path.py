"""What lies in a chain's ring buffer: a record before each packet that goes up, as compiler/bpf/slow_path.h has it."""

from __future__ import annotations

import struct

RECORD = struct.Struct("<QIIHHHH")
"""struct slow_path_record: time_ns, length, note, then indices of service and port, the reason, and the hook."""

FRAME_BYTES = 9600
"""Of a longer frame only so many bytes are sent."""

SLOW_PATH_REASON_LIMIT = 256
"""Reasons are numbers below this."""

TRAILER = struct.Struct("<II")
"""struct inject_trailer (compiler/bpf/inject.h), behind a frame that goes down: magic, slot of the port's program."""

TRAILER_MAGIC = 0x62706664

INJECT_LINK = "inject."
"""How names of internal links begin that control planes send frames into."""

FATES = ("sent up", "refused: rate", "refused: ring full")
"""enum slow_path_fate, as people read it."""
