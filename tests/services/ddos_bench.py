"""A ddos service on the bench, asked for more than a verdict: the counters of entries, and many packets at once."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.build import build
from runtime import sys as kernel
from runtime.netns import entered
from schemas.manifest import Hook, MapRecord
from tests.services.harness import SERVICE, Bench

PORTS = ("outside", "inside")
SMALLEST = 14  # bytes: what BPF_PROG_TEST_RUN takes
COUNTER_SIZE = 16


class DdosBench(Bench):
    """`config` is what the chain file has under the service's name, without its kind."""

    def __init__(self, config: Mapping[str, Any], hook: Hook, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__({"kind": "ddos", **config}, PORTS, hook, folder)
        self.manifest = build(folder / f"chain-{hook}.yaml").manifest

    def __enter__(self) -> DdosBench:
        return self

    def verdict(self, frame: bytes, port: str = "outside") -> str:
        """The verdict on one frame, which fails if the frame was changed."""
        outcome = self.receive(port, frame)
        assert outcome.frame[: len(frame)] == frame
        return outcome.verdict

    def takes(self, frame: bytes) -> bool:
        """Whether BPF_PROG_TEST_RUN runs it: it makes no skb of less than an untagged frame's own IP header."""
        least = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 15)
        return self.hook is Hook.XDP or len(frame) >= least

    def run(self, frame: bytes, times: int) -> float:
        """Runs it again and again, which takes so many seconds; what came of it is in the counters."""
        program = self._generation.programs[self._programs["outside"]]
        with entered(self._namespace.name):
            return kernel.prog_test_run(program, frame, repeat=times).duration_ns * times / 1e9

    def packets(self, verdict: str) -> int:
        return self.counters("outside").get(verdict, (0, 0))[0]

    def blocked(self) -> dict[str, int]:
        """Packets by label of the entry that dropped them, from code and from tries; zeros are left out."""
        counts = {
            entry.path: self._packets(record, entry.key)
            for record in self.manifest.maps
            if record.name == f"{SERVICE}__blocked" or record.type == "BPF_MAP_TYPE_LPM_TRIE"
            for entry in record.entries
        }
        return {path: packets for path, packets in counts.items() if packets}

    def _packets(self, record: MapRecord, key: bytes) -> int:
        copies = kernel.possible_cpus() if "PERCPU" in record.type else 1
        content = kernel.map_lookup_elem(self._generation.maps[record.name], key, COUNTER_SIZE * copies)
        assert content is not None
        return sum(packets for packets, _ in struct.iter_unpack("<QQ", content))
