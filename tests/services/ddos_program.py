"""A ddos service compiled, loaded and run on single frames; its verdict is read from its counters."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from compiler.build import build
from runtime import sys as kernel
from runtime.load import create_maps, load_object
from runtime.object import read_object
from schemas.counters import CounterLayout
from schemas.manifest import Hook, MapRecord

XDP_DROP, XDP_PASS, TC_ACT_OK, TC_ACT_SHOT = 1, 2, 0, 2
LAYOUT = CounterLayout(2)
SMALLEST = 14  # bytes: what BPF_PROG_TEST_RUN takes


class DdosProgram:
    """The program of one port; `config` is what the chain file has under the service's name, without its kind."""

    def __init__(self, config: Mapping[str, Any], hook: Hook, folder: Path, port: str = "outside") -> None:
        other = "inside" if port == "outside" else "outside"
        chain = {
            "chain": "table",
            "mode": "tc" if hook is Hook.TC else "native",
            "interfaces": {"wan": {"device": "eth0"}},
            "services": {"guard": {"kind": "ddos", **config}},
            "links": [["wan", f"guard.{port}"], [f"guard.{other}", "host"]],
        }
        file = folder / f"table-{port}-{hook}.yaml"
        file.write_text(yaml.safe_dump(chain, sort_keys=False))
        compiled = build(file)
        self.manifest = compiled.manifest
        self.reasons = dict(self.manifest.services[0].drop_reasons)
        self._row = ("outside", "inside").index(port)
        self._out = other
        self._skb = hook is Hook.TC
        self._passed, self._dropped = (TC_ACT_OK, TC_ACT_SHOT) if hook is Hook.TC else (XDP_PASS, XDP_DROP)
        with ExitStack() as stack:
            spec = read_object(compiled.programs[0].elf)
            self.maps = {name: stack.enter_context(fd) for name, fd in create_maps(spec).items()}
            for record in self.manifest.maps:
                self._fill(record)
            loaded = stack.enter_context(load_object(spec, maps=self.maps))
            (self._program,) = loaded.programs.values()
            self._open = stack.pop_all()

    def __enter__(self) -> DdosProgram:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()

    def _fill(self, record: MapRecord) -> None:
        for entry in record.entries:
            if entry.value:
                kernel.map_update_elem(self.maps[record.name], entry.key, entry.value)

    def receive(self, frame: bytes) -> str:
        """The verdict on one frame: the port that it left by, or `drop REASON`; fails unless it is counted once."""
        before = self.counters()
        returned = kernel.prog_test_run(self._program, frame)
        changed = {name: count for name, count in self.counters().items() if count != before.get(name)}
        assert len(changed) == 1, f"counted {changed}, was {before}"
        ((verdict, (packets, size)),) = changed.items()
        packets_before, size_before = before.get(verdict, (0, 0))
        assert (packets - packets_before, size - size_before) == (1, len(frame))
        assert returned.data[: len(frame)] == frame, "the frame was changed"
        assert returned.retval == (self._dropped if verdict.startswith("drop") else self._passed)
        return verdict

    def takes(self, frame: bytes) -> bool:
        """Whether BPF_PROG_TEST_RUN runs it: it makes no skb of less than an untagged frame's own IP header."""
        least = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 15)
        return not self._skb or len(frame) >= least

    def run(self, frame: bytes, times: int) -> float:
        """Runs it again and again, which takes so many seconds; what came of it is in the counters."""
        return kernel.prog_test_run(self._program, frame, repeat=times).duration_ns * times / 1e9

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by verdict, those that are not zero."""
        row = _over_cpus(self.element("guard__counters", self._row, LAYOUT.size), LAYOUT.size)
        pairs = {index: row[2 * index : 2 * index + 2] for index in range(LAYOUT.entries)}
        names = {LAYOUT.drop(number): f"drop {name}" for number, name in self.reasons.items()}
        names[("outside", "inside").index(self._out)] = self._out
        unknown = [index for index, pair in pairs.items() if any(pair) and index not in names]
        assert not unknown, f"counted at {unknown}, which nobody knows"
        return {names[index]: (pair[0], pair[1]) for index, pair in pairs.items() if any(pair)}

    def blocked(self) -> dict[str, int]:
        """Packets by label of the entry that dropped them, from code and from tries, those that are not zero."""
        counts: dict[str, int] = {}
        for record in self.manifest.maps:
            if record.name == "guard__blocked":
                for entry in record.entries:
                    element = self.element(record.name, int.from_bytes(entry.key, "little"), 16)
                    counts[entry.path] = _over_cpus(element, 16)[0]
            elif record.type == "BPF_MAP_TYPE_LPM_TRIE":
                for entry in record.entries:
                    value = kernel.map_lookup_elem(self.maps[record.name], entry.key, 16)
                    assert value is not None
                    counts[entry.path] = struct.unpack("<QQ", value)[0]
        return {path: packets for path, packets in counts.items() if packets}

    def element(self, name: str, index: int, size: int) -> bytes:
        """An element of a per-CPU array, all CPUs one after the other."""
        content = kernel.map_lookup_elem(self.maps[name], index.to_bytes(4, "little"), size * kernel.possible_cpus())
        assert content is not None
        return content


def _over_cpus(content: bytes, size: int) -> list[int]:
    """Element-wise sums of u64 rows."""
    rows = [struct.unpack(f"<{size // 8}Q", content[at : at + size]) for at in range(0, len(content), size)]
    return [sum(column) for column in zip(*rows, strict=True)]
