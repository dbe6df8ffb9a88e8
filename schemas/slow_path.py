"""What lies in a chain's ring buffer: a record before each packet that goes up, as compiler/bpf/slow_path.h has it."""

from __future__ import annotations

import struct

RECORD = struct.Struct("<QIIHHHH")
"""struct slow_path_record: time_ns, length, note, then indices of service and port, the reason, and the hook."""

FRAME_BYTES = 9600
"""Of a longer frame only so many bytes are sent."""

SLOW_PATH_REASON_LIMIT = 256
"""Reasons are numbers below this."""

LABEL = struct.Struct("<II")
"""struct inject_label (compiler/bpf/inject.h) of a frame that goes down: magic, slot of the port's program."""

LABEL_MAGIC = 0x62706664
LABEL_HEADER = struct.Struct("<8s4xH")
"""At XDP the label is in an Ethernet header before the frame, at TC it is behind the frame: LABEL_ETHERTYPE is last."""

LABEL_ETHERTYPE = 0xB588  # 0x88b5 on the wire: for local experiments (IEEE 802 9.2.3)

INJECT_LINK = "inject."
"""How names of internal links begin that control planes send frames into."""

FATES = ("sent up", "refused: rate", "refused: ring full")
"""enum slow_path_fate, as people read it."""
