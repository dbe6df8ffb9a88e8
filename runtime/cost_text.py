"""A `Cost` in, the text that people read out."""

from __future__ import annotations

from collections.abc import Iterator

from .cost import Cost, headroom
from .text import size, table


def cost_text(found: Cost) -> str:
    """Programs, maps, the longest way, and how much of each limit is used."""
    lines = [f"chain {found.chain}", "", *_programs(found), "", *_maps(found), "", *_path(found), "", *_limits(found)]
    if found.left_out:
        lines += ["", f"left out (stack, machine code, memory, what the verifier does): {found.left_out}"]
    return "\n".join(lines) + "\n"


def _programs(found: Cost) -> Iterator[str]:
    rows = [["program", "hook", "instructions", "verified", "stack", "machine code"]]
    for program in found.programs:
        loaded = program.loaded
        told = (f"{loaded.verified_instructions:,}", f"{loaded.stack} B", size(loaded.jited)) if loaded else ("-",) * 3
        rows.append([program.name, program.hook, f"{program.instructions:,}", *told])
    yield from table(rows, right={2, 3, 4, 5})


def _maps(found: Cost) -> Iterator[str]:
    rows = [["map", "type", "entries", "content", "memory"]]
    for each in found.maps:
        memory = "-" if each.memory is None else size(each.memory)
        name = each.type.removeprefix("BPF_MAP_TYPE_").lower()
        rows.append([each.name, name, f"{each.entries:,}", size(each.content), memory])
    known = [each.memory for each in found.maps if each.memory is not None]
    total = size(sum(known)) if len(known) == len(found.maps) else "-"
    rows.append(["all maps", "", "", size(sum(each.content for each in found.maps)), total])
    yield from table(rows, right={2, 3, 4})


def _path(found: Cost) -> Iterator[str]:
    calls = "1 tail call" if found.tail_calls == 1 else f"{found.tail_calls} tail calls"
    yield f"longest path, {calls}: {' → '.join(found.path)}"


def _limits(found: Cost) -> Iterator[str]:
    rows = [["most used of a limit", "used", "limit", "", "by"]]
    for limit in headroom(found):
        share = f"{limit.used / limit.limit:.1%}"
        rows.append([limit.what, f"{limit.used:,}", f"{limit.limit:,}", share, limit.by])
    yield from table(rows, right={1, 2, 3})
