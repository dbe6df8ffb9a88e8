"""A compiled chain in, what it costs out: instructions, stack, maps, tail calls, and how far the kernel's limits are.

What the object files say needs no privilege. What only the kernel can tell (how many instructions its verifier goes
through, the stack, machine code, memory of maps) is had by loading the programs, attached to nothing, and letting go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, to_builtins

from schemas.compiled import CompiledChain
from schemas.diagnostic import LoadFailed
from schemas.manifest import HostFact, Manifest, MapRecord

from . import features, sys
from .devices import Device, find_device
from .generation import Generation, load_programs, make_maps, object_spec
from .host import host_facts, look
from .info import prog_info
from .uapi import MapType

VERIFIED_INSTRUCTIONS_LIMIT = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
INSTRUCTIONS_LIMIT = 1_000_000  # the same for a program's length, where CAP_BPF loads it
STACK_LIMIT = 512  # bytes: MAX_BPF_STACK
TAIL_CALLS_LIMIT = 33  # MAX_TAIL_CALL_CNT

_INDEXED = ("ARRAY", "DEVMAP")
"""Ends of the names of map types that keep no keys."""

_STACK_DEPTH = re.compile(r"^stack depth (\d+(?:\+\d+)*)", re.MULTILINE)


class Loaded(Struct, frozen=True):
    """What the kernel says of a program that it has loaded; sizes in bytes.

    `stack` is the deepest way through the program's functions, as far as the verifier tells it.
    """

    verified_instructions: int
    stack: int
    jited: int


class ProgramCost(Struct, frozen=True):
    """One program; `loaded` is None where it could not be loaded."""

    name: str
    service: str | None
    port: str | None
    hook: str
    instructions: int
    loaded: Loaded | None


class MapCost(Struct, frozen=True):
    """One map: `content` is what its keys and values take when it is full, `memory` what the kernel charges for it now.

    Both in bytes, values for each CPU counted as often as there are CPUs.
    """

    name: str
    type: str
    entries: int
    content: int
    memory: int | None


class Cost(Struct, frozen=True):
    """A chain's cost. `path` is a longest way from an interface through programs, one tail call to each but the first.

    `left_out` says why there is nothing that only the kernel can tell; empty where there is.
    """

    chain: str
    programs: tuple[ProgramCost, ...]
    maps: tuple[MapCost, ...]
    path: tuple[str, ...]
    left_out: str

    @property
    def tail_calls(self) -> int:
        return max(0, len(self.path) - 1)

    def __str__(self) -> str:
        from .cost_text import cost_text

        return cost_text(self)


class Headroom(Struct, frozen=True):
    """How much of one of the kernel's limits is used, by the program (or the way) that uses most of it."""

    what: str
    used: int
    limit: int
    by: str


def cost(chain: CompiledChain) -> Cost:
    """What a chain costs on this host. Raises `LoadFailed`, `VerifierRejected` where it would not load here."""
    manifest = chain.manifest
    missing = features.missing_privileges()
    loaded, memory = ({}, {}) if missing else _load(chain)
    lengths = _lengths(chain)
    return Cost(
        chain=manifest.chain,
        programs=tuple(
            ProgramCost(p.name, p.service, p.port, str(p.hook), lengths[p.name], loaded.get(p.name))
            for p in manifest.programs
        ),
        maps=tuple(_map_cost(record, memory.get(record.name)) for record in manifest.maps),
        path=longest_path(manifest),
        left_out=f"loading programs needs the privilege {', '.join(missing)}" if missing else "",
    )


def headroom(found: Cost) -> tuple[Headroom, ...]:
    """The limits that every program and every way must keep; those that nothing is known of are left out."""
    return tuple(limit for limit in _limits(found) if limit)


def _limits(found: Cost) -> Iterator[Headroom | None]:
    loaded = {program.name: program.loaded for program in found.programs if program.loaded}
    yield _most("instructions", {program.name: program.instructions for program in found.programs}, INSTRUCTIONS_LIMIT)
    verified = {name: program.verified_instructions for name, program in loaded.items()}
    yield _most("instructions that the verifier goes through", verified, VERIFIED_INSTRUCTIONS_LIMIT)
    yield _most("bytes of stack", {name: program.stack for name, program in loaded.items()}, STACK_LIMIT)
    yield _most("tail calls in a row", {" → ".join(found.path): found.tail_calls}, TAIL_CALLS_LIMIT)


def _most(what: str, used: Mapping[str, int], limit: int) -> Headroom | None:
    if not used:
        return None
    by = max(used, key=lambda name: used[name])
    return Headroom(what, used[by], limit, by)


def cost_data(found: Cost) -> dict[str, Any]:
    """Plain data for programs; `null` is what is left out."""
    return {
        "format": 1,
        "chain": found.chain,
        "programs": [to_builtins(program) for program in found.programs],
        "maps": [to_builtins(each) for each in found.maps],
        "longest_path": list(found.path),
        "tail_calls": found.tail_calls,
        "headroom": [to_builtins(limit) for limit in headroom(found)],
        "left_out": found.left_out,
    }


def longest_path(manifest: Manifest) -> tuple[str, ...]:
    """Programs that a packet can pass at most; no longer than the kernel follows, where ways lead in circles."""
    ways: dict[str, tuple[str, ...]] = {name: (name,) for name in _entries(manifest)}
    longest: tuple[str, ...] = ()
    for _ in range(TAIL_CALLS_LIMIT + 1):
        if not ways:
            break
        longest = next(iter(ways.values()))
        ways = {target: (*way, target) for name, way in ways.items() for target in _next(manifest, name)}
    return longest


def _entries(manifest: Manifest) -> Iterator[str]:
    """Where packets come in: interfaces, the veths of flooded copies, egress programs."""
    yield from (attached.program for attached in manifest.attach)
    yield from (link.program for link in manifest.internal_links)
    yield from (program.name for program in manifest.programs if program.egress)


def _next(manifest: Manifest, name: str) -> Iterator[str]:
    """The programs that one can call: those that the other ports of its service lead to."""
    program = next(found for found in manifest.programs if found.name == name)
    if program.egress:
        return
    for edge in manifest.edges:
        kind, _, target = edge.target.partition(" ")
        if kind == "program" and edge.service == program.service and edge.port != program.port:
            yield target


def _lengths(chain: CompiledChain) -> dict[str, int]:
    """Instructions of each program with all functions that it calls, as compiled."""
    lengths = {}
    for record in chain.manifest.objects:
        spec = object_spec(chain.manifest, record, chain.objects[record.file])
        functions = {program.name: program for program in spec.programs}
        for program in chain.manifest.programs:
            if program.object == record.file and program.function in functions:
                lengths[program.name] = len(functions[program.function].insns) // 8
    return lengths


def _map_cost(record: MapRecord, memory: int | None) -> MapCost:
    number = MapType[record.type]
    if number == MapType.BPF_MAP_TYPE_RINGBUF:
        content = record.max_entries
    else:
        key = 0 if record.type.endswith(_INDEXED) else record.key_size
        content = record.max_entries * (key + sys.user_value_size(number, record.value_size))
    return MapCost(record.name, record.type, record.max_entries, content, memory)


def _load(chain: CompiledChain) -> tuple[dict[str, Loaded], dict[str, int]]:
    """What the kernel says of every program and of every map's memory; nothing stays loaded."""
    manifest = chain.manifest
    logs: dict[str, str] = {}
    with Generation(manifest, _facts(manifest), devices={}) as generation:
        make_maps(generation, None)
        load_programs(generation, chain.objects, on_verified=logs.__setitem__)
        memory = {name: _charged(fd) for name, fd in generation.maps.items()}
        loaded = {
            program.name: _loaded(generation.programs[program.name], logs[program.function])
            for program in manifest.programs
        }
    return loaded, memory


def _facts(manifest: Manifest) -> dict[str, bytes]:
    """The host's. Devices need not be there yet: another number makes an instruction some bytes shorter or longer."""
    unknown = {symbol.symbol: b"\1" * (6 if symbol.fact is HostFact.MAC else 4) for symbol in manifest.host_symbols}
    return {**unknown, **host_facts(manifest, look(manifest, _device))}


def _device(device: str, netns: str | None) -> Device | None:
    """One that is out of reach (to enter a network namespace takes CAP_SYS_ADMIN) is as good as not there yet."""
    try:
        return find_device(device, netns)
    except LoadFailed:
        return None


def _loaded(program: sys.Fd, log: str) -> Loaded:
    found = prog_info(program)
    depth = _STACK_DEPTH.search(log)
    stack = sum(int(function) for function in depth[1].split("+")) if depth else 0
    return Loaded(found.verified_insns, stack, found.jited_size)


def _charged(map_fd: sys.Fd) -> int:
    """Bytes that the kernel charges for a map (`memlock` of its fdinfo: bpf_map_memory_usage, 6.4)."""
    with open(f"/proc/self/fdinfo/{map_fd.fileno()}", encoding="ascii") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return int(fields["memlock"])
