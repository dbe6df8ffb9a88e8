"""Expiry beside a busy data plane: no entry is ever removed that a program has just refreshed."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from compiler.clang import FLAGS, find_clang
from compiler.emit import SHARED_HEADERS
from runtime import sys as kernel
from runtime.control_maps import ControlMap, Layout
from runtime.expiry import Expiry
from runtime.info import map_info
from runtime.load import create_maps, load_object
from runtime.object import read_object
from runtime.spec import MapSpec
from runtime.uapi import MapType
from schemas.manifest import Scope
from tests.rig.waiting import eventually, until
from tests.unit.manifests import MAP

pytestmark = [pytest.mark.kernel]

KEY = Layout.of("Key", "number:I")
ENTRY = Layout.of("Entry", "used_ns:Q life:Q")
WITNESS = Layout.of("Witness", "used_ns:Q")
IDLE_NS = 500_000
LIVES = 1 << 20
SECONDS = 4.0


@dataclass(slots=True)
class DataPlane:
    """A program that refreshes and makes entries all the while, on a CPU of its own if there is one."""

    entries: ControlMap
    condemned: ControlMap
    witness: ControlMap

    def is_old(self, _key: Any, entry: Any) -> bool:
        return bool(time.monotonic_ns() - entry.used_ns > IDLE_NS)

    def wronged(self, removed: list[tuple[Any, Any]]) -> int:
        """How many of these entries the program has refreshed later than we believed when they were removed."""
        return sum(self.witness[KEY(entry.life % LIVES)].used_ns != entry.used_ns for _, entry in removed)


def control_map(spec: MapSpec, fd: kernel.Fd, value: Layout | None) -> ControlMap:
    record = replace(
        MAP,
        name=spec.name,
        type=MapType(spec.type).name,
        key_size=spec.key_size,
        value_size=spec.value_size,
        max_entries=map_info(fd).max_entries,
        scope=Scope.CHAIN,
        service=None,
    )
    return ControlMap(fd.duplicate(), record, KEY, value)


@contextmanager
def data_plane() -> Iterator[DataPlane]:
    source = Path(__file__).parent / "bpf" / "refresh.c"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        output = Path(folder, "unit.o")
        command = [*find_clang().command, *FLAGS, f"-I{SHARED_HEADERS}", "-c", str(source), "-o", str(output)]
        subprocess.run(command, check=True)
        spec = read_object(output.read_bytes())
        maps = {name: stack.enter_context(fd) for name, fd in create_maps(spec).items()}
        program = stack.enter_context(load_object(spec, maps=maps)).programs["busy"]
        specs = {found.name: found for found in spec.maps}
        opened = {
            name: control_map(specs[name], maps[name], layout)
            for name, layout in (("entries", ENTRY), ("condemned", None), ("witness", WITNESS))
        }
        for each in opened.values():
            stack.callback(each.close)
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                kernel.prog_test_run(program, bytes(60), repeat=20_000)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield DataPlane(**opened)
        finally:
            over.set()
            thread.join()


def test_what_is_read_as_old_and_then_deleted_may_be_in_use_again() -> None:
    """The race is there: the plain way wrongs entries, the sooner the later it goes on, and the witness sees it."""
    with data_plane() as plane:

        def wrongs() -> int:
            old = [(key, entry) for key, entry in plane.entries.items() if plane.is_old(key, entry)]
            time.sleep(IDLE_NS * 1e-9)
            plane.entries.delete_many(key for key, _ in old)
            return plane.wronged(old)

        until(wrongs)


def test_nothing_is_removed_that_was_just_refreshed() -> None:
    removed = wronged = 0

    async def expire(plane: DataPlane) -> None:
        nonlocal removed, wronged
        expiry = Expiry(plane.entries, plane.condemned)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or not removed:
            gone = await expiry.expire(plane.is_old)
            removed += len(gone)
            wronged += plane.wronged(gone)

    with data_plane() as plane:
        asyncio.run(expire(plane))
        assert list(plane.condemned.items()) == []
    assert removed > 20
    assert wronged == 0


def test_a_dead_process_sentences_lapse() -> None:
    """Whoever died after it condemned: its sentences are taken back by the next one, and end by themselves."""
    with data_plane() as plane:
        past = (time.monotonic_ns() - 1).to_bytes(8, "little")
        plane.condemned.set_many((KEY(number), past) for number in range(64))
        eventually(lambda: len(list(plane.entries.items())), 64)
        Expiry(plane.entries, plane.condemned)
        assert list(plane.condemned.items()) == []
